"""The prediction API of Seldon Core (v1): models of one numeric input over REST and gRPC.

Source: https://docs.seldon.io/projects/seldon-core/en/latest/reference/apis/
"""
