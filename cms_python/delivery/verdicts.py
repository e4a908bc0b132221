"""What a queue does with an event after an attempt to deliver it."""

from __future__ import annotations

import random
from typing import Literal

from cms_python.results import TrackFailure

__all__ = ["Verdict", "backoff", "verdict"]

Verdict = Literal["delivered", "again", "pause", "dead"]

FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 300.0
# A click may be known to one of the API's machines before the others.
MOST_NOT_FOUND = 5


def verdict(failure: TrackFailure, not_found: int) -> Verdict:
    """The verdict on a failure; ``not_found`` counts the event's answers of 404, this one included.

    A success is always ``delivered``. What is to come ``again`` does so until it is too old.
    """
    status = failure["status_code"]
    # It had been recorded before.
    if status == 409:
        return "delivered"
    # The token, the host or the proxy is wrong, not the event: no other event would fare better.
    if status in {401, 403, 407} or 300 <= status < 400:
        return "pause"
    # The network, the server, or something between: another time.
    if failure["retryable"] or status == 0 or status >= 500:
        return "again"
    # A 2xx that cannot be read may come from something between as well.
    if failure["type"] == "invalid_response":
        return "again"
    if status == 404 and not_found < MOST_NOT_FOUND:
        return "again"
    return "dead"


def backoff(attempts: int) -> float:
    """Seconds to wait after so many attempts: from 1 to 300, exponential, with full jitter."""
    longest = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(attempts - 1, 10))
    return random.uniform(0.0, longest)  # noqa: S311, nothing secret hangs on it
