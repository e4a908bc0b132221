"""The dicts that come back from a call, and the one place that makes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, Optional, Union, final
from urllib.parse import urlsplit

from typing_extensions import TypedDict

from cms_python.api_response import ApiResponse
from cms_python.events import InvalidEvent
from cms_python.exceptions import (
    ApiException,
    InvalidResponseException,
    TimeoutException,
    TlsException,
    TransportException,
)
from cms_python.models import TrackResponse

__all__ = ["TrackFailure", "TrackResult", "TrackSuccess"]


@final
class TrackSuccess(TypedDict):
    """The event is recorded, or safely queued where the delivery is a queue.

    ``message`` is a sentence, the server's where it sends one. ``data`` is the server's ``data``
    as it came, None where it sends none.
    """

    success: Literal[True]
    message: str
    data: Any


@final
class TrackFailure(TypedDict):
    """The event is not known to be recorded.

    - ``error``: a sentence for a person, the server's own where it sends one.
    - ``status_code``: the HTTP status, 0 where no whole answer came, 422 for a call that was
      refused before anything was sent.
    - ``type``: the server's name for the error where it sends one, else one of ``bad_request
      unauthorized forbidden not_found conflict unprocessable_entity rate_limit_exceeded
      internal_server_error bad_gateway service_unavailable gateway_timeout``, or of
      ``validation_error connection_error timeout_error tls_error redirect invalid_response``.
    - ``details``: more about it; a dict by argument for ``validation_error``; else the server's.
    - ``retryable``: the same call may succeed later.
    - ``ambiguous``: the event may have been recorded all the same.
    - ``attempts``: how many requests were made.
    - ``idempotency_key``: what the event was sent under; give it again to send the same event
      again. None for a call that was refused before a key was made.
    - ``retry_after``: seconds that the server asks to wait first, None where it asks nothing.
    """

    success: Literal[False]
    error: str
    status_code: int
    type: str
    details: Any
    retryable: bool
    ambiguous: bool
    attempts: int
    idempotency_key: Optional[str]
    retry_after: Optional[float]


TrackResult = Union[TrackSuccess, TrackFailure]

_DEFAULT_MESSAGE = "Event tracked successfully"
_LONGEST_SENTENCE = 500
TYPES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    422: "unprocessable_entity",
    429: "rate_limit_exceeded",
    500: "internal_server_error",
    502: "bad_gateway",
    503: "service_unavailable",
    504: "gateway_timeout",
}


def success(message: str, data: Any = None) -> TrackSuccess:
    """A success with a sentence and the server's data."""
    return {"success": True, "message": message, "data": data}


def invalid(error: InvalidEvent, idempotency_key: Optional[str]) -> TrackFailure:
    """The failure for a call whose arguments were refused before anything was sent."""
    return {
        "success": False,
        "error": str(error),
        "status_code": 422,
        "type": "validation_error",
        "details": error.details,
        "retryable": False,
        "ambiguous": False,
        "attempts": 0,
        "idempotency_key": idempotency_key,
        "retry_after": None,
    }


def refusal(response: ApiResponse[TrackResponse]) -> Optional[ApiException]:
    """The refusal that a 2xx answer holds when its body denies the success; most often none."""
    content = response.content
    if _says_no(content.get("success")) or _says_no(content.get("status")):
        return ApiException(response.status_code, data=content)
    return None


def accepted(response: ApiResponse[TrackResponse]) -> TrackSuccess:
    """The success for a 2xx answer."""
    content = response.content
    return success(_text(content.get("message")) or _DEFAULT_MESSAGE, content.get("data"))


def failure(
    error: ApiException,
    *,
    attempts: int,
    idempotency_key: str,
    retryable: bool = False,
    ambiguous: bool = False,
    retry_after: Optional[float] = None,
    hidden: Sequence[str] = (),
) -> TrackFailure:
    """The failure for what the generated layer raised, cleared of what is ``hidden``."""
    content = _without(hidden, error.data) if isinstance(error.data, dict) else {}
    return {
        "success": False,
        "error": _server_sentence(content) or _own_sentence(error),
        "status_code": error.status,
        "type": _text(content.get("type")) or _type(error),
        "details": content.get("details"),
        "retryable": retryable,
        "ambiguous": ambiguous,
        "attempts": attempts,
        "idempotency_key": idempotency_key,
        "retry_after": retry_after,
    }


def _without(hidden: Sequence[str], value: Any) -> Any:
    """A server's JSON value without the values, in whatever case, that it may have repeated."""
    if isinstance(value, dict):
        return {_without(hidden, key): _without(hidden, each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without(hidden, each) for each in value]
    if isinstance(value, str):
        for each in hidden:
            value = re.sub(rf"(?<!\w){re.escape(each)}(?!\w)", "[hidden]", value, flags=re.I)
    return value


def _says_no(value: Any) -> bool:
    """Whether ``success`` or ``status`` denies the success that a 2xx stands for."""
    if isinstance(value, str):
        return value.strip().lower() in {"false", "error", "fail", "failed", "failure"}
    return value is False


def _text(value: Any) -> Optional[str]:
    """A server's sentence on one line of bounded length, or None where there is none."""
    if not isinstance(value, str):
        return None
    # A lone surrogate, which JSON can hold, could not be printed.
    value = value.encode(errors="replace").decode()
    return " ".join(value.split())[:_LONGEST_SENTENCE].rstrip() or None


def _server_sentence(content: dict[str, Any]) -> Optional[str]:
    error = content.get("error")
    nested = error.get("message") if isinstance(error, dict) else None
    return _text(error) or _text(nested) or _text(content.get("message"))


def _own_sentence(error: ApiException) -> str:
    if isinstance(error, (TransportException, InvalidResponseException)):
        return error.reason
    if 200 <= error.status < 300:
        return "The server refused the event."
    if 300 <= error.status < 400 and "location" in error.headers:
        return _redirect_sentence(error.headers["location"])
    phrase = TYPES.get(error.status, "").replace("_", " ").title()
    return f"The server answered {error.status} {phrase}".rstrip() + "."


def _redirect_sentence(location: str) -> str:
    try:
        target = urlsplit(location)
        address = f"{target.scheme}://{target.hostname}" + (
            f":{target.port}" if target.port else ""
        )
    except ValueError:
        return "The server redirects to an address that cannot be read."
    if not target.hostname:
        return "The server redirects to another path of its own: set host= to the API's address."
    return f"The server redirects to {address}: set host= to it if that is the API's address."


def _type(error: ApiException) -> str:
    if isinstance(error, TimeoutException):
        return "timeout_error"
    if isinstance(error, TlsException):
        return "tls_error"
    if isinstance(error, TransportException):
        return "connection_error"
    if isinstance(error, InvalidResponseException) or error.status < 200:
        return "invalid_response"
    if 300 <= error.status < 400:
        return "redirect"
    if error.status < 300:
        return "unprocessable_entity"
    return TYPES.get(error.status, "bad_request" if error.status < 500 else TYPES[500])
