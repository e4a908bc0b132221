"""The rows of a file: CSV, TSV or JSON lines, plain or gzip, one at a time."""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, Optional, cast

__all__ = ["Row", "Source", "SourceError"]

DELIMITERS = ",;\t|"
CHUNK = 1024 * 1024
# Where a spreadsheet saves "Unicode text", and what JSON and CSV may begin with.
BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class SourceError(Exception):
    """The file cannot be read as it is; the text says where, and what to do."""


class Row(NamedTuple):
    """One row: ``number`` is that of a spreadsheet or an editor, where the first line is 1.

    ``cells`` has the values by heading. ``problem`` says why they cannot be told apart.
    """

    number: int
    cells: dict[str, Any]
    problem: str = ""


class Source:
    """A file that can be read more than once; what cannot, such as a pipe, is copied first.

    Raises SourceError for what cannot be read.
    """

    def __init__(self, file: BinaryIO, encoding: Optional[str], delimiter: Optional[str]) -> None:
        self._file = file
        # As it was told, as its first bytes say, or UTF-8.
        self.encoding = encoding or "utf-8"
        if encoding is None:
            with self._errors_told(), self._plain() as plain:
                start = plain.read(4)
            self.encoding = next((BOMS[bom] for bom in BOMS if start.startswith(bom)), "utf-8")
        with self.opened() as text:
            first = text.readline()
        if not first.strip():
            raise SourceError("is empty: it holds no headings and no rows")
        self.is_json = first.lstrip().startswith("{")
        # The one that stands most often in the headings.
        self.delimiter = delimiter or max(DELIMITERS, key=first.count)

    @property
    def size(self) -> int:
        """Its length in bytes, as it lies there."""
        return self._file.seek(0, io.SEEK_END)

    @property
    def position(self) -> int:
        """How many bytes of it have been read."""
        return self._file.tell()

    def fingerprint(self) -> str:
        """The same for the same bytes, another for any others."""
        digest = hashlib.sha256()
        self._file.seek(0)
        while chunk := self._file.read(CHUNK):
            digest.update(chunk)
        return digest.hexdigest()

    def headings(self) -> list[str]:
        """The cells of the first row; none where each row names its own, as JSON lines do."""
        if self.is_json:
            return []
        with self.opened() as text:
            return [cell.strip() for cell in next(self._records(text))[1]]

    def rows(self) -> Iterator[Row]:
        """The rows that are not blank, in their order."""
        with self.opened() as text:
            yield from self._json_rows(text) if self.is_json else self._table_rows(text)

    @contextmanager
    def opened(self) -> Iterator[IO[str]]:
        """Its text, from the start."""
        with self._errors_told(), self._plain() as plain:
            yield io.TextIOWrapper(plain, self.encoding, newline="")

    @contextmanager
    def _errors_told(self) -> Iterator[None]:
        """Turns foreign errors into SourceErrors."""
        try:
            yield
        except UnicodeDecodeError as error:
            raise SourceError(_undecodable(error)) from None
        except (LookupError, UnicodeError):
            raise SourceError(f"cannot be read: there is no encoding {self.encoding!r}") from None
        except (OSError, EOFError, zlib.error, csv.Error) as error:
            raise SourceError(f"cannot be read: {error}") from None

    @contextmanager
    def _plain(self) -> Iterator[BinaryIO]:
        """Its bytes, unpacked where they are gzip's."""
        self._file.seek(0)
        is_packed = self._file.read(2) == b"\x1f\x8b"
        self._file.seek(0)
        if is_packed:
            with gzip.GzipFile(fileobj=self._file) as unpacked:
                yield cast("BinaryIO", unpacked)
        else:
            # The file itself is to stay open when a reader of its text ends.
            yield cast("BinaryIO", io.BufferedReader(_Kept(self._file)))

    def _table_rows(self, text: Iterable[str]) -> Iterator[Row]:
        records = self._records(text)
        headings = [cell.strip() for cell in next(records)[1]]
        for number, record in records:
            cells = [cell.strip() for cell in record]
            if any(cells):
                yield _table_row(number, headings, cells)

    def _records(self, text: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        number = 1
        reader = csv.reader(text, delimiter=self.delimiter, strict=True)
        while True:
            try:
                record = next(reader, None)
            except csv.Error as error:
                raise SourceError(f"cannot be read in row {number}: {error}") from None
            if record is None:
                return
            yield number, record
            number += 1

    def _json_rows(self, text: Iterable[str]) -> Iterator[Row]:
        for number, line in enumerate(text, start=1):
            if line.strip():
                yield _json_row(number, line)


class _Kept(io.RawIOBase):
    """Reads a file without closing it."""

    def __init__(self, file: BinaryIO) -> None:
        self._kept = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._kept.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _table_row(number: int, headings: Sequence[str], cells: Sequence[str]) -> Row:
    values = dict(zip(headings, cells))
    unnamed = [cell for heading, cell in zip(headings, cells) if cell and not heading]
    values.pop("", None)
    if len(cells) < len(headings):
        return Row(number, values, f"has {len(cells)} cells under {len(headings)} headings")
    if unnamed or any(cells[len(headings) :]):
        return Row(number, values, "has a value in a column that has no heading")
    return Row(number, values)


def _json_row(number: int, line: str) -> Row:
    try:
        # Money must not pass through a float.
        value = json.loads(line, parse_float=Decimal, object_pairs_hook=_distinct)
    except _TwiceError:
        return Row(number, {}, "has one name twice")
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return Row(number, value)
    return Row(number, {}, "is not one JSON object on a line of its own")


class _TwiceError(Exception):
    """A JSON object has two values under one name, of which Python would take the last."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _TwiceError
    return value


def _undecodable(error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return (
        f"is not {error.encoding}: it holds the byte 0x{byte:02X}."
        " If it comes from Excel or Windows, try --encoding cp1252, else name its encoding there"
    )


@contextmanager
def opened(path: Optional[Path]) -> Iterator[BinaryIO]:
    """The file, or a copy of what comes from a pipe; standard input where there is no path."""
    with open(0, "rb", closefd=False) if path is None else path.open("rb") as file:
        if file.seekable() and (path is None or path.is_file()):
            yield file
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            yield cast("BinaryIO", copy)
