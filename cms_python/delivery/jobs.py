"""One event as a job of a task queue, whichever: a dict, and what to do with it next.

Celery has a delivery of its own, ``celery.py``, which stands on this.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Optional

from cms_python import results
from cms_python.client import CMSClient
from cms_python.delivery import check_seconds, logs, retries, verdicts
from cms_python.delivery.verdicts import Ruling
from cms_python.events import Event, InvalidEvent
from cms_python.results import TrackResult

__all__ = ["Outcome", "deliver"]

# 7 days, as an outbox has it.
MAX_AGE = 7 * 24 * 60 * 60.0
# Here nothing keeps order: the lead that brings a click may be waiting for another attempt itself.
MOST_UNKNOWN = 10
# Seconds. Nobody asks for a longer wait; who seems to has a clock that is wrong.
LONGEST_WAIT = retries.LONGEST_RETRY_AFTER + verdicts.LONGEST_BACKOFF
# Seconds to wait at least where the token, the host or the proxy is wrong.
PAUSE = 5.0

_log = logging.getLogger("cms_python")
_pause = logs.Trouble()


@dataclass(frozen=True)
class Outcome:
    """What became of a job, and what is to become of it.

    - ``verdict``: ``"delivered"``, ``"again"`` or ``"dead"``.
    - ``job``: the dict to queue for the next attempt; where it is dead, for a dead letter queue.
    - ``wait``: the seconds until the next attempt; 0.0 unless the verdict is ``"again"``.
    - ``event``: the event, None if the job holds none that can be read.
    - ``result``: the dict that the attempt came to, None if it was too early for one.

    Its repr leaves out ``job`` and ``result``, which may hold the customer's data.
    """

    verdict: Literal["delivered", "again", "dead"]
    job: dict[str, Any] = field(repr=False)
    wait: float
    event: Optional[Event]
    result: Optional[TrackResult] = field(repr=False)


def deliver(
    job: Mapping[str, Any], client: Optional[CMSClient] = None, *, max_age: float = MAX_AGE
) -> Outcome:
    """Makes one attempt to deliver an event that ``Event.to_dict()`` made a dict of.

    Args:
        job: that dict, or the ``job`` of the outcome before.
        client: what sends it. By default one that the process makes at its first job, from
            ``CMS_BEARER_TOKEN`` and ``CMS_HOST``.
        max_age: the seconds after which an event that cannot be delivered is dead, at its next
            failure. 604,800 (7 days) by default.

    Returns:
        What to do with the job. It waits for nothing but the answer to one request, the client's
        ``timeout`` at most, and does not raise for what the network, the API or the job holds.

    Raises:
        ValueError: ``max_age`` cannot be used, or no client is given and the environment has no
            token that can be used.

    Example:
        >>> fields = {"event_name": "a", "customer_external_id": "user_42", "click_id": "id_123"}
        >>> deliver(Event.create("lead", fields).to_dict()).verdict
        'delivered'
    """
    check_seconds("max_age", max_age)
    delivery = (_own_client.get() if client is None else client).delivery.once()
    try:
        read = _read(job)
    except ValueError as error:
        return _unreadable(job, str(error))
    early = read.not_before - time.time()
    if 0 < early <= LONGEST_WAIT:
        return Outcome("again", dict(job), early, read.event, None)
    ruling = verdicts.judge(
        delivery.deliver(read.event), read.attempts + 1, read.unknown, MOST_UNKNOWN
    )
    return _outcome(read, ruling, max_age)


def _unreadable(job: object, sentence: str) -> Outcome:
    """Dead: it is no event, or one of a newer version than this."""
    _log.error("A job is given up, for this version can read no event in it")
    refused = results.invalid(InvalidEvent({"job": sentence}), None)
    kept = dict(job) if isinstance(job, Mapping) else {"unreadable": job}
    return Outcome("dead", kept, 0.0, None, refused)


class _Job(NamedTuple):
    """A job that has been read; the counts are those of earlier attempts."""

    event: Event
    attempts: int
    unknown: int
    not_before: float


def _read(job: Mapping[str, Any]) -> _Job:
    """Raises ValueError where it is no job; its text does not repeat what is there."""
    event = Event.from_dict(job)
    try:
        counts = max(int(job.get("attempts", 0)), 0), max(int(job.get("unknown", 0)), 0)
        return _Job(event, *counts, float(job.get("not_before", 0.0)))
    except (TypeError, ValueError, OverflowError):
        # Only what wrote them knows better; the event is what counts.
        return _Job(event, 0, 0, 0.0)


def _outcome(job: _Job, ruling: Ruling, max_age: float) -> Outcome:
    event, result, content = job.event, ruling.result, job.event.to_dict()
    age = time.time() - event.created_at.timestamp()
    _tell_of_pause(ruling)
    if ruling.verdict == "delivered" or result["success"] is True:
        return Outcome("delivered", content, 0.0, event, result)
    if ruling.verdict == "dead" or (ruling.verdict == "again" and age > max_age):
        logs.gave_up(event, result)
        last = {"status_code": ruling.status, "error": ruling.error}
        return Outcome("dead", {**content, **last}, 0.0, event, result)
    wait = ruling.wait
    if ruling.verdict == "pause":
        wait = max(PAUSE + verdicts.backoff(job.attempts + 1), ruling.hold)
    counts = {"attempts": job.attempts + 1, "unknown": job.unknown + ruling.unknown}
    again = {**content, **counts, "not_before": time.time() + wait}
    return Outcome("again", again, wait, event, result)


def _tell_of_pause(ruling: Ruling) -> None:
    """Tells the log, once, that no event can get through."""
    if ruling.verdict == "pause":
        _pause.begin("Events wait in the queue: status %d, %s", ruling.status, ruling.error)
    elif ruling.status:
        _pause.end()


class SharedClient:
    """The one client of all threads of a process, made when the first of them needs it."""

    def __init__(self, make: Callable[[], CMSClient]) -> None:
        self._make = make
        self._made: Optional[CMSClient] = None
        self._locks: dict[int, threading.RLock] = {}

    def get(self) -> CMSClient:
        """The client. Raises what making it does, and makes it the next time then."""
        # One a process: a fork may copy a lock that is held. A handler of a signal may come here
        # while the same thread holds it.
        with self._locks.setdefault(os.getpid(), threading.RLock()):
            if self._made is None:
                self._made = self._make()
            return self._made


_own_client = SharedClient(CMSClient)
