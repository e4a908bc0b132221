"""One import: check every row, queue the events in an outbox, drain it."""

from __future__ import annotations

import csv
import filecmp
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, Optional

from cms_python import Event, Outbox
from cms_python.cli.columns import ERROR_COLUMNS, Columns
from cms_python.cli.common import Interruption
from cms_python.cli.progress import Progress
from cms_python.cli.rows import Row, Source
from cms_python.delivery.outbox import OutboxStats
from cms_python.events import InvalidEvent

__all__ = ["Files", "Import", "State"]

BATCH = 500
# Rows between two looks at the clock while rows are checked.
GLANCE = 200
POLL = 0.1
# One in so many seconds may go into asking how far it is.
STATS_SHARE = 20


@dataclass
class State:
    """How far an import is. Kept in the outbox, in the step that queues the rows it speaks of."""

    fingerprint: str
    options: dict[str, Any]
    rows: int = 0
    good: int = 0
    bad: int = 0
    read: int = 0
    is_complete: bool = False


class Files(NamedTuple):
    """What is imported, as it is shown, and the files beside it."""

    shown: str
    outbox: Path
    errors: Path


class _Batch(NamedTuple):
    """Events, and the number of the last row that was read for them."""

    events: list[Event]
    last: int


@dataclass
class Import:
    """One import of one file."""

    files: Files
    source: Source
    columns: Columns
    headings: list[str]
    every: float
    state: State
    kept: str = ""
    _ask_at: float = field(default=0.0, init=False)

    def go_on(self, kept: str) -> None:
        """Takes up what an earlier run has kept in the outbox."""
        self.kept, self.state = kept, State(**json.loads(kept))

    # First pass

    def check(self) -> None:
        """Counts good and bad rows, and writes the bad ones to a file of their own."""
        with Progress("Checking", self.source.size, "B", self.every) as progress:
            self._write_errors(self._bad_rows(progress))

    def _bad_rows(self, progress: Progress) -> Iterator[dict[str, Any]]:
        for row in self.source.rows():
            self.state.rows += 1
            if self.state.rows % GLANCE == 0 and progress.is_due():
                more = f"{self.state.rows:,} rows read, {self.state.bad:,} wrong"
                progress.show(self.source.position, more)
            try:
                self.columns.event(row, self.state.fingerprint)
                self.state.good += 1
            except InvalidEvent as error:
                self.state.bad += 1
                yield self._mended(row, error)

    def _mended(self, row: Row, error: InvalidEvent) -> dict[str, Any]:
        """A bad row as it is written: its own cells, and what is wrong with them."""
        names = [self.columns.heading(name) for name in error.details]
        reasons = [f"{name} {why}" for name, why in zip(names, error.details.values())]
        told = zip(ERROR_COLUMNS, [row.number, ", ".join(names), "; ".join(reasons)])
        return {**self.columns.mended_cells(row), **dict(told)}

    def _write_errors(self, bad: Iterator[dict[str, Any]]) -> None:
        first = next(bad, None)
        if first is None:
            return
        names = [*self.columns.mended_headings(self.headings), *ERROR_COLUMNS]
        encoding = self.source.encoding
        delimiter = "," if self.source.is_json else self.source.delimiter
        written = Path(f"{self.files.errors}.new")
        written.unlink(missing_ok=True)
        # They hold personal data, as the outbox does.
        written.touch(0o600, exist_ok=False)
        with written.open("w", encoding=encoding, newline="") as file:
            writer = csv.DictWriter(file, names, delimiter=delimiter, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(itertools.chain([first], bad))
        if self.files.errors.exists() and not filecmp.cmp(
            self.files.errors, written, shallow=False
        ):
            # It may have been mended by hand, and not imported yet.
            self.files.errors.replace(_unused(f"{self.files.errors}.old"))
        written.replace(self.files.errors)

    # Second pass

    def send(self, outbox: Outbox, interruption: Interruption) -> OutboxStats:
        """Queues what is not queued yet while it is sent.

        Returns when all is sent, when the outbox is paused, or when the user has had enough.
        """
        with Progress("Sending", self.state.good, "events", self.every) as progress:
            self._queue(outbox, progress, interruption)
            while True:
                is_drained = outbox.flush(timeout=POLL)
                if is_drained or interruption.is_asked or monotonic() >= self._ask_at:
                    stats = self._stats(outbox, progress)
                    if stats.queued == 0 or stats.paused or interruption.is_asked:
                        return stats

    def _queue(self, outbox: Outbox, progress: Progress, interruption: Interruption) -> None:
        if self.state.is_complete:
            return
        for batch in self._batches():
            if interruption.is_asked:
                return
            self.state.read = batch.last
            self._add(outbox, batch.events)
            if progress.is_due() and monotonic() >= self._ask_at:
                self._stats(outbox, progress)
        self.state.is_complete = True
        self._add(outbox, [])

    def _add(self, outbox: Outbox, events: list[Event]) -> None:
        """Queues events together with how far that brings the import."""
        text = json.dumps(vars(self.state))
        outbox.add_all(events, text, after=self.kept)
        self.kept = text

    def _batches(self) -> Iterator[_Batch]:
        rows = self._unread_rows()
        while True:
            taken = list(itertools.islice(rows, BATCH))
            if not taken:
                return
            yield _Batch(list(self._events(taken)), taken[-1].number)

    def _unread_rows(self) -> Iterator[Row]:
        for row in self.source.rows():
            if row.number > self.state.read:
                yield row
            elif self.state.bad:
                # It may be what makes a later row wrong, which names the same key.
                self._event(row)

    def _events(self, rows: Iterable[Row]) -> Iterator[Event]:
        return filter(None, map(self._event, rows))

    def _event(self, row: Row) -> Optional[Event]:
        try:
            return self.columns.event(row, self.state.fingerprint)
        except InvalidEvent:
            # What is wrong was told in the first pass.
            return None

    def _stats(self, outbox: Outbox, progress: Progress) -> OutboxStats:
        """Asks how far it is, and shows that if it is time to."""
        started = monotonic()
        stats = outbox.stats()
        # In a large file it takes its time, and keeps the senders from theirs.
        self._ask_at = started + STATS_SHARE * (monotonic() - started)
        if progress.is_due():
            more = f"{self.state.rows:,} rows read, {stats.dead:,} failed, {stats.queued:,} waiting"
            progress.show(stats.delivered, more)
        return stats


def _unused(name: str) -> str:
    """The name, or where there is such a file, the first of name.2, name.3 and so on."""
    names = itertools.chain([name], (f"{name}.{number}" for number in itertools.count(2)))
    return next(each for each in names if not Path(each).exists())
