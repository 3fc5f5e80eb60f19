"""The errors of the API, in the original's format.

Clients may depend on the ids. `status` is the HTTP status of a response; `legacy_status` is the
number that the original wrote into the body, which JSONP callers still see.
"""

from dataclasses import dataclass


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
UPSTREAM_FAILED = ApiError(13, "A generic error occurred: no model server responded", 503, 503)
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
BODY_TOO_LARGE = ApiError(44, "The request body exceeds the limit of 1048576 bytes", 413, 413)
HEADERS_TOO_LARGE = ApiError(
    44, "The request line and headers exceed the limit of 96 KiB", 431, 431
)
