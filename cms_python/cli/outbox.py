"""``cms-python outbox``: looks after the file of an outbox."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any, Optional

import click

from cms_python.cli.common import (
    INTERRUPTED,
    Command,
    Connection,
    Interruption,
    connection_options,
    fail,
    interruptions,
    print_json,
    without_retries,
)
from cms_python.cli.progress import Progress
from cms_python.delivery.outbox import MOST_WORKERS, DeadEvent, Outbox, OutboxError, OutboxStats
from cms_python.events import Event

__all__ = ["group"]

# Seconds between two looks at how far the sending has come.
LOOK = 0.25
# Seconds between two lines where there is no terminal.
REPORT_EVERY = 30.0
WIDEST_CELL = 40

_file_argument = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("outbox")
def group() -> None:
    """Shows what an outbox's file holds, sends it, and deals with dead events."""


@group.command(
    cls=Command,
    examples=[
        "cms-python outbox stats events.db",
        "cms-python outbox stats events.db --json",
    ],
)
@_file_argument
@_json_option
def stats(file: Path, as_json: bool) -> None:
    """Tells how many events are queued, dead and delivered."""
    with _opened(file) as held:
        found = held.stats()
    if as_json:
        print_json(asdict(found))
    else:
        _print_table(_stats_rows(found))


@without_retries
@group.command(
    cls=Command,
    examples=[
        "cms-python outbox drain events.db",
        "cms-python outbox drain events.db --workers 16 --for 60",
    ],
)
@_file_argument
@click.option(
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    default=4,
    show_default=True,
    metavar="NUMBER",
    help="How many events are sent at a time.",
)
@click.option(
    "--for",
    "seconds",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="How long to go on at most. By default until nothing is left, however long that takes.",
)
@connection_options
def drain(file: Path, workers: int, seconds: Optional[float], connection: Connection) -> int:
    """Sends what is queued until nothing is left.

    Ends with exit code 1 if something is left, or if the API has refused events for good.
    """
    _check_there(file)
    # What is on its way when the time is up is sent again later, under the same key.
    sending = Outbox(file, workers=workers, drain_timeout=0)
    client = connection.client(sending)
    with _errors_told(), interruptions() as interruption, client:
        before = sending.stats()
        _send(sending, before, math.inf if seconds is None else seconds, interruption)
        after = sending.stats()
    new_dead = max(after.dead - before.dead, 0)
    _tell_end(file, after, after.delivered - before.delivered, new_dead)
    if interruption.is_asked:
        click.echo(f"Interrupted. To go on: {shlex.join(['cms-python', *sys.argv[1:]])}", err=True)
        return INTERRUPTED
    return 1 if after.queued or new_dead else 0


@group.command(
    cls=Command,
    examples=[
        "cms-python outbox dead events.db",
        "cms-python outbox dead events.db --json | jq '.[].error'",
    ],
)
@_file_argument
@_json_option
def dead(file: Path, as_json: bool) -> None:
    """Lists the events that were given up, and what the API last said of each."""
    with _opened(file) as held:
        rows = [_dead_row(each) for each in held.dead()]
    if as_json:
        print_json(rows)
    elif rows:
        # The last, the key, is for programs.
        names = list(rows[0])[:-1]
        heads = [name.replace("_", " ").upper() for name in names]
        _print_table([heads, *([row[name] for name in names] for row in rows)])
    else:
        click.echo("There are no dead events.")


@group.command(cls=Command, examples=["cms-python outbox retry events.db"])
@_file_argument
def retry(file: Path) -> None:
    """Queues all dead events again."""
    with _opened(file) as held:
        count = held.retry_dead()
    click.echo(f"Queued again: {_events(count)}.")
    if count:
        click.echo(f"To send now: cms-python outbox drain {shlex.quote(str(file))}", err=True)


@group.command(
    cls=Command,
    examples=[
        "cms-python outbox purge events.db",
        "cms-python outbox export events.db > dead.jsonl",
        "cms-python outbox purge events.db --exported dead.jsonl --yes",
    ],
)
@_file_argument
@click.option(
    "--exported",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Only the events that stand in FILE as export wrote them, none that died since.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(file: Path, exported: Optional[Path], yes: bool) -> int:
    """Forgets all dead events for good. What is queued stays."""
    with _opened(file) as held:
        chosen = _exported_ids(held, exported) if exported else None
        count = held.stats().dead if chosen is None else len(chosen)
        if count and not yes and not _is_confirmed(count):
            click.echo("Nothing was forgotten.", err=True)
            return 1
        forgotten = held.purge_dead(chosen) if count else 0
    click.echo(f"Forgotten: {_events(forgotten)}.")
    return 0


@group.command(
    cls=Command,
    examples=[
        "cms-python outbox export events.db > dead.jsonl",
        "cms-python outbox export events.db --all > events.jsonl",
    ],
)
@_file_argument
@click.option("--all", "with_queued", is_flag=True, help="The queued events as well.")
def export(file: Path, with_queued: bool) -> int:
    """Prints the dead events as JSON lines that `cms-python import` can read.

    They hold all that was tracked, personal data included.
    """
    unreadable = 0
    with _opened(file) as held:
        for state, event in held.events():
            if event is None:
                unreadable += state == "dead" or with_queued
            elif state == "dead" or with_queued:
                click.echo(_line(event))
    if unreadable:
        fail(f"Left out, for their text in the file cannot be read: {_events(unreadable)}.")
    return 0


# Files


def _check_there(file: Path) -> None:
    """Ends the command unless there is a file: an outbox would make one."""
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        fail(f"{file} does not exist.")
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}.")
    if size == 0:
        fail(f"{file} is empty: it is not the file of an outbox.")


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except OutboxError as error:
        fail(str(error))


@contextmanager
def _opened(file: Path) -> Iterator[Outbox]:
    """The outbox of a file, to look at: nothing is sent."""
    _check_there(file)
    held = Outbox(file, send=False)
    try:
        with _errors_told():
            yield held
    finally:
        held.close()


# Sending


def _send(sending: Outbox, before: OutboxStats, seconds: float, interruption: Interruption) -> None:
    """Returns when nothing is queued, the time is up, or the user has had enough."""
    deadline = monotonic() + seconds
    done_before = before.delivered + before.dead
    with Progress("Sending", total=before.queued, unit="events", every=REPORT_EVERY) as progress:
        while True:
            left = max(deadline - monotonic(), 0.0)
            is_drained = sending.flush(min(LOOK, left))
            now = sending.stats()
            if progress.is_due():
                # Another process may purge dead events meanwhile.
                done = max(now.delivered + now.dead - done_before, 0)
                progress.show(done, f"paused: {_printable(now.paused)}" if now.paused else "")
            if is_drained or left == 0 or interruption.is_asked:
                return


def _tell_end(file: Path, after: OutboxStats, delivered: int, new_dead: int) -> None:
    click.echo(f"Delivered: {delivered}, left: {after.queued}, given up: {new_dead}.", err=True)
    if after.paused is not None:
        click.echo(f"Paused: {_printable(after.paused)}", err=True)
    if new_dead:
        command = f"cms-python outbox dead {shlex.quote(str(file))}"
        click.echo(f"What was given up, and why: {command}", err=True)


# Showing


def _is_confirmed(count: int) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(f"this would forget {_events(count)} for good: pass --yes")
    return click.confirm(f"Forget {_events(count)} for good?", err=True)


def _events(count: int) -> str:
    return f"{count} event" if count == 1 else f"{count} events"


def _stats_rows(found: OutboxStats) -> list[list[Any]]:
    return [
        ["Queued", found.queued],
        ["  sending", found.sending],
        ["  waiting", found.waiting],
        ["Dead", found.dead],
        ["Delivered", found.delivered],
        ["Oldest queued", _duration(found.oldest_age) if found.queued else "-"],
        ["Paused", "no" if found.paused is None else found.paused],
    ]


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} seconds"


def _dead_row(each: DeadEvent) -> dict[str, Any]:
    """What may be shown of a dead event: no personal data."""
    event = each.event
    return {
        "event_id": each.event_id,
        "kind": event and event.kind,
        "event_name": event and event.payload.event_name,
        "customer_external_id": event and event.payload.customer_external_id,
        "attempts": each.attempts,
        "status_code": each.status_code,
        "error": each.error,
        "idempotency_key": event and event.idempotency_key,
    }


def _line(event: Event) -> str:
    """An event as JSON, under the names of our arguments."""
    fields = event.payload.model_dump(mode="json", exclude_none=True)
    return json.dumps({"kind": event.kind, **fields, "idempotency_key": event.idempotency_key})


def _exported_ids(held: Outbox, exported: Path) -> list[int]:
    """The dead events that a file holds, whole and as they are."""
    try:
        # What it holds in another encoding is none of our lines.
        with exported.open(encoding="utf-8", errors="replace") as file:
            lines = {line.strip() for line in file}
    except OSError as error:
        fail(f"{exported} cannot be read: {error.strerror}.")
    return [each.event_id for each in held.dead() if each.event and _line(each.event) in lines]


def _print_table(rows: Sequence[Sequence[Any]]) -> None:
    """Prints columns; the last may be as wide as it likes."""
    texts = [[_printable(each) for each in row] for row in rows]
    narrow = [[*(_shortened(each) for each in row[:-1]), row[-1]] for row in texts]
    widths = [max(map(len, column)) for column in zip(*narrow)]
    for row in narrow:
        cells = (each.ljust(width) for each, width in zip(row, widths))
        click.echo("  ".join(cells).rstrip())


def _printable(value: Any) -> str:
    """A cell that cannot steer the terminal: a server or an application wrote it."""
    text = "?" if value is None else str(value)
    return "".join(each if each.isprintable() else "?" for each in text)


def _shortened(text: str) -> str:
    return text if len(text) <= WIDEST_CELL else f"{text[: WIDEST_CELL - 3]}..."
