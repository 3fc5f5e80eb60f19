"""Load on REST and gRPC alike, exact percentiles, the comparison."""
