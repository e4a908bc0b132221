"""What the sandbox remembers. In memory, and behind one lock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from cms_python.sandbox.answers import Answer


@dataclass(frozen=True)
class RecordedEvent:
    """A lead or a sale that counted, as found in ``Sandbox.events``.

    ``id`` rises in the order of arrival. ``payload`` is the body as it was on the wire.
    ``click_id`` is the click that gets the credit, and ``deferred`` tells that it is one which an
    earlier deferred lead stored. ``duplicate`` is never true in ``Sandbox.events``: a repeated
    lead is answered, not stored. ``received_at`` carries a zone (UTC), and ``request_id`` is the
    one of the answer. ``invoice_id``, ``amount`` and ``currency`` are None for a lead.
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


class Store:
    """Events, stored clicks and kept answers.

    Each method is safe in any thread; who acts upon what a method told holds ``transaction()``
    from the question to the act.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.reset()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Let nobody else read or write meanwhile."""
        with self._lock:
            yield

    def reset(self) -> None:
        """Forget everything; ids start again at 1."""
        with self._lock:
            self._events: list[RecordedEvent] = []
            self._leads: dict[tuple[str, str], RecordedEvent] = {}
            self._invoices: set[str] = set()
            self._clicks: dict[str, str] = {}
            self._answers: dict[str, KeptAnswer] = {}

    def add(self, event: RecordedEvent) -> RecordedEvent:
        """Store an event under the next id."""
        with self._lock:
            event = replace(event, id=len(self._events) + 1)
            self._events.append(event)
            if event.invoice_id is None:
                self._leads[_lead_identity(event.customer_external_id, event.event_name)] = event
            else:
                self._invoices.add(event.invoice_id)
            return event

    def events(self) -> list[RecordedEvent]:
        """The events so far, in the order of arrival."""
        with self._lock:
            return list(self._events)

    def deferred_clicks(self) -> dict[str, str]:
        """The click that deferred leads stored for each customer."""
        with self._lock:
            return dict(self._clicks)

    # A single look-up or assignment in a dict or set needs no lock of its own.

    def lead(self, customer: str, event_name: str) -> RecordedEvent | None:
        """The lead that this customer and event name have made before."""
        return self._leads.get(_lead_identity(customer, event_name))

    def has_invoice(self, invoice_id: str) -> bool:
        """Tell whether a sale of this invoice has been stored."""
        return invoice_id in self._invoices

    def click(self, customer: str) -> str | None:
        """The click that a deferred lead stored for this customer."""
        return self._clicks.get(customer)

    def store_click(self, customer: str, click_id: str) -> None:
        """Remember which click brought a customer."""
        self._clicks[customer] = click_id

    def kept_answer(self, key: str) -> KeptAnswer | None:
        """The answer that a request with this idempotency key got."""
        return self._answers.get(key)

    def keep_answer(self, key: str, kept: KeptAnswer) -> None:
        """Keep an answer for the next request with the same idempotency key."""
        self._answers[key] = kept


def _lead_identity(customer: str, event_name: str) -> tuple[str, str]:
    return customer, " ".join(event_name.casefold().split())
