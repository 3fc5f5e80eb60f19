"""The gRPC server: Seldon/Classify, health, reflection, metrics."""
