"""Limits on callers' requests. Source: Envoy, "Configuring Envoy as an edge proxy"."""

MAX_BODY_BYTES = 1_048_576
MAX_HEADERS_KIB = 96  # 784 numbers in a URL
MAX_HEADERS = 100
# HTTP/2 has no response for too many headers: Envoy resets the stream, INTERNAL to the caller. So
# a call reaches the limit in KiB first.
MAX_METADATA = 1000

HEADERS_TIMEOUT_S = 10
REQUEST_TIMEOUT_S = 30
CONTROL_PLANE_TIMEOUT_S = 5
