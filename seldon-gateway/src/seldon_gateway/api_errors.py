"""The errors of the API, in the original's format.

Clients may depend on the ids. `status` is the HTTP status of a response; `legacy_status` is the
number that the original wrote into the body, which JSONP callers still see.
"""

from dataclasses import dataclass

from seldon_gateway import limits


@dataclass(frozen=True)
class ApiError:
    """One error that the API returns."""

    error_id: int
    message: str
    status: int
    legacy_status: int = 400

    def document(self, *, legacy: bool = False) -> dict[str, int | str]:
        """The error object, with today's status in it or the original's."""
        return {
            "error_id": self.error_id,
            "error_msg": self.message,
            "http_response": self.legacy_status if legacy else self.status,
        }


NOT_AUTHORIZED = ApiError(3, "Consumer not Authorized", 401)
KEY_UNKNOWN = ApiError(5, "Consumer key not recognized", 401)
SECRET_WRONG = ApiError(6, "Consumer secret not correct", 401)
TOKEN_UNKNOWN = ApiError(7, "Token value not recognized", 401)
TOKEN_EXPIRED = ApiError(8, "Token expired", 401)
METHOD_NOT_ALLOWED = ApiError(11, "Used Http Method is not supported for the required action", 405)
BAD_REQUEST = ApiError(13, "A generic error occurred: the request is malformed", 400)
HOST_MISSING = ApiError(13, "A generic error occurred: the Host header is missing", 400)
SEVERAL_TOKENS = ApiError(
    13,
    "A generic error occurred: the request has several access tokens, expected one in either "
    "Authorization or oauth_token",
    400,
)
UPSTREAM_FAILED = ApiError(13, "A generic error occurred: no model server responded", 503, 503)
CONTROL_PLANE_FAILED = ApiError(
    13, "A generic error occurred: the gateway's control plane did not respond", 503, 503
)
INTERNAL = ApiError(13, "A generic error occurred", 500, 500)
DATABASE_FAILED = ApiError(14, "Internal Error : Database problem", 503, 503)
TOKEN_MISSING = ApiError(
    15, "To access the requested resource a valid token must be specified", 401
)
KEY_MISSING = ApiError(16, "Please specify your consumer_key", 401)
SECRET_MISSING = ApiError(17, "Please specify your consumer_secret", 400)
NOT_FOUND = ApiError(21, "Requested resource not found", 404)
NO_STRATEGY = ApiError(
    37,
    "Invalid or Null Strategy. The default strategy or a per client strategy needs to be set "
    "correctly.",
    503,
    500,
)
DEADLINE_PASSED = ApiError(43, "The prediction exceeded its time limit", 504, 504)
CONTROL_PLANE_TOO_SLOW = ApiError(
    43,
    f"The gateway's control plane did not respond within {limits.CONTROL_PLANE_TIMEOUT_S} s",
    504,
    504,
)
HEADERS_TOO_SLOW = ApiError(
    43, f"The request headers were not received within {limits.HEADERS_TIMEOUT_S} s", 408, 408
)
REQUEST_TOO_SLOW = ApiError(
    43, f"The request was not received within {limits.REQUEST_TIMEOUT_S} s", 408, 408
)
BODY_TOO_LARGE = ApiError(
    44, f"The request body exceeds the limit of {limits.MAX_BODY_BYTES} bytes", 413, 413
)
HEADERS_TOO_LARGE = ApiError(
    44,
    f"The request line and headers exceed the limit of {limits.MAX_HEADERS_KIB} KiB",
    431,
    431,
)
TOO_MANY_HEADERS = ApiError(
    44, f"The request exceeds the limit of {limits.MAX_HEADERS} headers", 431, 431
)
