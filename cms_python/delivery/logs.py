"""What the log tells of events that are given up, and of what lasts."""

from __future__ import annotations

import logging

from cms_python.events import Event
from cms_python.results import TrackFailure

__all__ = ["Trouble", "gave_up"]

_log = logging.getLogger("cms_python")


def gave_up(event: Event, failure: TrackFailure, level: int = logging.WARNING) -> None:
    """Tells of an event that is not tried again, without whose it is."""
    _log.log(
        level,
        "Gave up on a %s: %s, status %d, attempt %d, key %s",
        event.kind,
        failure["type"],
        failure["status_code"],
        failure["attempts"],
        event.idempotency_key,
    )


class Trouble:
    """One thing that may be wrong for long, such as a file or a broker: told of once."""

    def __init__(self) -> None:
        self._is_on = False

    def begin(self, message: str, *values: object) -> None:
        """Logs a WARNING, unless this has begun already."""
        if not self._is_on:
            self._is_on = True
            _log.warning(message, *values)

    def end(self) -> None:
        """The next ``begin()`` is logged again."""
        self._is_on = False
