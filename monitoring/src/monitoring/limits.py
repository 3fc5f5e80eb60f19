"""The limits that alerts, dashboards and load test reports share."""

# The service level objective of predictions.
SLO_ERROR_RATIO = 0.001
SLO_P99_S = 0.05

# Requests that wait in one server's queue before it refuses more: its default limit.
QUEUE_LIMIT = 256

# A load generator above one of these distorts the latencies that it measures. CPU is of one core,
# all that a Python process can use.
GENERATOR_CPU = 0.85
DISPATCH_LAG_P99_S = 0.001
# A generator above LIGHT_CPU delays requests by its own work and is allowed more lag.
LIGHT_CPU = 0.5
DISPATCH_LAG_P99_LOADED_S = 0.005
