"""The internal headers by which Envoy's filters, routes and the servers tell each other things.

What a caller sends under these names is removed before anything looks at it.
"""

# Set by the early header mutation and by the filters; "" where the request has none.
PATH = "x-seldon-path"
CONSUMER_KEY = "x-seldon-consumer-key"
CALLBACK = "x-seldon-callback"
SUBJECT = "x-seldon-subject"

# Set by the route for the model server.
CLIENT = "x-seldon-client"
VARIATION = "x-seldon-variation"

# Set on the model server's answer, for who measures where the time goes.
TIMING = "x-gateway-timing"

ALL = (PATH, CONSUMER_KEY, CALLBACK, SUBJECT, CLIENT, VARIATION)
# No business of a model server's. The others are kept: Envoy's answer needs them when it fails.
CREDENTIALS = (CONSUMER_KEY, SUBJECT, "oauth_token")
AUTHORIZATION = "authorization"

# What a JSONP callback may be made of, and its most characters. Apart, since a counted repetition
# exceeds the size that Envoy allows a regular expression.
CALLBACK_FORM = r"[A-Za-z0-9_.$]+"
CALLBACK_LENGTH = 128

JS_PREDICT = "/js/predict"
PREDICT = "/predict"
CLASSIFY = "/io.seldon.api.rpc.Seldon/Classify"
GRPC_SERVICE_PREFIX = "/io.seldon.api.rpc.Seldon/"
