"""The Open Inference Protocol (V2): any model over REST and gRPC.

Source: https://github.com/kserve/open-inference-protocol, with the binary tensor data extension of
https://github.com/triton-inference-server/server.
"""
