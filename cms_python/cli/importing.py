"""``cms-python import``: the command's options, its files, and what it says."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import tzinfo
from pathlib import Path
from typing import Any, Optional

import click
from dateutil.parser import isoparse

from cms_python import Outbox
from cms_python.cli.columns import ARGUMENTS, FIELDS, ColumnError, Columns, Rules
from cms_python.cli.common import (
    INTERRUPTED,
    Command,
    Connection,
    Unusable,
    connection_options,
    interruptions,
    print_json,
    without_retries,
)
from cms_python.cli.load import Files, Import, State
from cms_python.cli.rows import Source, SourceError, opened
from cms_python.delivery.outbox import OutboxError, OutboxStats

__all__ = ["import_"]

# Digits of a fingerprint that tell one standard input from another.
SHORT = 12

EXAMPLES = (
    "cms-python import leads.csv --kind lead --dry-run",
    "cms-python import sales.csv --kind sale --amount-unit major --timezone Europe/Berlin",
    "cms-python import orders.csv.gz --kind sale --map 'Order No.=invoice_id' \\",
    "    --default event_name=purchase_completed --ignore '*'",
    "zcat events.jsonl.gz | cms-python import -",
)


@without_retries
@click.command("import", cls=Command, examples=EXAMPLES)
@click.argument("file", metavar="FILE|-")
@click.option(
    "--kind", type=click.Choice(list(ARGUMENTS)), help="What the rows are, if no column says."
)
@click.option("--map", "fields", multiple=True, metavar="COLUMN=FIELD", help="What a column holds.")
@click.option(
    "--ignore",
    "ignored",
    multiple=True,
    metavar="COLUMN",
    help="Passes over a column; * for all that are not known.",
)
@click.option(
    "--default",
    "defaults",
    multiple=True,
    metavar="FIELD=VALUE",
    help="What counts where a cell is blank.",
)
@click.option(
    "--amount-unit",
    type=click.Choice(["cents", "major"]),
    default="cents",
    show_default=True,
    help="What amounts are in: major is 49.99.",
)
@click.option(
    "--timezone", metavar="ZONE", help="Of times without one: UTC, +02:00 or Europe/Berlin."
)
@click.option(
    "--encoding", metavar="NAME", help="Of the text. By default UTF-8, or what its first bytes say."
)
@click.option(
    "--delimiter",
    callback=lambda _context, _option, value: _character(value),
    metavar="CHARACTER",
    help="Between cells, or the word tab. By default what the headings show.",
)
@click.option("--skip-bad", is_flag=True, help="Sends the good rows although some are wrong.")
@click.option("--dry-run", is_flag=True, help="Checks the rows, and sends nothing.")
@click.option(
    "--rate",
    type=click.FloatRange(0.01, 1_000_000),
    metavar="NUMBER",
    help="Requests a second at most.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="How many requests at a time.",
)
@click.option(
    "--outbox",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where events wait. By default FILE.outbox.db.",
)
@click.option(
    "--progress-every",
    type=click.FloatRange(0.1),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two lines where there is no terminal.",
)
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON on stdout.")
@connection_options
def import_(file: str, connection: Connection, as_json: bool, **options: Any) -> int:
    """Sends the leads and sales of a FILE: CSV, TSV or JSON lines, plain or gzip.

    Every row is checked first, and nothing is sent if one is wrong; the wrong ones are written to
    FILE.errors.csv. Then the events are queued in FILE.outbox.db and sent from there. An import
    that was interrupted goes on where it was when it is started again.

    Columns are named as the arguments of track_lead and track_sale, or as on the wire.
    """
    # While rows are read and checked SIGTERM goes the same way out as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shown = "Standard input" if file == "-" else file
    try:
        with opened(None if file == "-" else Path(file)) as stream:
            work = _prepared(
                file, Source(stream, options["encoding"], options["delimiter"]), options
            )
            summary = _carried_out(work, connection, options)
    except SourceError as error:
        raise Unusable(f"{shown} {error}.") from None
    except ColumnError as error:
        raise Unusable(f"{shown}: {error}.") from None
    except OSError as error:
        raise Unusable(f"{error.filename or shown}: {error.strerror}.") from None
    except OutboxError as error:
        raise click.ClickException(f"{error} What is queued is kept: {_again()}") from None
    except KeyboardInterrupt:
        click.echo(f"Interrupted. What is queued is kept: {_again()}", err=True)
        return INTERRUPTED
    if as_json:
        print_json(summary)
    else:
        _say(summary)
    return int(any(summary[name] for name in ("wrong", "failed", "waiting")))


def _prepared(file: str, source: Source, options: dict[str, Any]) -> Import:
    """The import of a source, with nothing done yet."""
    fingerprint = source.fingerprint()
    headings = source.headings()
    told = {name: options[name] for name in _TOLD}
    return Import(
        _files(file, fingerprint, options["outbox"]),
        source,
        Columns(headings, _rules(options)),
        headings,
        options["progress_every"],
        State(fingerprint, json.loads(json.dumps(told))),
    )


# What decides which events a file's rows are.
_TOLD = (
    "kind",
    "fields",
    "ignored",
    "defaults",
    "amount_unit",
    "timezone",
    "encoding",
    "delimiter",
)


def _character(value: Optional[str]) -> Optional[str]:
    character = "\t" if value == "tab" else value
    if character is not None and (len(character) != 1 or character in '"\r\n '):
        raise click.BadParameter("must be one character, such as ; or the word tab")
    return character


def _files(file: str, fingerprint: str, outbox: Optional[Path]) -> Files:
    path = Path("stdin" if file == "-" else file)
    if file == "-" or not path.is_file():
        # What comes from a pipe is known by what it holds.
        path = path.with_name(f"{path.name}-{fingerprint[:SHORT]}")
    beside = path.with_name(f"{path.name}.outbox.db")
    return Files(file, outbox or beside, path.with_name(f"{path.name}.errors.csv"))


def _rules(options: dict[str, Any]) -> Rules:
    return Rules(
        options["kind"],
        _pairs("--map", options["fields"], of=1),
        options["ignored"],
        _pairs("--default", options["defaults"], of=0),
        options["amount_unit"],
        _zone(options["timezone"]),
    )


def _pairs(option: str, values: Sequence[str], of: int) -> dict[str, str]:
    """What stands left and right of the = signs; a field is named on the side ``of``."""
    pairs = {}
    for value in values:
        pair = value.rpartition("=")[::2] if of else value.partition("=")[::2]
        if "=" not in value or pair[of] not in FIELDS:
            raise click.UsageError(f"{option} {value!r} names no field: {', '.join(FIELDS)}.")
        pairs[pair[0]] = pair[1]
    return pairs


def _zone(name: Optional[str]) -> Optional[tzinfo]:
    if name is None:
        return None
    # Imported late, for it is needed by few.
    from zoneinfo import ZoneInfo

    try:
        if name[:1] in {"+", "-"}:
            return isoparse(f"2000-01-01T00:00:00{name}").tzinfo
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise click.UsageError(
            f"--timezone {name!r} is not known: write UTC, +02:00, or a name such as Europe/Berlin."
        ) from None


def _carried_out(work: Import, connection: Connection, options: dict[str, Any]) -> dict[str, Any]:
    """Checks and sends; tells what came of it."""
    dry_run = options["dry_run"]
    if not dry_run:
        _go_on(work)
    if not work.kept:
        work.check()
    stats: Optional[OutboxStats] = None
    if work.state.good and not dry_run and (options["skip_bad"] or not work.state.bad):
        outbox = Outbox(
            work.files.outbox, workers=options["workers"], rate=options["rate"], max_events=2**53
        )
        client = connection.client(outbox)
        with interruptions() as interruption, client:
            stats = work.send(outbox, interruption)
        if interruption.is_asked:
            raise KeyboardInterrupt
    return _summary(work, stats, dry_run)


def _go_on(work: Import) -> None:
    """Takes up an earlier run of the same import. Raises Unusable if it is of another."""
    path, fresh = work.files.outbox, work.state
    if not path.exists():
        return
    with closing(Outbox(path, send=False)) as outbox:
        kept, stats = outbox.checkpoint(), outbox.stats()
    if not kept:
        if stats.queued or stats.dead or stats.delivered:
            raise Unusable(f"{path} is the outbox of something else: name another --outbox.")
        return
    try:
        work.go_on(kept)
    except (ValueError, TypeError):
        raise Unusable(f"{path} is the outbox of something else: name another --outbox.") from None
    if work.state.fingerprint != fresh.fingerprint:
        raise Unusable(
            f"{work.files.shown} is not the file that it was when its import began, of which"
            f" {stats.queued} events wait in {path}. Put it back to go on, or send these with"
            f" 'cms-python outbox drain {path}' and import the new file under another name."
        )
    if work.state.options != fresh.options:
        raise Unusable(
            f"the import of {work.files.shown} began with other options, which its events were"
            f" made with: pass the same, or remove {path} to begin anew."
        )


def _summary(work: Import, stats: Optional[OutboxStats], dry_run: bool) -> dict[str, Any]:
    state, files = work.state, work.files
    return {
        "file": files.shown,
        "rows": state.rows,
        "wrong": state.bad,
        "delivered": stats.delivered if stats else 0,
        "failed": stats.dead if stats else 0,
        "waiting": stats.queued if stats else 0,
        "paused": stats.paused if stats else None,
        "dry_run": dry_run,
        "errors": str(files.errors) if state.bad else None,
        "outbox": str(files.outbox) if stats else None,
    }


def _say(summary: dict[str, Any]) -> None:
    file, outbox, rows = summary["file"], summary["outbox"], f"{summary['rows']:,} rows"
    if outbox is None:
        sent = "nothing was sent"
    else:
        sent = ", ".join(f"{summary[name]:,} {name}" for name in ("delivered", "failed", "waiting"))
    click.echo(f"{file}: {rows}, {summary['wrong']:,} wrong; {sent}.")
    if summary["errors"]:
        advice = "" if outbox or summary["dry_run"] else " To send the others now, pass --skip-bad."
        click.echo(f"Mend the wrong rows in {summary['errors']} and import that file.{advice}")
    if summary["failed"]:
        click.echo(f"See why events failed: cms-python outbox dead {outbox}")
    if summary["paused"]:
        click.echo(f"The API lets nothing in: {summary['paused']} See 'cms-python check'.")
    if summary["waiting"]:
        click.echo(_again())


def _again() -> str:
    return f"go on with: {shlex.join(['cms-python', *sys.argv[1:]])}"
