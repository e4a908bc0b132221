"""What a queue does with an event after an attempt to deliver it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from cms_python import results
from cms_python.delivery import check_seconds, retries
from cms_python.results import TrackFailure, TrackResult

__all__ = ["MOST_UNKNOWN", "Ruling", "Verdict", "backoff", "judge", "verdict"]

Verdict = Literal["delivered", "again", "pause", "dead"]

FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 300.0
# A click may be known to one of the API's machines before the others.
MOST_UNKNOWN = 5


class Ruling(NamedTuple):
    """A verdict, and what follows from it.

    ``result`` is the caller's. ``wait`` are the seconds until the event may be sent again, ``hold``
    those until any may. ``unknown`` tells that the API does not know the event's click.
    """

    verdict: Verdict
    result: TrackResult
    status: int = 200
    error: str = ""
    wait: float = 0.0
    hold: float = 0.0
    unknown: bool = False


def judge(
    result: TrackResult, attempts: int, unknown: int, most_unknown: int = MOST_UNKNOWN
) -> Ruling:
    """The ruling on the result of one attempt.

    ``attempts`` counts the event's, this one included, ``unknown`` those before that failed since
    the API did not know its click. Raises what it does for what is no result.
    """
    if result["success"] is True:
        return Ruling("delivered", result)
    _check(result)
    failure: TrackFailure = {**result, "attempts": attempts}
    status, lacks_click = failure["status_code"], _lacks_click(failure)
    ruling = verdict(failure, unknown + lacks_click, most_unknown)
    if ruling == "delivered":
        recorded = results.success("Event tracked successfully by an earlier attempt")
        return Ruling(ruling, recorded, status)
    asked = failure["retry_after"] or 0.0
    # Where all pauses, the pause is all the wait there is.
    wait = 0.0 if ruling == "pause" else max(backoff(attempts), asked)
    hold = wait if status == 429 else asked
    return Ruling(ruling, failure, status, failure["error"], wait, hold, lacks_click)


def _check(failure: TrackFailure) -> None:
    """Raises what it does for what is no failure: a delivery may be anybody's."""
    if failure["success"] is not False or not failure.keys() >= TrackFailure.__required_keys__:
        raise TypeError("This is no result")
    status = failure["status_code"]
    if not isinstance(status, int) or not 0 <= status < 1000:
        raise TypeError("This is no status")
    check_seconds("retry_after", failure["retry_after"] or 0.0)
    # As the outbox's file and the log take it.
    str.encode(failure["error"])


def verdict(failure: TrackFailure, unknown: int, most_unknown: int = MOST_UNKNOWN) -> Verdict:
    """The verdict on a failure; ``unknown`` counts this one if the API did not know the click.

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
    if _lacks_click(failure) and unknown < most_unknown:
        return "again"
    return "dead"


def backoff(attempts: int) -> float:
    """Seconds to wait after so many attempts: from 1 to 300, exponential, with full jitter."""
    return retries.jittered(attempts, FIRST_BACKOFF, LONGEST_BACKOFF)


def _lacks_click(failure: TrackFailure) -> bool:
    """Whether the API may know the event's click later: the lead that brings it may be behind."""
    if failure["status_code"] == 422:
        return "clickId" in f"{failure['error']} {failure['details']}"
    return failure["status_code"] == 404
