"""The names of Envoy's own statistics that rules and dashboards ask for.

Envoy makes these names; its times are whole milliseconds.
"""

PREFIX = "envoy_http_conn_manager_prefix"  # of a listener: "rest" or "grpc", like `protocol` here
CLUSTER = "envoy_cluster_name"
CODE_CLASS = "envoy_response_code_class"

CALLERS_REQUESTS = "envoy_http_downstream_rq_xx"
CALLERS_CONNECTIONS = "envoy_http_downstream_cx_active"
CALLERS_TIME = "envoy_http_downstream_rq_time"

SERVERS_REQUESTS = "envoy_cluster_upstream_rq_total"
SERVERS_TIME = "envoy_cluster_upstream_rq_time"
SERVERS_TRIED_AGAIN = "envoy_cluster_upstream_rq_retry"
SERVERS_TIMED_OUT = "envoy_cluster_upstream_rq_timeout"
SERVERS_OVERFLOW = "envoy_cluster_upstream_rq_pending_overflow"

MEMORY = "envoy_server_memory_allocated"
