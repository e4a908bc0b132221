"""What the sandbox remembers: in memory, or in a SQLite file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cms_python.sandbox.answers import Answer
from cms_python.sandbox.entries import Entry

#: How many requests, and how many events, stay readable in memory.
KEPT = 1000
#: How long the number of requests in a minute is known.
MINUTES = timedelta(minutes=30)


@dataclass(frozen=True)
class RecordedEvent:
    """A lead or a sale that counted, as found in ``Sandbox.events``.

    ``id`` rises in the order of arrival. ``kind`` is ``"lead"`` or ``"sale"``. ``payload`` is the
    body as it was on the wire, ``event_name`` and ``customer_external_id`` are from there.
    ``click_id`` is the click that gets the credit, and ``deferred`` tells that it is one which an
    earlier deferred lead stored. ``duplicate`` is never true in ``Sandbox.events``: a repeated
    lead is answered, not stored. ``received_at`` carries a zone (UTC), and ``request_id`` is the
    one of the answer, ``idempotency_key`` that of the request. ``invoice_id``, ``amount`` and
    ``currency`` are None for a lead.
    """

    id: int
    kind: str
    payload: dict[str, Any] = field(repr=False)
    click_id: str
    event_name: str
    customer_external_id: str
    invoice_id: str | None
    amount: int | None
    currency: str | None
    deferred: bool
    duplicate: bool
    idempotency_key: str | None
    received_at: datetime
    request_id: str


@dataclass(frozen=True)
class KeptAnswer:
    """An answer to give again, and the request that it belongs to."""

    path: str
    payload: dict[str, Any]
    answer: Answer


@dataclass(frozen=True)
class Query:
    """Which entries to find; of more than ``limit`` the newest, or else the oldest."""

    after: int = 0
    before: int | None = None
    kind: str | None = None
    search: str = ""
    limit: int = KEPT
    newest: bool = True

    def matches(self, entry: Entry) -> bool:
        """Tell whether an entry is one of those."""
        return (
            entry.id > self.after
            and (self.before is None or entry.id < self.before)
            and (self.kind is None or entry.kind == self.kind)
            and self.search.casefold() in entry.search_text()
        )


class Store(ABC):
    """Events, stored clicks, kept answers, and the entries of all requests.

    Each method is safe in any thread; who acts upon what a method told holds ``transaction()``
    from the question to the act.
    """

    def open(self) -> None:  # noqa: B027 - memory has nothing to open
        """Get ready to serve. What is stored can be read before and after, too."""

    def close(self) -> None:  # noqa: B027 - as above
        """Let go of what ``open()`` took."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[object]:
        """Let nobody else read or write meanwhile."""

    @abstractmethod
    def reset(self, announce: Callable[[int], None]) -> None:
        """Forget everything. Events start again at 1.

        Entries go on, and the reset takes an id of theirs: a page that was away then sees that it
        missed one.
        """

    # What the rules ask for

    @abstractmethod
    def add(self, event: RecordedEvent, identity: str) -> RecordedEvent:
        """Store an event under the next id, to be found again by what makes two events the same."""

    @abstractmethod
    def events(self) -> list[RecordedEvent]:
        """The newest events, in the order of arrival."""

    @abstractmethod
    def event(self, identity: str) -> RecordedEvent | None:
        """The event that was added under this identity."""

    @abstractmethod
    def deferred_clicks(self) -> dict[str, str]:
        """The click that deferred leads stored for each customer."""

    @abstractmethod
    def click(self, customer: str) -> str | None:
        """The click that a deferred lead stored for this customer."""

    @abstractmethod
    def store_click(self, customer: str, click_id: str) -> None:
        """Remember which click brought a customer."""

    @abstractmethod
    def kept_answer(self, key: str) -> KeptAnswer | None:
        """The answer that a request with this idempotency key got."""

    @abstractmethod
    def keep_answer(self, key: str, kept: KeptAnswer) -> None:
        """Keep an answer for the next request with the same idempotency key."""

    # What is shown

    @abstractmethod
    def add_entry(self, entry: Entry, announce: Callable[[Entry], None]) -> Entry:
        """Store an entry under the next id, and announce it before there can be another."""

    @abstractmethod
    def entries(self, query: Query) -> list[Entry]:
        """The entries that a query finds, oldest first."""

    @abstractmethod
    def last_ids(self) -> tuple[int, int]:
        """The last id that was given out, and the one that the last reset took."""

    @abstractmethod
    def tallies(self) -> dict[str, int]:
        """What ``tallies()`` of every entry since the last reset add up to."""


def tallies(entry: Entry) -> Iterator[tuple[str, int]]:
    """The totals that an entry adds to, and by how much."""
    yield f"minute {entry.received_at[:16]}", 1
    if entry.counted:
        yield f"{entry.kind}s", 1
    if entry.counted and entry.kind == "sale":
        yield f"revenue {entry.currency}", entry.amount or 0
    if entry.duplicate:
        yield "duplicates", 1
    if entry.status >= 400:
        yield "refused", 1


def past_minutes(names: Iterable[str], entry: Entry) -> list[str]:
    """The totals of minutes that no one asks for any more, now that there is this entry."""
    first = datetime.fromisoformat(entry.received_at) - MINUTES
    oldest = f"minute {first.isoformat()[:16]}"
    return [name for name in names if name.startswith("minute ") and name < oldest]
