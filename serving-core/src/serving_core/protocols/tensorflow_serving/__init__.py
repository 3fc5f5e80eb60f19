"""The API of TensorFlow Serving: any model over REST and gRPC.

Source: https://www.tensorflow.org/tfx/serving/api_rest and its .proto files.
"""
