"""Metric names, buckets, and the metrics that both servers report."""
