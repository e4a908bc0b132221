"""The store that lasts as long as its sandbox."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from cms_python.sandbox.entries import Entry
from cms_python.sandbox.store import (
    KEPT,
    KeptAnswer,
    Query,
    RecordedEvent,
    Store,
    past_minutes,
    tallies,
)


class Memory(Store):
    """Keeps the newest 1,000 events and entries, and of the rest what the rules need."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._last_id = 0
        self._reset_id = 0
        self._forget()

    def transaction(self) -> AbstractContextManager[object]:
        return self._lock

    def reset(self, announce: Callable[[int], None]) -> None:
        with self._lock:
            self._last_id += 1
            self._reset_id = self._last_id
            self._forget()
            announce(self._reset_id)

    def _forget(self) -> None:
        self._events: deque[RecordedEvent] = deque(maxlen=KEPT)
        self._event_count = 0
        self._by_identity: dict[str, RecordedEvent] = {}
        self._clicks: dict[str, str] = {}
        self._answers: dict[str, KeptAnswer] = {}
        self._entries: deque[Entry] = deque(maxlen=KEPT)
        self._tallies: Counter[str] = Counter()

    def add(self, event: RecordedEvent, identity: str) -> RecordedEvent:
        with self._lock:
            self._event_count += 1
            event = replace(event, id=self._event_count)
            self._events.append(event)
            self._by_identity[identity] = event
            return event

    def events(self) -> list[RecordedEvent]:
        with self._lock:
            return list(self._events)

    def deferred_clicks(self) -> dict[str, str]:
        with self._lock:
            return dict(self._clicks)

    # A single look-up or assignment in a dict needs no lock of its own.

    def event(self, identity: str) -> RecordedEvent | None:
        return self._by_identity.get(identity)

    def click(self, customer: str) -> str | None:
        return self._clicks.get(customer)

    def store_click(self, customer: str, click_id: str) -> None:
        self._clicks[customer] = click_id

    def kept_answer(self, key: str) -> KeptAnswer | None:
        return self._answers.get(key)

    def keep_answer(self, key: str, kept: KeptAnswer) -> None:
        self._answers[key] = kept

    def add_entry(self, entry: Entry, announce: Callable[[Entry], None]) -> Entry:
        with self._lock:
            self._last_id += 1
            entry = replace(entry, id=self._last_id)
            self._entries.append(entry)
            for name, number in tallies(entry):
                self._tallies[name] += number
            for name in past_minutes(self._tallies, entry):
                del self._tallies[name]
            announce(entry)
            return entry

    def entries(self, query: Query) -> list[Entry]:
        with self._lock:
            found = [entry for entry in self._entries if query.matches(entry)]
        return found[-query.limit :] if query.newest else found[: query.limit]

    def last_ids(self) -> tuple[int, int]:
        with self._lock:
            return self._last_id, self._reset_id

    def tallies(self) -> dict[str, int]:
        with self._lock:
            return dict(self._tallies)
