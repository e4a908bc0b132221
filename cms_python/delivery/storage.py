"""The events in the outbox's SQLite file: what waits, is being sent, or was given up."""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Optional, Union

from cms_python.delivery.database import Database, OutboxError
from cms_python.delivery.verdicts import Ruling
from cms_python.events import Event, InvalidEvent

__all__ = [
    "Claim",
    "DeadEvent",
    "Exchange",
    "OutboxError",
    "OutboxStats",
    "Settlement",
    "Storage",
]

PAGE = 500
# Seconds by which the clock must have jumped back to be followed.
LEAST_JUMP = 1.0
# Seconds to wait at most for the file where a program is about to end.
LAST_PATIENCE = 0.5
# Seconds after which it is noted anew how late it is, while something waits.
CLOCK_NOTE = 10.0
MOST_UNANSWERED = 5
FIRST_PROBE = 5.0
LONGEST_PROBE = 300.0
# Attempts in a row that got no answer, of all events, before they are made less often.
TOLERATED_SILENCES = 5
FIRST_SILENCE = 0.1
LONGEST_SILENCE = 30.0

# Each script takes a file from the version before it, its place, to the next. A new file goes
# through all of them; what has been released stays as it is.
#
# An event is `ready` if it is the first of its customer, `waiting` behind another of that customer,
# or `dead`: of each customer one is ready. What was delivered is gone. One that is being sent is
# ready, with a lease, and due when the lease ends. `unanswered` counts the attempts in a row that a
# program ended in without a word, `unknown` the answers that its click is not known. `since` is
# when it was queued, or queued again.
#
# Of `outbox` there is one row. Nothing is sent before `hold_until`, which the server asked for.
# While `probe` is not 0 events leave one at a time, the next at `probe_at`, and so many seconds lie
# between two of them: either `paused` has the reason, or the last attempts got no answer, which
# `silences` counts. `seen_at` is how late it was at last. `checkpoint` is of whoever queues many.
SCHEMAS = (
    """
    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        customer TEXT NOT NULL,
        body TEXT NOT NULL,
        created_at REAL NOT NULL,
        since REAL NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('ready', 'waiting', 'dead')),
        due_at REAL NOT NULL,
        lease TEXT,
        attempts INTEGER NOT NULL DEFAULT 0,
        unanswered INTEGER NOT NULL DEFAULT 0,
        unknown INTEGER NOT NULL DEFAULT 0,
        status INTEGER NOT NULL DEFAULT 0,
        error TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX events_of_customer ON events (customer, id) WHERE state <> 'dead';
    CREATE INDEX events_due ON events (due_at, id, lease) WHERE state = 'ready';
    CREATE INDEX events_dead ON events (id) WHERE state = 'dead';
    CREATE TABLE outbox (
        queued INTEGER NOT NULL DEFAULT 0,
        dead INTEGER NOT NULL DEFAULT 0,
        delivered INTEGER NOT NULL DEFAULT 0,
        seen_at REAL NOT NULL DEFAULT 0,
        hold_until REAL NOT NULL DEFAULT 0,
        paused TEXT,
        probe REAL NOT NULL DEFAULT 0,
        probe_at REAL NOT NULL DEFAULT 0,
        silences INTEGER NOT NULL DEFAULT 0,
        checkpoint TEXT NOT NULL DEFAULT ''
    );
    INSERT INTO outbox DEFAULT VALUES
    """,
)


UNREADABLE = "Its text in the file cannot be read."


class Claim(NamedTuple):
    """An event that this process may send until its lease ends.

    ``attempts`` counts this one. A ``probe`` is sent alone, to find out whether all is well again.
    """

    row: int
    lease: str
    event: Event
    attempts: int
    unknown: int = 0
    probe: bool = False


class Settlement(NamedTuple):
    """What became of a claim."""

    claim: Claim
    ruling: Ruling


@dataclass(frozen=True)
class DeadEvent:
    """An event that was given up.

    ``event_id`` is what the call returned when the event was queued. ``event`` is None if its text
    in the file cannot be read any more. ``attempts`` counts those since it was queued, or queued
    again. ``status_code`` and ``error`` are those of the last attempt; 0 where no answer came.
    """

    event_id: int
    event: Optional[Event]
    attempts: int
    status_code: int
    error: str


@dataclass(frozen=True)
class OutboxStats:
    """What an outbox holds, in all processes that share its file.

    - ``queued``: events that are neither delivered nor dead. Of these,
    - ``sending``: those that are on their way now, and
    - ``waiting``: those that wait for another attempt, or behind another of their customer.
    - ``dead``: events that were given up.
    - ``delivered``: how many have been delivered since the file was made.
    - ``paused``: why nothing is sent, None if it is.
    - ``oldest_age``: the seconds since the oldest queued event was tracked, 0.0 if none is queued.
    """

    queued: int
    sending: int
    waiting: int
    dead: int
    delivered: int
    paused: Optional[str]
    oldest_age: float


@dataclass
class Exchange:
    """What came of settling one claim and taking another.

    ``fate`` is the settled event's, None if it was not this process's any more. ``change`` tells
    that this settlement paused the outbox, or ended the pause. ``buried`` are events that were
    given up without an attempt. Where nothing can be claimed, ``wait`` has the seconds until
    something may be.
    """

    fate: Optional[Literal["delivered", "again", "dead"]] = None
    change: Optional[Literal["paused", "resumed"]] = None
    buried: list[DeadEvent] = field(default_factory=list)
    claim: Optional[Claim] = None
    wait: float = 0.0


# All text that somebody wrote comes as bytes: in a damaged file it need not be UTF-8.
_ROWS = (
    "SELECT id, state, CAST(kind AS BLOB), CAST(body AS BLOB), CAST(key AS BLOB), created_at,"
    " attempts, status, CAST(error AS BLOB), due_at, lease, unanswered, unknown FROM events"
)


class _Row(NamedTuple):
    """What `_ROWS` reads of an event."""

    id: int
    state: str
    kind: bytes
    body: bytes
    key: bytes
    created_at: float
    attempts: int
    status: int
    error: bytes
    due_at: float
    lease: Optional[str]
    unanswered: int
    unknown: int

    @property
    def event(self) -> Optional[Event]:
        """None if its text cannot be read."""
        try:
            texts = self.kind.decode(), self.body.decode(), self.key.decode()
            return Event.restored(*texts, self.created_at)
        except Exception:  # noqa: BLE001, there is no telling what a damaged file holds
            return None


class Storage:
    """The events of one file. ``now`` tells the seconds since the epoch."""

    def __init__(
        self,
        path: Union[str, os.PathLike[str]],
        *,
        max_events: int,
        max_age: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = Database(path, SCHEMAS)
        self._max_events = max_events
        self._max_age = max_age
        self._now = now
        # By thread: what it took at its last exchange, and has not come back with.
        self._in_hand: dict[int, Claim] = {}

    @property
    def path(self) -> Path:
        """The file, absolute."""
        return self._database.path

    # Adding and looking

    def add(
        self, events: Sequence[Event], checkpoint: Optional[str] = None, after: str = ""
    ) -> list[tuple[int, bool]]:
        """Keeps events, all or none, and a ``checkpoint`` with them in the place of ``after``.

        Tells of each its id, and whether it was queued already. Raises InvalidEvent where its key
        is that of another event that is queued.
        """
        with self._database.transaction() as db:
            if checkpoint is not None:
                moved = db.execute(
                    "UPDATE outbox SET checkpoint = ? WHERE checkpoint = ?", [checkpoint, after]
                )
                if not moved.rowcount:
                    raise OutboxError("Another program has gone on from this checkpoint.")
            now = self._now()
            return [self._add(db, event, now) for event in events]

    def checkpoint(self) -> str:
        """What the last ``add()`` that had a checkpoint left."""
        with self._database.transaction("BEGIN") as db:
            return str(db.execute("SELECT checkpoint FROM outbox").fetchone()[0])

    def events(self) -> Iterator[tuple[Literal["queued", "dead"], Optional[Event]]]:
        """All events with their state, oldest first; None for one that cannot be read."""
        last = 0
        while True:
            with self._database.transaction("BEGIN") as db:
                rows = _rows(db, "WHERE id > ? ORDER BY id LIMIT ?", last, PAGE)
            for row in rows:
                yield "dead" if row.state == "dead" else "queued", row.event
            if not rows:
                return
            last = rows[-1].id

    def queued(self) -> int:
        """How many events are neither delivered nor dead."""
        with self._database.transaction("BEGIN") as db:
            return int(db.execute("SELECT queued FROM outbox").fetchone()[0])

    def stats(self) -> OutboxStats:
        """The counts, and the age of the oldest event."""
        now = self._now()
        with self._database.transaction("BEGIN") as db:
            counts = db.execute("SELECT queued, dead, delivered, paused FROM outbox").fetchone()
            queued, dead, delivered, paused = counts
            sending, due = db.execute(
                "SELECT count(CASE WHEN due_at > ? THEN lease END), count(CASE WHEN due_at <= ?"
                " THEN 1 END) FROM events WHERE state = 'ready'",
                [now, now],
            ).fetchone()
            oldest = db.execute(
                "SELECT created_at FROM events WHERE state <> 'dead' ORDER BY id LIMIT 1"
            ).fetchone()
        age = max(now - oldest[0], 0.0) if oldest else 0.0
        return OutboxStats(queued, sending, queued - sending - due, dead, delivered, paused, age)

    # Sending

    def exchange(
        self, settlement: Optional[Settlement], *, lease: float, take: bool = True
    ) -> Exchange:
        """Settles a claim and, to ``take`` one, claims the next for ``lease`` seconds, at once.

        The claim is the calling thread's until it comes again, however long that takes: while this
        process lives, its other threads extend the lease.
        """
        if settlement is None:
            self.let_go()
            wait = self._seconds_until_due()
            if wait > 0 or not take:
                return Exchange(wait=wait)
        made = Exchange()
        # What a power failure takes back here is sent again, as it is after any other crash.
        with self._database.transaction(is_durable=False) as db:
            now = self._now()
            self._follow_clock(db, now)
            if settlement:
                self._settle(db, settlement, now, made)
            if take:
                self._claim(db, now, lease, made)
            self.let_go()
            if made.claim:
                self._in_hand[threading.get_ident()] = made.claim
        return made

    def let_go(self) -> None:
        """The calling thread will not come back with what it has in hand."""
        self._in_hand.pop(threading.get_ident(), None)

    def forget(self) -> None:
        """Lets go of what a fork copied: what the parent's threads have in hand."""
        self._in_hand = {}

    def excuse(self) -> None:
        """Does not count the attempts under way against their events: the program ends.

        Their leases stay, for a request may still be answered, and is settled then.
        """
        held = [(claim.row, claim.lease) for claim in self._in_hand.copy().values()]
        if not held:
            return
        # Where that cannot be noted they count, as after a crash.
        noting = self._database.transaction(is_durable=False, patience=LAST_PATIENCE)
        with suppress(OutboxError), noting as db:
            db.executemany("UPDATE events SET unanswered = 0 WHERE id = ? AND lease = ?", held)

    def probe_soon(self) -> None:
        """Ends a pause for one attempt: the program may have been set up anew."""
        with self._database.transaction(is_durable=False) as db:
            db.execute(
                "UPDATE outbox SET paused = NULL, probe = ?, probe_at = 0 WHERE probe > 0",
                [FIRST_SILENCE],
            )

    # Dead letters

    def dead(self) -> list[DeadEvent]:
        """The events that were given up, oldest first."""
        with self._database.transaction("BEGIN") as db:
            rows = _rows(db, "WHERE state = 'dead' ORDER BY id")
        return [
            DeadEvent(
                row.id, row.event, row.attempts, row.status, row.error.decode(errors="replace")
            )
            for row in rows
        ]

    def retry_dead(self) -> int:
        """Queues all dead events again, as if they were new; tells how many."""
        now = self._now()
        with self._database.transaction() as db:
            count = db.execute(
                "UPDATE events SET state = 'waiting', due_at = ?, since = ?, attempts = 0,"
                " unanswered = 0, unknown = 0 WHERE state = 'dead'",
                [now, now],
            ).rowcount
            # They come before their customers' later events, unless one of those is on its way.
            db.execute(
                "UPDATE events SET state = 'waiting' WHERE state = 'ready' AND lease IS NULL"
            )
            db.execute(
                "UPDATE events SET state = 'ready' WHERE id IN (SELECT min(id) FROM events"
                " WHERE state <> 'dead' GROUP BY customer HAVING sum(state = 'ready') = 0)"
            )
            db.execute("UPDATE outbox SET dead = 0, queued = queued + ?", [count])
            return count

    def purge_dead(self, event_ids: Optional[Iterable[int]] = None) -> int:
        """Forgets dead events, by default all; tells how many."""
        statement = "DELETE FROM events WHERE state = 'dead'"
        rows = None if event_ids is None else [[each] for each in event_ids]
        with self._database.transaction() as db:
            if rows is None:
                count = db.execute(statement).rowcount
            else:
                count = db.executemany(f"{statement} AND id = ?", rows).rowcount
            db.execute("UPDATE outbox SET dead = dead - ?", [count])
            return count

    def close(self) -> None:
        """Closes the connection. A later use opens another."""
        self._database.close()

    # Steps of a transaction

    def _add(self, db: sqlite3.Connection, event: Event, now: float) -> tuple[int, bool]:
        key = event.idempotency_key
        known = _first_row(db, "WHERE key = ?", key)
        if known and known.state != "dead":
            queued = known.event
            if queued and _essence(queued) != _essence(event):
                problem = f"{key} is that of another event in the queue: give each its own"
                raise InvalidEvent({"idempotency_key": problem})
            if queued:
                return known.id, True
            self._bury(db, known.id, 0, UNREADABLE)
        if known:
            # Who gives the key again wants the event sent, perhaps with what was wrong mended.
            db.execute("DELETE FROM events WHERE id = ?", [known.id])
            db.execute("UPDATE outbox SET dead = dead - 1")
        self._check_room(db)
        return self._insert(db, event, now), False

    def _check_room(self, db: sqlite3.Connection) -> None:
        (held,) = db.execute("SELECT queued + dead FROM outbox").fetchone()
        if held >= self._max_events:
            raise OutboxError(f"The outbox is full: it holds {held} events.")

    def _insert(self, db: sqlite3.Connection, event: Event, now: float) -> int:
        customer = event.payload.customer_external_id
        row = db.execute(
            "INSERT INTO events (key, kind, customer, body, created_at, since, state, due_at)"
            " SELECT ?, ?, ?, ?, ?, ?, CASE WHEN EXISTS (SELECT 1 FROM events WHERE customer = ?"
            " AND state <> 'dead') THEN 'waiting' ELSE 'ready' END, ?",
            [
                event.idempotency_key,
                event.kind,
                customer,
                event.payload.to_json(),
                event.created_at.timestamp(),
                now,
                customer,
                now,
            ],
        ).lastrowid
        db.execute("UPDATE outbox SET queued = queued + 1, seen_at = max(seen_at, ?)", [now])
        return int(row or 0)

    def _seconds_until_due(self) -> float:
        """How long nothing can be claimed; asked without keeping other processes from writing."""
        now = self._now()
        with self._database.transaction("BEGIN") as db:
            first = db.execute(
                "SELECT due_at FROM events WHERE state = 'ready' ORDER BY due_at LIMIT 1"
            ).fetchone()
            seen_at, hold_until = db.execute(
                "SELECT seen_at, max(hold_until, probe_at) FROM outbox"
            ).fetchone()
        if first is None:
            return float("inf")
        if seen_at - now > LEAST_JUMP or now - seen_at > CLOCK_NOTE:
            return 0.0
        return max(float(first[0]), float(hold_until)) - now

    def _follow_clock(self, db: sqlite3.Connection, now: float) -> None:
        """Moves what is due later along when the system's clock has jumped back."""
        (seen_at,) = db.execute("SELECT seen_at FROM outbox").fetchone()
        jump = seen_at - now
        if jump > LEAST_JUMP:
            db.execute("UPDATE events SET due_at = due_at - ? WHERE state <> 'dead'", [jump])
            db.execute(
                "UPDATE outbox SET hold_until = hold_until - ?, probe_at = probe_at - ?",
                [jump, jump],
            )
        if abs(jump) > LEAST_JUMP:
            db.execute("UPDATE outbox SET seen_at = ?", [now])

    def _claim(self, db: sqlite3.Connection, now: float, lease: float, made: Exchange) -> None:
        hold_until, probe = db.execute(
            "SELECT max(hold_until, probe_at), probe FROM outbox"
        ).fetchone()
        made.wait = hold_until - now
        held = {claim.lease for claim in self._in_hand.copy().values()}
        while made.claim is None and made.wait <= 0:
            ready = _first_row(db, "WHERE state = 'ready' ORDER BY due_at, id LIMIT 1")
            made.wait = ready.due_at - now if ready else float("inf")
            if ready is None or made.wait > 0:
                return
            if ready.lease in held:
                # It takes long, such as for a host's name, but has not come to an end.
                db.execute("UPDATE events SET due_at = ? WHERE id = ?", [now + lease, ready.id])
            else:
                self._take(db, ready, now, lease, made)
        if made.claim and probe:
            # The others wait for what becomes of this one.
            made.claim = made.claim._replace(probe=True)
            db.execute("UPDATE outbox SET probe_at = ?", [now + lease])

    def _take(
        self, db: sqlite3.Connection, ready: _Row, now: float, lease: float, made: Exchange
    ) -> None:
        """Claims the event, or gives it up."""
        event = ready.event
        reason = UNREADABLE if event is None else ""
        if ready.unanswered >= MOST_UNANSWERED:
            reason = f"The program ended in each of {ready.unanswered} attempts to send it."
        if event is None or reason:
            self._bury(db, ready.id, 0, reason)
            made.buried.append(DeadEvent(ready.id, event, ready.attempts, 0, reason))
            return
        token = secrets.token_hex(8)
        db.execute(
            "UPDATE events SET due_at = ?, lease = ?, attempts = attempts + 1,"
            " unanswered = unanswered + 1 WHERE id = ?",
            [now + lease, token, ready.id],
        )
        made.claim = Claim(ready.id, token, event, ready.attempts + 1, ready.unknown)

    def _settle(self, db: sqlite3.Connection, done: Settlement, now: float, made: Exchange) -> None:
        claim, ruling = done
        row = claim.row
        held = db.execute(
            "SELECT since FROM events WHERE id = ? AND lease = ?", [row, claim.lease]
        ).fetchone()
        if held is None:
            # It took longer than its lease, and another has the event now. This was no crash.
            db.execute(
                "UPDATE events SET unanswered = 0 WHERE id = ? AND key = ? AND state <> 'dead'",
                [row, claim.event.idempotency_key],
            )
            return
        is_too_old = ruling.verdict == "again" and now - held[0] > self._max_age
        if ruling.verdict == "delivered":
            made.fate = "delivered"
            self._promote(db, row, and_not=row)
            db.execute("DELETE FROM events WHERE id = ?", [row])
            db.execute("UPDATE outbox SET delivered = delivered + 1, queued = queued - 1")
        elif ruling.verdict == "dead" or is_too_old:
            made.fate = "dead"
            self._bury(db, row, ruling.status, ruling.error)
        else:
            made.fate = "again"
            db.execute(
                "UPDATE events SET state = 'waiting', due_at = ?, lease = NULL, unanswered = 0,"
                " unknown = unknown + ?, status = ?, error = ? WHERE id = ?",
                [now + ruling.wait, ruling.unknown, ruling.status, ruling.error, row],
            )
            self._promote(db, row)
        if ruling.hold:
            db.execute("UPDATE outbox SET hold_until = max(hold_until, ?)", [now + ruling.hold])
        made.change = self._follow_health(db, claim, ruling, now)

    def _follow_health(
        self, db: sqlite3.Connection, claim: Claim, ruling: Ruling, now: float
    ) -> Optional[Literal["paused", "resumed"]]:
        """Lets only probes through while no event could succeed, and all when one has."""
        paused, probe, silences = db.execute(
            "SELECT paused, probe, silences FROM outbox"
        ).fetchone()
        # What was on its way before says nothing new.
        is_news = claim.probe or not probe
        if ruling.verdict == "pause" and paused is None:
            db.execute("UPDATE outbox SET paused = ?", [ruling.error])
            self._probe_in(db, FIRST_PROBE, now)
            return "paused"
        if paused is not None and not is_news:
            return None
        if ruling.verdict == "pause":
            self._probe_in(db, min(probe * 2, LONGEST_PROBE), now)
        elif paused is not None and ruling.verdict == "again" and not ruling.unknown:
            self._probe_in(db, probe, now)
        elif ruling.verdict != "again" or ruling.status:
            if probe or silences:
                db.execute("UPDATE outbox SET paused = NULL, probe = 0, probe_at = 0, silences = 0")
            return "resumed" if paused is not None else None
        elif silences < TOLERATED_SILENCES:
            db.execute("UPDATE outbox SET silences = silences + 1")
        elif is_news:
            self._probe_in(db, min(probe * 2, LONGEST_SILENCE) or FIRST_SILENCE, now)
        return None

    def _probe_in(self, db: sqlite3.Connection, seconds: float, now: float) -> None:
        db.execute("UPDATE outbox SET probe = ?, probe_at = ?", [seconds, now + seconds])

    def _bury(self, db: sqlite3.Connection, row: int, status: int, error: str) -> None:
        db.execute(
            "UPDATE events SET state = 'dead', lease = NULL, status = ?, error = ? WHERE id = ?",
            [status, error, row],
        )
        db.execute("UPDATE outbox SET dead = dead + 1, queued = queued - 1")
        self._promote(db, row)

    def _promote(self, db: sqlite3.Connection, row: int, and_not: int = 0) -> None:
        """Makes the first event of the row's customer the one that may be sent."""
        db.execute(
            "UPDATE events SET state = 'ready' WHERE id = (SELECT id FROM events WHERE customer ="
            " (SELECT customer FROM events WHERE id = ?) AND state <> 'dead' AND id <> ?"
            " ORDER BY id LIMIT 1)",
            [row, and_not],
        )


def _rows(db: sqlite3.Connection, which: str, *values: object) -> list[_Row]:
    return [_Row(*found) for found in db.execute(f"{_ROWS} {which}", values)]


def _first_row(db: sqlite3.Connection, which: str, *values: object) -> Optional[_Row]:
    return next(iter(_rows(db, which, *values)), None)


def _essence(event: Event) -> dict[str, object]:
    """What makes an event the one that it is; a repetition may tell the person's name otherwise."""
    fields = type(event.payload).model_fields.items()
    lasting = {name for name, field in fields if field.repr and name != "timestamp"}
    return {"kind": event.kind, **event.payload.model_dump(include=lasting)}
