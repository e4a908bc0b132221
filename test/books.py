"""A server that keeps books: which event came under which idempotency key, and how often."""

from __future__ import annotations

import json
from collections import Counter

from fault_server import FaultServer, Request, Visit

SUCCESS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n"
    b'{"success": true}'
)


class Books(FaultServer):
    """A server that records each idempotency key once, with the event that first came under it."""

    def __init__(self) -> None:
        super().__init__(self.accept)
        self.bodies: dict[str, bytes] = {}
        self.times: Counter[str] = Counter()
        self.altered: list[str] = []

    def record(self, request: Request) -> None:
        """Keeps no request; what is recorded is up to the behaviours."""

    def accept(self, visit: Visit) -> None:
        """Records the event and says so."""
        self._write_down(visit.request())
        visit.send(SUCCESS)

    def lose_answer(self, visit: Visit) -> None:
        """Records the event and breaks the connection."""
        self._write_down(visit.request())
        visit.reset()

    def _write_down(self, request: Request) -> None:
        key = request.key
        assert key is not None
        with self._changed:
            self.times[key] += 1
            if self.bodies.setdefault(key, request.body) != request.body:
                self.altered.append(key)
            self._changed.notify_all()

    def wait_for_events(self, number: int, seconds: float = 20) -> None:
        """Returns once so many events are recorded."""
        self._wait_for(lambda: len(self.bodies) >= number, seconds)

    @property
    def numbers(self) -> list[int]:
        """The events that are recorded, in the order in which they first came."""
        return [int(json.loads(body)["eventName"]) for body in self.bodies.values()]

    @property
    def by_customer(self) -> dict[str, list[int]]:
        """The same, told apart by customer."""
        numbers: dict[str, list[int]] = {}
        for event in map(json.loads, self.bodies.values()):
            numbers.setdefault(event["customerExternalId"], []).append(int(event["eventName"]))
        return numbers
