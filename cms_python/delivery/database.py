"""The connection to the outbox's SQLite file: turns, transactions, versions and forks."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Optional, Union

__all__ = ["Database", "OutboxError"]

APPLICATION = 0x434D5331  # "CMS1": tells our files from other programs'.
# Seconds to wait for another process, or another thread, that uses the file.
BUSY_SECONDS = 5.0


class OutboxError(Exception):
    """The file cannot take or give events: full, read-only, locked, corrupt or another's."""


class _Turn:
    """The use of the file by one thread, from before it waits for the lock."""

    # Set, not called: Ctrl-C may come between any two calls, and must not shut the thread out. On
    # Python 3.9 it may come before this too; a turn that nobody has any more is over as well.
    is_over = False


class Database:
    """One file. A process has one connection to it, made at first use and anew after a fork.

    ``schemas`` are scripts, each of which takes the file to its next version.
    """

    _connection: Optional[sqlite3.Connection] = None

    def __init__(self, path: Union[str, os.PathLike[str]], schemas: Sequence[str]) -> None:
        # A program may change its directory later, as daemons do.
        self._path = Path(path).absolute()
        self._schemas = schemas
        self._identity: Optional[tuple[int, int]] = None
        self._lock = threading.RLock()
        # By thread.
        self._turns: dict[int, weakref.ref[_Turn]] = {}
        self._is_cut_off = False
        self._has_log = False
        with _begins:
            _databases.add(self)

    def __del__(self) -> None:
        # Left to the garbage collector, it could be closed in the midst of a fork.
        if self._connection:
            with _ends:
                self._disconnect()

    @property
    def path(self) -> Path:
        """The file, absolute."""
        return self._path

    @contextmanager
    def transaction(
        self,
        begin: str = "BEGIN IMMEDIATE",
        *,
        is_durable: bool = True,
        patience: Optional[float] = None,
    ) -> Iterator[sqlite3.Connection]:
        """The one place that locks, begins, commits and translates SQLite's errors.

        What is durable is on the disk when it is over, with all that was before it. For other
        threads and other processes together it waits ``patience`` seconds.
        """
        turn = _Turn()
        patience = BUSY_SECONDS if patience is None else patience
        deadline = monotonic() + patience
        try:
            if not self._enter(turn, patience):
                raise OutboxError("The outbox cannot be used: others keep it busy.")
            if self._connection and not self._is_in_place():
                self._disconnect()
            db = self._connection or self._connect(deadline - monotonic())
            if db.in_transaction:
                # Ctrl-C came just where an earlier one was to be rolled back.
                db.execute("ROLLBACK")
            try:
                left = max(deadline - monotonic(), 0.0)
                db.execute(f"PRAGMA busy_timeout = {left * 1000:.0f}")
                if self._has_log:
                    # Only a write-ahead log stays whole without a sync each time.
                    db.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
                db.execute(begin)
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    with suppress(sqlite3.Error):
                        db.execute("ROLLBACK")
        except (sqlite3.Error, OSError) as error:
            raise OutboxError(f"The outbox cannot be used: {error}.") from None
        finally:
            turn.is_over = True
            self._leave(turn)

    def close(self) -> None:
        """Closes the connection. A later use opens another."""
        turn = _Turn()
        try:
            if self._enter(turn, BUSY_SECONDS):
                self._disconnect()
        finally:
            turn.is_over = True
            self._leave(turn)

    # Turns

    def _enter(self, turn: _Turn, seconds: float) -> bool:
        """Takes the lock, unless this very thread has a turn: a handler of a signal may try."""
        other = self._turn()
        if other and not other.is_over:
            return False
        self._turns[threading.get_ident()] = weakref.ref(turn)
        return self._lock.acquire(timeout=seconds)

    def _leave(self, turn: _Turn) -> None:
        """Gives back what this turn has taken; one that was refused leaves the other's alone."""
        if self._turn() is turn:
            self._turns.pop(threading.get_ident(), None)
            # All of it: Ctrl-C may have kept this thread from giving it back at an earlier turn.
            with suppress(RuntimeError):
                while True:
                    self._lock.release()

    def _turn(self) -> Optional[_Turn]:
        """The turn that this very thread has taken."""
        taken = self._turns.get(threading.get_ident())
        return taken() if taken else None

    # The connection

    def _connect(self, patience: float) -> sqlite3.Connection:
        if self._is_cut_off:
            raise OutboxError("The outbox cannot be used: it was in use when the process forked.")
        # Made before SQLite opens it, for its mode. One that is there is not opened: closing it
        # would drop the locks that another connection of this process holds on it.
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        db = _opened(self._path, patience)
        try:
            if self._version(db) == 0:
                # What another connection uses cannot be changed.
                db.close()
                _choose_journal(self._path, patience)
                db = _opened(self._path, patience)
            # A commit returns once it is on the disk, whatever SQLite was built with.
            db.execute("PRAGMA synchronous = FULL")
            self._has_log = db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            self._upgrade(db)
        except BaseException:
            db.close()
            raise
        self._connection, self._identity = db, _identity(self._path)
        return db

    def _upgrade(self, db: sqlite3.Connection) -> None:
        if self._version(db) == len(self._schemas):
            return
        db.execute("BEGIN IMMEDIATE")
        # Another process may just have done it.
        for script in self._schemas[self._version(db) :]:
            for statement in script.split(";"):
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(f"PRAGMA user_version = {len(self._schemas)}")
        db.execute("COMMIT")

    def _version(self, db: sqlite3.Connection) -> int:
        """The version of the file, 0 if it is empty. Raises OutboxError if it is not for us."""
        # Looked at in one moment, for another process may just be making the file.
        db.execute("SAVEPOINT look")
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        db.execute("RELEASE look")
        if application != APPLICATION and (application, version, tables) != (0, 0, 0):
            raise OutboxError(f"{self._path} belongs to another program: choose another path.")
        if version > len(self._schemas):
            raise OutboxError(f"{self._path} is of a newer version: update cms-python-client.")
        return int(version)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection and not self._is_in_place():
            # To close it would remove the log of the file that has taken its place.
            _keep_for_ever(connection)
        elif connection:
            with suppress(sqlite3.Error):
                connection.close()

    def _is_in_place(self) -> bool:
        """Whether the file that is open is the one at the path: somebody may have removed it."""
        return self._identity == _identity(self._path)

    # Forks

    def before_fork(self, turn: _Turn) -> None:
        """Lets no thread be inside SQLite, and no connection be open, at the fork.

        SQLite remembers by file which locks the process holds. A child that inherited an open file
        would believe that it holds the parent's, and other processes would write over it.
        """
        if self._enter(turn, 2 * BUSY_SECONDS):
            self._disconnect()

    def after_fork_in_parent(self, turn: _Turn) -> None:
        turn.is_over = True
        self._leave(turn)

    def after_fork_in_child(self) -> None:
        self._lock, self._turns = threading.RLock(), {}
        if self._connection:
            _keep_for_ever(self._connection)
            self._connection, self._is_cut_off = None, True


def _identity(path: Path) -> Optional[tuple[int, int]]:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _opened(path: Path, patience: float) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=max(patience, 0.0), isolation_level=None, check_same_thread=False
    )


def _choose_journal(path: Path, patience: float) -> None:
    """A write-ahead log, or where the file system has none, a rollback journal."""
    with closing(_opened(path, patience)) as db:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            # Only use shows whether the file system can share memory.
            db.execute("BEGIN IMMEDIATE")
            db.execute("ROLLBACK")
            return
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                return  # Another process is just making the file.
    with closing(_opened(path, patience)) as db:
        # This alone spares SQLite the shared memory that it would need to look into the file.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = DELETE")


def _keep_for_ever(connection: sqlite3.Connection) -> None:
    """Keeps a connection from being closed, even at exit, where that would harm a file."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
# Held while a database is made, and while one that nobody has any more is closed. A fork holds
# both, the second only once it has its turns: who closes one may be in the midst of another.
_begins, _ends = threading.RLock(), threading.RLock()


class _Fork(threading.local):
    """The turns that a thread has taken to fork. Two threads may fork at once."""

    def __init__(self) -> None:
        self.turns: dict[Database, _Turn] = {}


_fork = _Fork()


def _before_fork() -> None:
    _begins.acquire()
    for database in tuple(_databases):
        # Noted first: Ctrl-C may end the waiting, and Python forks all the same.
        turn = _fork.turns[database] = _Turn()
        database.before_fork(turn)
    _ends.acquire()


def _after_fork_in_parent() -> None:
    for lock in (_ends, _begins):
        # Not taken where Ctrl-C came.
        with suppress(RuntimeError):
            lock.release()
    while _fork.turns:
        database, turn = _fork.turns.popitem()
        database.after_fork_in_parent(turn)


def _after_fork_in_child() -> None:
    global _begins, _ends
    _begins, _ends = threading.RLock(), threading.RLock()
    _fork.turns.clear()
    for database in _databases:
        database.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
