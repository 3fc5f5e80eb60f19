"""Internal headers between Envoy's filters, its routes and the model servers.

Envoy removes them from callers' requests before any filter or route reads them.
"""

# Set by the early header mutation and by the filters; "" where the request has none.
PATH = "x-seldon-path"
CONSUMER_KEY = "x-seldon-consumer-key"
CALLBACK = "x-seldon-callback"
SUBJECT = "x-seldon-subject"

# Set by the route for the model server.
CLIENT = "x-seldon-client"
VARIATION = "x-seldon-variation"
# Names of all the client's variations, where there are several: a call's model is one of them.
MODELS = "x-seldon-models"

# Set on the model server's response: gateway and upstream time, for load tests.
TIMING = "x-gateway-timing"

ALL = (PATH, CONSUMER_KEY, CALLBACK, SUBJECT, CLIENT, VARIATION, MODELS)
# Not sent to model servers. The others are kept: local replies need them.
OAUTH_TOKEN = "oauth_token"  # noqa: S105 - a name
CREDENTIALS = (CONSUMER_KEY, SUBJECT, OAUTH_TOKEN)
AUTHORIZATION = "authorization"

# Characters and greatest length of a JSONP callback. Separate, since a counted repetition exceeds
# Envoy's size limit of a regular expression.
CALLBACK_FORM = r"[A-Za-z0-9_.$]+"
CALLBACK_LENGTH = 128
