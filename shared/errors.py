"""Every error that is raised on purpose. One middleware renders the API ones; the worker settles the upstream ones.

RespoolError
├── ApiError                 becomes an HTTP answer with the API's error envelope
│   ├── InvalidRequest       400  invalid_request_error
│   ├── Unauthorized         401  invalid_request_error / invalid_api_key
│   ├── Forbidden            403  invalid_request_error
│   ├── NotFound             404  invalid_request_error
│   ├── TooSlow              408  invalid_request_error
│   ├── TooLarge             413  invalid_request_error
│   ├── UnsupportedMedia     415  invalid_request_error
│   ├── IdempotencyReused    422  invalid_request_error / idempotency_key_reused
│   ├── ServerError          500  server_error
│   ├── RateLimited          429  rate_limit_error / rate_limit_exceeded, with Retry-After
│   └── Overloaded           503  service_unavailable_error / server_is_overloaded, with Retry-After
│       ├── NewerRecord      503  a newer version of this server has written what was asked for
│       └── Leaving          503  this process ends before the response that its client waits for
├── UpstreamError            a backend failed; says how the response ends and whether another try may help
├── StoreUnavailable         Redis did not answer within its budget
└── ConfigError              start-up stops; lists every mistake
"""

from collections.abc import Sequence

from shared.wire.responses import ErrorBody, ErrorCode

NEWER_RETRY_AFTER_S = 2
LEAVING_RETRY_AFTER_S = 1


class RespoolError(Exception):
    """The root of the tree."""


class ApiError(RespoolError):
    """An answer with the error envelope. ``retry_after_s`` is whole seconds, 1 to 120.

    ``repeats_work``: a client that by itself sends the request again, as the official ones do after a 429 or 5xx, has the
    same work done twice; ``x-should-retry: false`` keeps it from that.
    """

    status = 500
    type = "server_error"
    code: str | None = None
    repeats_work = False

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.retry_after_s = retry_after_s

    def body(self) -> ErrorBody:
        return ErrorBody(self.message, type(self).type, self.param, self.code)


class InvalidRequest(ApiError):
    status = 400
    type = "invalid_request_error"


class Unauthorized(ApiError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(ApiError):
    status = 403
    type = "invalid_request_error"


class NotFound(ApiError):
    status = 404
    type = "invalid_request_error"


class TooSlow(ApiError):
    status = 408
    type = "invalid_request_error"


class TooLarge(ApiError):
    status = 413
    type = "invalid_request_error"


class UnsupportedMedia(ApiError):
    status = 415
    type = "invalid_request_error"


class IdempotencyReused(ApiError):
    status = 422
    type = "invalid_request_error"
    code = "idempotency_key_reused"


class ServerError(ApiError):
    """What the client asked for was right, and was done, and failed all the same."""

    code = "server_error"
    repeats_work = True


class RateLimited(ApiError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class Overloaded(ApiError):
    status = 503
    type = "service_unavailable_error"
    code = "server_is_overloaded"


class NewerRecord(Overloaded):
    """A stored record has a higher version than this process knows, as in the midst of an update: another one will answer."""

    def __init__(self) -> None:
        message = "This was stored by a newer version of this server. Please retry: another process can read it."
        super().__init__(message, retry_after_s=NEWER_RETRY_AFTER_S)


class Leaving(Overloaded):
    """The process stops before a foreground response has ended. What is stored goes on without it; the same
    request only finds it when it is *keyed* (has an Idempotency-Key)."""

    def __init__(self, response_id: str, *, stored: bool, keyed: bool = False) -> None:
        what = f"This server is shutting down, and response '{response_id}' has not ended yet."
        how = (
            f"It goes on, here after a restart or elsewhere: poll GET /v1/responses/{response_id} for its answer. "
            "Sending the request again would run it twice, unless it has an Idempotency-Key."
            if stored
            else "It is not stored, so it cannot be polled. Please send the request again."
        )
        self.repeats_work = stored and not keyed
        super().__init__(f"{what} {how}", retry_after_s=LEAVING_RETRY_AFTER_S)


class UpstreamError(RespoolError):
    """A backend failed.

    ``code`` and ``message`` become the Response's error (never a key or an address in them); ``retryable`` allows
    another try while nothing was shown; ``retry_after_s`` is what the backend asked for, if it did. ``elsewhere``:
    another backend may do better, as it always may where ``retryable`` is set. ``busy``: nobody was asked, for all are at
    their limits.
    """

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode = "server_error",
        retryable: bool = False,
        retry_after_s: float | None = None,
        max_tries: int = 3,
        elsewhere: bool = False,
        busy: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code: ErrorCode = code
        self.retryable = retryable
        self.elsewhere = elsewhere or retryable
        self.busy = busy
        self.retry_after_s = retry_after_s
        self.max_tries = max_tries


class StoreUnavailable(RespoolError):
    """Redis did not answer, or refused to write. ``full`` when it refused for want of memory."""

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class ConfigError(RespoolError):
    """The configuration cannot be used. ``problems`` has one line for each mistake, with its path."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)
