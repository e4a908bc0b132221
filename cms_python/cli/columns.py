"""How a row of a file becomes an event: which column is which argument, money, time and key."""

from __future__ import annotations

import hashlib
import inspect
import re
import sqlite3
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from typing import Any, Literal, Optional

from cms_python import CMSClient, money
from cms_python.api.tracking_api import PAYLOADS
from cms_python.cli.rows import Row
from cms_python.events import Event, EventKind, InvalidEvent, read_moment

__all__ = ["ERROR_COLUMNS", "ColumnError", "Columns", "Rules"]

# Added to wrong rows, and passed over when those are imported.
ERROR_COLUMNS = ("error_row", "error_field", "error_reason")
MOST_KNOWN = 10_000
KIND, KEY = "kind", "idempotency_key"


def _arguments(method: Any) -> dict[str, bool]:
    """The arguments of a facade's method, and whether each is required."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    return {each.name: each.default is inspect.Parameter.empty for each in parameters}


ARGUMENTS: dict[EventKind, dict[str, bool]] = {
    kind: _arguments(getattr(CMSClient, f"track_{kind}")) for kind in PAYLOADS
}
FIELDS = (KIND, *dict.fromkeys(name for names in ARGUMENTS.values() for name in names))


class ColumnError(Exception):
    """The headings do not fit; the text says which, and what to do."""


@dataclass(frozen=True)
class Rules:
    """What the command was told of a file's columns."""

    kind: Optional[EventKind] = None
    fields: Mapping[str, str] = field(default_factory=dict)
    ignored: Sequence[str] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    amount_unit: Literal["cents", "major"] = "cents"
    timezone: Optional[tzinfo] = None


class Columns:
    """Makes events of rows. Raises ColumnError where the headings do not tell how."""

    def __init__(self, headings: Sequence[str], rules: Rules) -> None:
        self._rules = rules
        self._fields: dict[str, Optional[str]] = {}
        self._is_named = bool(headings)
        self._keys = _Keys()
        for heading in [*headings, *rules.fields, *rules.defaults]:
            self._field(heading)
        if headings:
            self._check(headings)

    def event(self, row: Row, fingerprint: str) -> Event:
        """The event of a row, with a key that the same row of the same file always has.

        Raises InvalidEvent with what is wrong by argument.
        """
        given = self._given(row)
        kind = self._kind(given.pop(KIND, None))
        for name in [name for name in given if name not in ARGUMENTS[kind]]:
            raise InvalidEvent({name: f"is no field of a {kind}"})
        problems = self._convert(given)
        key = given.pop(KEY, None)
        try:
            event = Event.create(kind, given, key)
        except InvalidEvent as error:
            raise InvalidEvent({**error.details, **problems}) from None
        if problems:
            raise InvalidEvent(problems)
        if key is None:
            return replace(event, idempotency_key=_key(event, row, fingerprint))
        self._keys.note(event.idempotency_key, row.number)
        return event

    def heading(self, name: str) -> str:
        """What the file calls an argument."""
        return next((each for each, known in self._fields.items() if known == name), name)

    def mended_headings(self, headings: Sequence[str]) -> list[str]:
        """The headings under which wrong rows are written: their own, or where rows name their
        own, all fields."""
        return [each for each in headings or FIELDS if each and each not in ERROR_COLUMNS]

    def mended_cells(self, row: Row) -> dict[str, Any]:
        """The row's values under those headings; none for a field that is there twice."""
        if self._is_named:
            return row.cells
        cells: dict[str, Any] = {}
        for heading, value in row.cells.items():
            if not _is_blank(value):
                name = self._fields.get(heading) or heading
                # Neither may be imported without having been looked at.
                cells[name] = None if name in cells else value
        return cells

    def _given(self, row: Row) -> dict[str, Any]:
        """The row's values by argument, without what is blank."""
        if row.problem:
            raise InvalidEvent({"row": row.problem})
        given: dict[str, Any] = {}
        for heading, value in row.cells.items():
            name = self._row_field(heading)
            if name and not _is_blank(value):
                if name in given:
                    raise InvalidEvent({name: "is there twice, under two names: keep one"})
                given[name] = value
        return {**self._rules.defaults, **given}

    def _row_field(self, heading: str) -> Optional[str]:
        try:
            return self._field(heading)
        except ColumnError:
            raise InvalidEvent({heading[:100]: "is no field that is known"}) from None

    def _field(self, heading: str) -> Optional[str]:
        """The argument that a heading stands for; None for a column that is passed over."""
        if heading in self._fields:
            return self._fields[heading]
        found = self._looked_up(heading)
        # The keys of JSON lines may be other ones on each line.
        if len(self._fields) < MOST_KNOWN:
            self._fields[heading] = found
        return found

    def _looked_up(self, heading: str) -> Optional[str]:
        named = self._rules.fields.get(heading)
        if named is not None:
            return named
        if not heading or heading in ERROR_COLUMNS:
            return None
        found = _NAMES.get(_letters(heading))
        if heading in self._rules.ignored or (found is None and "*" in self._rules.ignored):
            return None
        if found is None:
            raise ColumnError(
                f"the column {heading!r} is none that is known: say what it holds with"
                f" --map {heading!r}=FIELD, or pass over it with --ignore {heading!r}"
            )
        return found

    def _check(self, headings: Sequence[str]) -> None:
        missing = [name for name in self._rules.fields if name not in headings]
        if missing:
            raise ColumnError(f"--map names the column {missing[0]!r}, and there is none")
        names = [name for name in map(self._field, headings) if name]
        twice = [name for name, times in Counter(names).items() if times > 1]
        if twice:
            raise ColumnError(f"two columns hold {twice[0]}: pass over one with --ignore HEADING")
        held = {*names, *self._rules.defaults}
        kind = self._rules.kind
        if kind is None and KIND not in held:
            choice = " or ".join(f"--kind {each}" for each in ARGUMENTS)
            raise ColumnError(f"nothing says what the rows are: pass {choice}")
        if kind is not None:
            needed = [name for name, required in ARGUMENTS[kind].items() if required]
            lacking = [name for name in needed if name not in held]
            if lacking:
                raise ColumnError(
                    f"there is no column for {', '.join(lacking)}: name it with --map COLUMN="
                    f"{lacking[0]}, or give one value for all rows with --default {lacking[0]}=..."
                )

    def _kind(self, given: Any) -> EventKind:
        kind = given.strip().lower() if isinstance(given, str) else given
        if _is_blank(kind):
            kind = self._rules.kind
        for known in ARGUMENTS:
            if kind == known:
                if self._rules.kind not in {None, known}:
                    raise InvalidEvent({KIND: f"is {known}, and --kind says {self._rules.kind}"})
                return known
        raise InvalidEvent({KIND: f"must be {' or '.join(ARGUMENTS)}"})

    def _convert(self, given: dict[str, Any]) -> dict[str, str]:
        """Turns texts into what the facade takes; tells what cannot be."""
        problems = {name: self._convert_one(name, given) for name in given}
        return {name: problem for name, problem in problems.items() if problem}

    def _convert_one(self, name: str, given: dict[str, Any]) -> Optional[str]:
        try:
            given[name] = self._converted(name, given[name], given)
        except ValueError as error:
            return str(error)
        return None

    def _converted(self, name: str, value: Any, given: Mapping[str, Any]) -> Any:
        if name == "amount":
            return self._amount(value, str(given.get("currency", "")).upper())
        # Ids are numbers in many JSON files, and so is a date such as 20260131.
        plain = str(value) if type(value) is int else value
        if name == "timestamp" and isinstance(plain, str):
            return self._moment(plain)
        return plain

    def _amount(self, value: Any, currency: str) -> Any:
        if isinstance(value, (bool, list, dict)):
            raise ValueError("must be a number")
        text = str(value)
        if self._rules.amount_unit == "major":
            return money.minor_units(text, currency)
        if not _CENTS.fullmatch(text):
            raise ValueError(
                "must be whole cents: 4999 means 49.99; for amounts such as 49.99"
                " pass --amount-unit major"
            )
        return int(text)

    def _moment(self, text: str) -> datetime:
        moment = read_moment(text)
        if moment.tzinfo is not None:
            return moment
        if self._rules.timezone is None:
            raise ValueError("has no time zone: pass --timezone, such as UTC or Europe/Berlin")
        return moment.replace(tzinfo=self._rules.timezone)


class _Keys:
    """The keys that rows name, and the first row of each; on disk, since there may be millions."""

    def __init__(self) -> None:
        # A file of SQLite's own, which goes with the connection.
        self._database = sqlite3.connect("", isolation_level=None)
        weakref.finalize(self, self._database.close)
        self._database.execute("CREATE TABLE keys (key TEXT PRIMARY KEY, number) WITHOUT ROWID")

    def note(self, key: str, number: int) -> None:
        """Raises InvalidEvent for a key that an earlier row names; the same row may come again."""
        self._database.execute("INSERT OR IGNORE INTO keys VALUES (?, ?)", [key, number])
        ((first,),) = self._database.execute("SELECT number FROM keys WHERE key = ?", [key])
        if first != number:
            raise InvalidEvent({KEY: f"is that of row {first} too: give each row its own"})


def _key(event: Event, row: Row, fingerprint: str) -> str:
    text = f"{fingerprint}\n{row.number}\n{event.kind}\n{event.payload.to_json()}"
    return f"import-{hashlib.sha256(text.encode()).hexdigest()[:40]}"


def _is_blank(value: Any) -> bool:
    return value is None or value == ""


def _letters(heading: str) -> str:
    """What a heading says, however it is written: event_name, eventName and "Event name"."""
    return re.sub(r"[\s_-]", "", heading).lower()


_CENTS = re.compile(r"[0-9]{1,18}")
_NAMES = {_letters(name): name for name in FIELDS}
