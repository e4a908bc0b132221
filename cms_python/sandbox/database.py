"""The store that outlives its sandbox: a SQLite file."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cms_python.sandbox.answers import Answer
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

_VERSION = 1
# "CMSb": tells a file of the sandbox from those of other programs, and of this package's others.
_APPLICATION = 0x434D5362
_BUSY_MILLISECONDS = 10_000
_TABLES = (
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
    "CREATE TABLE events (id INTEGER PRIMARY KEY, identity TEXT UNIQUE, document TEXT NOT NULL)",
    "CREATE TABLE clicks (customer TEXT PRIMARY KEY, click_id TEXT NOT NULL)",
    "CREATE TABLE answers (idempotency_key TEXT PRIMARY KEY, document TEXT NOT NULL)",
    "CREATE TABLE entries (id INTEGER PRIMARY KEY, kind TEXT, search TEXT, document TEXT NOT NULL)",
    # Text, because a sum of amounts may be larger than what SQLite takes for a whole number.
    "CREATE TABLE tallies (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "INSERT INTO counters VALUES ('entry', 0), ('event', 0), ('reset', 0)",
)
_FORGET = (
    "DELETE FROM events",
    "DELETE FROM clicks",
    "DELETE FROM answers",
    "DELETE FROM entries",
    "DELETE FROM tallies",
    "UPDATE counters SET value = value + 1 WHERE name = 'entry'",
    "UPDATE counters SET value = 0 WHERE name = 'event'",
    # The reset's own id, which is the last one now.
    "UPDATE counters SET value = (SELECT max(value) FROM counters) WHERE name = 'reset'",
)
_ENTRIES = (
    "SELECT document, id FROM entries WHERE id > ? AND id < ? AND (? IS NULL OR kind = ?) "
    "AND (? = '' OR instr(search, ?)) ORDER BY id {} LIMIT ?"
)
# Held from the look whether a file is there until it is: two sandboxes may start at once.
_making = threading.Lock()


class Database(Store):
    """Keeps everything, until a reset.

    Texts that strangers chose are stored as JSON in ASCII: not all that JSON takes for text, half
    a surrogate pair for one, is text to SQLite.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).absolute()
        # One connection for all threads, and a lock around it.
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._depth = 0
        self._stays_open = False

    # The connection: these alone connect, lock, begin and commit.

    def open(self) -> None:
        with self._lock:
            self._stays_open = True
            try:
                with self.transaction():
                    return  # it can be used
            except BaseException:
                self._stays_open = False
                raise

    def close(self) -> None:
        with self._lock:
            self._stays_open = False
            self._disconnect()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._lock:
            self._connection = self._connection or _connect(self._path)
            if self._depth == 0:
                self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._leave("ROLLBACK")
                raise
            self._leave("COMMIT")

    def _leave(self, how: str) -> None:
        self._depth -= 1
        if self._depth == 0 and self._connection is not None:
            self._connection.execute(how)
            if not self._stays_open:
                self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _sql(self, statement: str, *values: Any) -> list[Any]:
        with self.transaction():
            assert self._connection is not None  # noqa: S101 - transaction() has made one
            return self._connection.execute(statement, values).fetchall()

    def _document(self, statement: str, key: str) -> Any:
        rows = self._sql(statement, key)
        return json.loads(rows[0][0]) if rows else None

    def _next(self, counter: str) -> int:
        self._sql("UPDATE counters SET value = value + 1 WHERE name = ?", counter)
        return self._counter(counter)

    def _counter(self, name: str) -> int:
        value: int = self._sql("SELECT value FROM counters WHERE name = ?", name)[0][0]
        return value

    def reset(self, announce: Callable[[int], None]) -> None:
        with self._lock:
            with self.transaction():
                for statement in _FORGET:
                    self._sql(statement)
            announce(self._counter("reset"))

    # What the rules ask for

    def add(self, event: RecordedEvent, identity: str) -> RecordedEvent:
        with self.transaction():
            event = replace(event, id=self._next("event"))
            document = json.dumps({**vars(event), "received_at": event.received_at.isoformat()})
            self._sql("INSERT INTO events VALUES (?, ?, ?)", event.id, identity, document)
            return event

    def events(self) -> list[RecordedEvent]:
        rows = self._sql("SELECT document FROM events ORDER BY id DESC LIMIT ?", KEPT)
        return [_event(json.loads(document)) for (document,) in reversed(rows)]

    def event(self, identity: str) -> RecordedEvent | None:
        document = self._document("SELECT document FROM events WHERE identity = ?", identity)
        return None if document is None else _event(document)

    def deferred_clicks(self) -> dict[str, str]:
        rows = self._sql("SELECT customer, click_id FROM clicks ORDER BY rowid")
        return {json.loads(customer): json.loads(click) for customer, click in rows}

    def click(self, customer: str) -> str | None:
        found: str | None = self._document(
            "SELECT click_id FROM clicks WHERE customer = ?", json.dumps(customer)
        )
        return found

    def store_click(self, customer: str, click_id: str) -> None:
        values = json.dumps(customer), json.dumps(click_id)
        self._sql("INSERT INTO clicks VALUES (?, ?)", *values)

    def kept_answer(self, key: str) -> KeptAnswer | None:
        kept = self._document("SELECT document FROM answers WHERE idempotency_key = ?", key)
        if kept is None:
            return None
        answer = {**kept["answer"], "body": kept["answer"]["body"].encode()}
        return KeptAnswer(kept["path"], kept["payload"], Answer(**answer))

    def keep_answer(self, key: str, kept: KeptAnswer) -> None:
        answer = {**vars(kept.answer), "body": kept.answer.body.decode()}
        document = json.dumps({**vars(kept), "answer": answer})
        self._sql("INSERT INTO answers VALUES (?, ?)", key, document)

    # What is shown

    def add_entry(self, entry: Entry, announce: Callable[[Entry], None]) -> Entry:
        with self._lock:
            with self.transaction():
                entry = replace(entry, id=self._next("entry"))
                search = entry.search_text().encode(errors="replace").decode()
                values = entry.id, entry.kind, search, entry.to_json()
                self._sql("INSERT INTO entries VALUES (?, ?, ?, ?)", *values)
                self._tally(entry)
            announce(entry)
            return entry

    def _tally(self, entry: Entry) -> None:
        totals = self.tallies()
        for name, number in tallies(entry):
            total = str(totals.get(name, 0) + number)
            self._sql("INSERT OR REPLACE INTO tallies VALUES (?, ?)", name, total)
        for name in past_minutes(totals, entry):
            self._sql("DELETE FROM tallies WHERE name = ?", name)

    def entries(self, query: Query) -> list[Entry]:
        before = 2**63 - 1 if query.before is None else query.before
        search = query.search.casefold().encode(errors="replace").decode()
        rows = self._sql(
            _ENTRIES.format("DESC" if query.newest else "ASC"),
            *(query.after, before, query.kind, query.kind, search, search, query.limit),
        )
        found = [Entry(**{**json.loads(document), "id": number}) for document, number in rows]
        return found[::-1] if query.newest else found

    def last_ids(self) -> tuple[int, int]:
        with self.transaction():
            return self._counter("entry"), self._counter("reset")

    def tallies(self) -> dict[str, int]:
        return {name: int(value) for name, value in self._sql("SELECT name, value FROM tallies")}


def _connect(path: Path) -> sqlite3.Connection:
    try:
        # SQLite would make a file that everybody may read. One that is there is not opened: closing
        # it would drop the locks that another connection of this process holds on it.
        with _making:
            if not path.is_file():
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise _cannot_use(path, str(error)) from error
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise _cannot_use(path, str(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    # First of all, since to change the journal's mode one may have to wait as well.
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
    # Asked before anything is changed: the file might not be ours.
    _check_origin(connection, path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN IMMEDIATE")
    if _pragma(connection, "user_version") == 0:
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute("COMMIT")


def _check_origin(connection: sqlite3.Connection, path: Path) -> None:
    version = _pragma(connection, "user_version")
    is_new = version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchall()
    if not is_new and _pragma(connection, "application_id") != _APPLICATION:
        raise _cannot_use(path, "it is the file of another program")
    if version > _VERSION:
        raise _cannot_use(path, "a newer version of cms-python-client has written it")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _cannot_use(path: Path, reason: str) -> OSError:
    return OSError(f"The sandbox cannot use {path}: {reason}")


def _event(document: dict[str, Any]) -> RecordedEvent:
    received_at = datetime.fromisoformat(document["received_at"])
    return RecordedEvent(**{**document, "received_at": received_at})
