"""The dicts that come back from a call, and the one place that makes them."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any, Literal, Optional, Union, final
from urllib.parse import quote, urlsplit

from typing_extensions import TypedDict, TypeGuard

from cms_python.api_response import ApiResponse
from cms_python.events import InvalidEvent
from cms_python.exceptions import (
    ApiException,
    InvalidResponseException,
    TimeoutException,
    TlsException,
    TransportException,
    exception_type,
)
from cms_python.models import TrackResponse

__all__ = ["TrackFailure", "TrackResult", "TrackSuccess", "success"]


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
    """The event is not known to be recorded, unless the status is 409: it had been before.

    - ``error``: a sentence for a person, the server's own where it sends one.
    - ``status_code``: the HTTP status, or the one of an error that a 2xx states in its body; 0
      where no whole answer came, 422 for a call that was refused before anything was sent.
    - ``type``: the server's name for the error where it sends one, else one of ``bad_request
      unauthorized forbidden not_found conflict unprocessable_entity rate_limit_exceeded
      internal_server_error bad_gateway service_unavailable gateway_timeout``, or of
      ``validation_error connection_error timeout_error tls_error redirect invalid_response``, or
      ``outbox_error`` for a queue that cannot take the event.
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
# Bytes of an error's body beyond which it is not looked into.
_LARGEST_ERROR = 64 * 1024
_LONG = 8
_NO = {"false", "no", "error", "fail", "failed", "failure", "rejected", "denied", "invalid"}
OWN_TYPES = {
    "validation_error",
    "connection_error",
    "timeout_error",
    "tls_error",
    "redirect",
    "invalid_response",
    "outbox_error",
}
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
    """A success with a sentence and the server's data, for a delivery of your own to return.

    Example:
        >>> success("Event printed")
        {'success': True, 'message': 'Event printed', 'data': None}
    """
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


def not_queued(sentence: str, idempotency_key: str, *, attempts: int = 0) -> TrackFailure:
    """The failure for an event that a queue cannot take, or can keep no longer."""
    return {
        "success": False,
        "error": sentence,
        "status_code": 0,
        "type": "outbox_error",
        "details": None,
        "retryable": True,
        "ambiguous": attempts > 0,
        "attempts": attempts,
        "idempotency_key": idempotency_key,
        "retry_after": None,
    }


def refusal(response: ApiResponse[TrackResponse]) -> Optional[ApiException]:
    """The refusal that a 2xx answer holds when its body denies the success; most often none."""
    content = response.content
    success = content.get("success")
    denied = (
        _says_no(success)
        or (success is not None and not success)
        or _says_no(content.get("status"))
        or (success is not True and bool(content.get("error")))
        or _is_error_status(content.get("statusCode"))
    )
    if not denied:
        return None
    # Something on the way may have made a 200 of what the server meant as a 503.
    status = response.status_code
    for stated in (content.get("status"), content.get("statusCode")):
        if _is_error_status(stated) and stated < 600:
            status = stated
    kind = exception_type(status)
    return kind(status, headers=response.headers, body=response.raw_data, data=content)


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
    readable = isinstance(error.data, dict) and len(error.body) <= _LARGEST_ERROR
    pattern = _pattern(hidden)
    content = _without(pattern, error.data) if readable else {}
    kind = _text(content.get("type"))
    return {
        "success": False,
        "error": _server_sentence(content) or _without(pattern, _own_sentence(error)),
        "status_code": error.status,
        "type": kind if kind and kind not in OWN_TYPES else _type(error),
        "details": content.get("details"),
        "retryable": retryable,
        "ambiguous": ambiguous,
        "attempts": attempts,
        "idempotency_key": idempotency_key,
        "retry_after": retry_after,
    }


def _pattern(hidden: Sequence[str]) -> re.Pattern[str]:
    """Finds the values as they were sent, in other case or spacing, or escaped for URL or HTML."""
    forms = {form for each in hidden for form in (each, quote(each), html.escape(each))}
    found = []
    for form in sorted(forms, key=len, reverse=True):
        words = r"\s+".join(map(re.escape, form.split()))
        # A short name may well be a part of other words.
        found.append(words if len(words) >= _LONG else rf"(?<!\w){words}(?!\w)")
    return re.compile("|".join(found) or "(?!)", re.IGNORECASE)


def _without(pattern: re.Pattern[str], value: Any) -> Any:
    """A server's JSON value without what the pattern finds."""
    if isinstance(value, dict):
        return {_without(pattern, key): _without(pattern, each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without(pattern, each) for each in value]
    return pattern.sub("[hidden]", value) if isinstance(value, str) else value


def _is_error_status(value: Any) -> TypeGuard[int]:
    return type(value) is int and value >= 400


def _says_no(value: Any) -> bool:
    """Whether ``success`` or ``status`` denies the success that a 2xx stands for."""
    if isinstance(value, str):
        return value.strip().lower() in _NO
    return value is False or _is_error_status(value)


def _text(value: Any) -> Optional[str]:
    """A server's sentence on one line of bounded length, or None where there is none."""
    if not isinstance(value, str):
        return None
    # Neither a lone surrogate nor what steers a terminal, both of which JSON can hold.
    if not value.isprintable():
        value = "".join(each if each.isprintable() else " " for each in value)
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
        return _redirect_sentence(error.headers["location"])[:_LONGEST_SENTENCE]
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
