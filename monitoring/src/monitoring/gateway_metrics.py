"""Names of the Envoy metrics that rules and dashboards query; their times are in milliseconds."""

PREFIX = "envoy_http_conn_manager_prefix"  # of a listener: "rest" or "grpc", as in `protocol`
CLUSTER = "envoy_cluster_name"
CODE_CLASS = "envoy_response_code_class"

DOWNSTREAM_REQUESTS = "envoy_http_downstream_rq_xx"
DOWNSTREAM_IN_FLIGHT = "envoy_http_downstream_rq_active"
DOWNSTREAM_CONNECTIONS = "envoy_http_downstream_cx_active"
DOWNSTREAM_DURATION = "envoy_http_downstream_rq_time"

UPSTREAM_REQUESTS = "envoy_cluster_upstream_rq_total"
UPSTREAM_DURATION = "envoy_cluster_upstream_rq_time"
UPSTREAM_RETRIES = "envoy_cluster_upstream_rq_retry"
UPSTREAM_TIMEOUTS = "envoy_cluster_upstream_rq_timeout"
UPSTREAM_OVERFLOWS = "envoy_cluster_upstream_rq_pending_overflow"

MEMORY = "envoy_server_memory_allocated"
