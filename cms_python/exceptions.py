# Generated from openapi.yaml. Edit templates/ and run `make generate`.
"""What the generated layer raises.

OpenApiException
└── ApiException                        any status without a class of its own, redirects too
    ├── BadRequestException             400
    ├── UnauthorizedException           401
    ├── ForbiddenException              403
    ├── NotFoundException               404
    ├── ConflictException               409
    ├── UnprocessableEntityException    422
    ├── TooManyRequestsException        429
    ├── ServiceException                5xx
    ├── InvalidResponseException        an answer that cannot be read
    └── TransportException              no whole answer; ``sent`` tells if the request may be there
        ├── ConnectionException         refused, reset, name not found, proxy
        ├── TimeoutException            the time was used up
        └── TlsException                no trusted connection
"""

from collections.abc import Mapping
from typing import Any, Optional


class OpenApiException(Exception):
    """Base of everything that this package raises for a request."""


class ApiException(OpenApiException):
    """A request without a good answer.

    ``status`` is 0 where none came, ``reason`` what stands beside it, or a sentence. ``headers``
    have lower-case names. ``body`` is what the server sent, ``data`` the same as JSON, or None.
    Neither is shown, nor pickled: they may repeat a customer.
    """

    def __init__(
        self,
        status: int = 0,
        reason: str = "",
        headers: Optional[Mapping[str, str]] = None,
        body: bytes = b"",
        data: Any = None,
    ) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.headers: Mapping[str, str] = headers or {}
        self.body = body
        self.data = data

    def __str__(self) -> str:
        return f"{self.status} {self.reason}".strip() if self.status else self.reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, self.reason)


class BadRequestException(ApiException):
    """The request could not be read."""


class UnauthorizedException(ApiException):
    """The token is missing, wrong or expired."""


class ForbiddenException(ApiException):
    """The token may not do this."""


class NotFoundException(ApiException):
    """What the request is about is not known."""


class ConflictException(ApiException):
    """It has been recorded before."""


class UnprocessableEntityException(ApiException):
    """The request was understood and refused."""


class TooManyRequestsException(ApiException):
    """The server asks to wait."""


class ServiceException(ApiException):
    """The server, or a gateway before it, failed."""


class InvalidResponseException(ApiException):
    """The answer cannot be read; the request may have been carried out."""


class TransportException(ApiException):
    """No whole answer came. ``sent`` tells whether the server may have the request."""

    def __init__(self, reason: str = "", sent: bool = True) -> None:
        super().__init__(0, reason)
        self.sent = sent

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.sent)


class ConnectionException(TransportException):
    """The connection was not made, or broke."""


class TimeoutException(TransportException):
    """The time given to the request was used up."""


class TlsException(TransportException):
    """The server could not be trusted, or did not speak TLS."""


_BY_STATUS: dict[int, type[ApiException]] = {
    400: BadRequestException,
    401: UnauthorizedException,
    403: ForbiddenException,
    404: NotFoundException,
    409: ConflictException,
    422: UnprocessableEntityException,
    429: TooManyRequestsException,
}


def exception_type(status: int) -> type[ApiException]:
    """The class of the exception for the HTTP ``status`` of a request that was refused."""
    return _BY_STATUS.get(status, ServiceException if status >= 500 else ApiException)
