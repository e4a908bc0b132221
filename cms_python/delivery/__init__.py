"""How an event leaves: what every delivery offers."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Optional, cast

from cms_python.events import Event
from cms_python.results import TrackResult

if TYPE_CHECKING:
    from cms_python.delivery.direct import Direct

__all__ = ["Delivery", "OnResult"]

# A hundred years.
LONGEST_SECONDS = 100 * 365 * 24 * 60 * 60

OnResult = Callable[[Event, TrackResult], object]

_log = logging.getLogger("cms_python")


class Delivery(ABC):
    """A way for an event to leave. ``CMSClient(delivery=...)`` takes one of your own as well.

    Example:
        >>> from cms_python.results import success
        >>> class Printing(Delivery):
        ...     def deliver(self, event):
        ...         print(event.kind, event.payload.event_name)
        ...         return success("Printed")

    ``timeout``, an attribute of the class (30.0), is how many seconds one delivery takes at most;
    an outbox that sends through it relies on that.
    """

    timeout: float = 30.0

    def attach(self, make_direct: Callable[[], Direct]) -> None:  # noqa: B027, few send over HTTP
        """Called once by the client that the delivery was given to.

        ``make_direct`` makes a delivery that sends at once, with the client's connection and
        limits. It raises ValueError if there is no token; a delivery that does not call it needs
        none.
        """

    @abstractmethod
    def deliver(self, event: Event) -> TrackResult:
        """Delivers the event, or takes charge of it. Returns the caller's result, never raises."""

    def once(self) -> Delivery:
        """What a queue sends through: it tries again itself. By default the delivery as it is."""
        return self

    def flush(self, timeout: Optional[float] = None) -> bool:  # noqa: ARG002, for those that queue
        """Waits up to ``timeout`` seconds until nothing is queued; tells whether that is so."""
        return True

    def close(self) -> None:  # noqa: B027, there may be nothing to let go of
        """Lets go of connections and threads. May be called twice."""


def check_seconds(name: str, value: object) -> None:
    """Raises ValueError for what is no number of seconds, up to a hundred years."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= cast(float, value) <= LONGEST_SECONDS:
        raise ValueError(f"{name} must be a number of seconds from 0 to {LONGEST_SECONDS}")


def check_on_result(value: object) -> None:
    """Raises ValueError for what is neither a function nor None."""
    if value is not None and not callable(value):
        raise ValueError("on_result must be a function of an event and its result")


def tell(on_result: Optional[OnResult], event: Event, result: TrackResult) -> None:
    """Calls the user's function, if there is one. What it raises ends neither thread nor task."""
    if on_result:
        try:
            on_result(event, result)
        except BaseException as error:  # noqa: BLE001, the event is settled all the same
            _log.error("on_result failed: %s", type(error).__name__)
