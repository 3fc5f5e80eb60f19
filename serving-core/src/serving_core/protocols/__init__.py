"""The protocols, one folder each: bytes to a request, a response or an error to bytes.

Each module (`rest.py`, `grpc.py`) is a `Codec` of exchange.py: pure functions that know neither
sockets nor the batcher.
"""
