"""Which failure is worth another attempt, and when."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Optional

from cms_python.exceptions import (
    ApiException,
    InvalidResponseException,
    TlsException,
    TransportException,
)

__all__ = ["backoff", "is_retryable", "jittered", "may_have_arrived", "retry_after"]

FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 8.0
LONGEST_RETRY_AFTER = 24 * 60 * 60.0

_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")


def is_retryable(error: ApiException) -> bool:
    """Whether the same request, sent again, may succeed."""
    # A certificate that was refused is refused again.
    if isinstance(error, TlsException):
        return False
    # What answers there is not the API, or says what cannot be read: asking again may double.
    if isinstance(error, InvalidResponseException):
        return False
    # Refused, reset, timed out: the next connection may fare better.
    if isinstance(error, TransportException):
        return True
    # Too slow, too early, too often: the request itself is fine.
    if error.status in {408, 425, 429}:
        return True
    # The server or a gateway failed; 501 and 505 would stay as they are.
    return error.status in {500, 502, 503, 504}


def may_have_arrived(error: ApiException) -> bool:
    """Whether the request may have been carried out although it failed."""
    if isinstance(error, TransportException):
        return error.sent
    if isinstance(error, InvalidResponseException):
        return True
    # A gateway answers for a server that may have done its work, a server may fail after its own.
    return error.status >= 500


def backoff(attempts: int) -> float:
    """Seconds to wait after so many attempts of a call."""
    return jittered(attempts, FIRST_BACKOFF, LONGEST_BACKOFF)


def jittered(attempts: int, first: float, longest: float) -> float:
    """Seconds to wait after so many attempts: exponential, with full jitter, within two bounds."""
    most = min(longest, first * 2.0 ** min(attempts - 1, 10))
    return random.uniform(0.0, most)  # noqa: S311, nothing secret hangs on it


def retry_after(headers: Mapping[str, str]) -> Optional[float]:
    """Seconds that the server asks to wait, at most a day; None where it asks nothing readable."""
    value = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        seconds = float(value)
    else:
        until = _date(value)
        if until is None:
            return None
        # The server's own clock, where it shows it: ours may be off.
        now = _date(headers.get("date", "")) or datetime.now(timezone.utc)
        seconds = max((until - now).total_seconds(), 0.0)
    return min(seconds, LONGEST_RETRY_AFTER)


def _date(value: str) -> Optional[datetime]:
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=timezone.utc)
