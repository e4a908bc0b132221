"""``cms-python import`` sends every good row of a file once, whatever happens on the way."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Optional

import pexpect
import pytest
from books import Books
from command import COMMAND, environment, run
from fault_server import FaultServer, answer, answer_late, echo, silent

from cms_python import CMSClient, Outbox, money
from cms_python.sandbox import Sandbox

ROWS = int(os.environ.get("CMS_IMPORT_ROWS", "1500"))
KILLS = 5
HEADINGS = "click_id,event_name,customer_external_id,invoice_id,amount,currency\n"
SALES = HEADINGS + "c1,bought,u1,i1,4999,USD\nc2,bought,u2,i2,100,eur\n"
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals and pipes")


class Folder:
    """A folder with files to import, and the API that they go to."""

    def __init__(self, path: Path, url: str) -> None:
        self.path = path
        self.env = {"CMS_HOST": url, "CMS_BEARER_TOKEN": "a-token"}

    def write(self, name: str, text: str, encoding: str = "utf-8") -> None:
        (self.path / name).write_bytes(text.encode(encoding))

    def read(self, name: str) -> str:
        return (self.path / name).read_bytes().decode()

    def run(self, *arguments: str, code: int = 0, input: str = "") -> str:  # noqa: A002, as run()
        """What an import says, on both outputs; it has to end with the exit code."""
        ran = run("import", *arguments, env=self.env, input=input, cwd=self.path)
        assert (code, True) == (ran.returncode, "Traceback" not in ran.stderr), ran.stderr
        return ran.stdout + ran.stderr

    def errors(self, name: str, **dialect: Any) -> list[dict[str, str]]:
        with (self.path / name).open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file, **dialect))

    @property
    def files(self) -> set[str]:
        return {each.name for each in self.path.iterdir()}


@pytest.fixture
def folder(tmp_path: Path, sandbox: Sandbox) -> Folder:
    return Folder(tmp_path, sandbox.url)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def sales(sandbox: Sandbox) -> set[tuple[Optional[str], Optional[int], Optional[str]]]:
    return {(each.invoice_id, each.amount, each.currency) for each in sandbox.events}


# A file


def test_every_row_arrives(folder: Folder, sandbox: Sandbox) -> None:
    """One command, one line of summary."""
    folder.write("sales.csv", SALES)
    said = folder.run("sales.csv", "--kind", "sale")
    assert "sales.csv: 2 rows, 0 wrong; 2 delivered, 0 failed, 0 waiting.\n" == said
    assert {("i1", 4999, "USD"), ("i2", 100, "EUR")} == sales(sandbox)


def test_a_second_time_nothing_is_sent(folder: Folder, server: FaultServer) -> None:
    """Who is not sure whether an import is over starts it again."""
    folder.env["CMS_HOST"] = server.url
    folder.write("sales.csv", SALES)
    for _ in range(2):
        said = folder.run("sales.csv", "--kind", "sale")
        assert "2 rows, 0 wrong; 2 delivered" in said
    assert 2 == len(server.requests)


def test_a_wrong_row_keeps_all_from_being_sent(folder: Folder, sandbox: Sandbox) -> None:
    """The file of wrong rows says of each what is wrong, can be mended, and be imported itself."""
    folder.write("sales.csv", SALES + "c3,bought,u3,,7.77,USD\nc4,,u4,i4,5,USD\n")
    said = folder.run("sales.csv", "--kind", "sale", code=1)
    assert "4 rows, 2 wrong; nothing was sent." in said
    assert "Mend the wrong rows in sales.csv.errors.csv and import that file." in said
    assert ([], {"sales.csv", "sales.csv.errors.csv"}) == (sandbox.events, folder.files)
    if os.name == "posix":
        assert 0o600 == stat.S_IMODE((folder.path / "sales.csv.errors.csv").stat().st_mode)
    first, second = folder.errors("sales.csv.errors.csv")
    assert ("4", "invoice_id, amount") == (first["error_row"], first["error_field"])
    assert "invoice_id is required; amount must be whole cents" in first["error_reason"]
    assert ("5", "event_name") == (second["error_row"], second["error_field"])
    said = folder.run("sales.csv", "--kind", "sale", "--skip-bad", code=1)
    assert "4 rows, 2 wrong; 2 delivered" in said
    mended = folder.read("sales.csv.errors.csv")
    folder.write(
        "sales.csv.errors.csv",
        mended.replace("u3,,7.77", "u3,i3,777").replace("c4,,u4", "c4,bought,u4"),
    )
    assert "2 delivered" in folder.run("sales.csv.errors.csv", "--kind", "sale")
    assert {"i1", "i2", "i3", "i4"} == {each.invoice_id for each in sandbox.events}


def test_a_mended_file_of_wrong_rows_is_not_written_over(folder: Folder) -> None:
    """What somebody has mended and not imported yet is kept, however often the import runs."""
    folder.write("sales.csv", SALES + "c3,bought,u3,,777,USD\n")
    folder.run("sales.csv", "--kind", "sale", code=1)
    for mended in ("mended by hand", "mended again", "mended at last"):
        folder.write("sales.csv.errors.csv", mended)
        folder.run("sales.csv", "--kind", "sale", "--dry-run", code=1)
    assert "mended by hand" == folder.read("sales.csv.errors.csv.old")
    assert "mended again" == folder.read("sales.csv.errors.csv.old.2")
    assert "mended at last" == folder.read("sales.csv.errors.csv.old.3")
    assert 1 == len(folder.errors("sales.csv.errors.csv"))
    folder.run("sales.csv", "--kind", "sale", "--dry-run", code=1)
    assert 4 == len([*folder.path.glob("sales.csv.errors.csv*")])


def test_a_dry_run_sends_nothing(folder: Folder, sandbox: Sandbox) -> None:
    """It checks every row, and leaves nothing behind if all is well."""
    folder.write("sales.csv", SALES)
    said = folder.run("sales.csv", "--kind", "sale", "--dry-run")
    assert "sales.csv: 2 rows, 0 wrong; nothing was sent.\n" == said
    folder.write("bad.csv", SALES + "c3\n")
    assert "1 wrong" in folder.run("bad.csv", "--kind", "sale", "--dry-run", code=1)
    assert ([], {"sales.csv", "bad.csv", "bad.csv.errors.csv"}) == (sandbox.events, folder.files)


def test_a_summary_for_machines(folder: Folder) -> None:
    """One JSON object on stdout, and nothing else there."""
    folder.write("sales.csv", SALES)
    assert {
        "file": "sales.csv",
        "rows": 2,
        "wrong": 0,
        "delivered": 2,
        "failed": 0,
        "waiting": 0,
        "paused": None,
        "dry_run": False,
        "errors": None,
        "outbox": "sales.csv.outbox.db",
    } == json.loads(folder.run("sales.csv", "--kind", "sale", "--json"))


def test_leads_and_sales_in_one_file(folder: Folder, sandbox: Sandbox) -> None:
    """A column says what each row is; a deferred lead comes before what builds on it."""
    folder.write(
        "events.csv",
        "kind,eventName,Customer External Id,click-id,MODE,invoiceId,amount,currency\n"
        "lead,captured,u1,c1,deferred,,,\n"
        "Lead,signed_up,u1,,,,,\n"
        "sale,bought,u1,c1,,i1,5,USD\n"
        "sale,bought,u2,c1,deferred,i2,5,USD\n"
        "refund,bought,u1,c1,,i3,5,USD\n",
    )
    folder.run("events.csv", "--skip-bad", code=1)
    assert {"u1": "c1"} == sandbox.deferred_clicks
    assert ["signed_up", "bought"] == [each.event_name for each in sandbox.events]
    reasons = [each["error_reason"] for each in folder.errors("events.csv.errors.csv")]
    assert ["MODE is no field of a sale", "kind must be lead or sale"] == reasons


def test_columns_of_other_names(folder: Folder, sandbox: Sandbox) -> None:
    """--map names them, --ignore passes over them, --default fills in what no column holds."""
    folder.write("orders.csv", "Order=No.,Paid,who,note,click_id\ni1,5,u1,hello,c1\n")
    folder.run(
        *("orders.csv", "--kind", "sale", "--map", "Order=No.=invoice_id", "--map", "Paid=amount"),
        *("--map", "who=customer_external_id", "--ignore", "note"),
        *("--default", "event_name=bought", "--default", "currency=USD"),
    )
    assert {("i1", 5, "USD")} == sales(sandbox)


def test_a_key_of_ones_own(folder: Folder, sandbox: Sandbox) -> None:
    """A column idempotency_key names the event as it does in a call."""
    folder.write(
        "leads.csv", "click_id,event_name,customer_external_id,idempotency_key\nc1,a,u1,k7\n"
    )
    folder.run("leads.csv", "--kind", "lead")
    assert ["k7"] == [each.idempotency_key for each in sandbox.events]


def test_a_key_that_two_rows_name(folder: Folder, sandbox: Sandbox) -> None:
    """Only one of them could be sent, so the second is a wrong row that names the first."""
    folder.write(
        "leads.csv",
        "click_id,event_name,customer_external_id,idempotency_key\nc1,a,u1,k7\nc2,b,u2,k7\n",
    )
    folder.run("leads.csv", "--kind", "lead", "--skip-bad", code=1)
    assert ["u1"] == [each.customer_external_id for each in sandbox.events]
    (wrong,) = folder.errors("leads.csv.errors.csv")
    assert "idempotency_key is that of row 2 too: give each row its own" == wrong["error_reason"]


@pytest.mark.parametrize(
    ("text", "arguments", "reason"),
    [
        ("", [], "leads.csv is empty"),
        ("a,event_name,customer_external_id\n", [], "the column 'a' is none that is known"),
        ("event_name\n", [], "there is no column for customer_external_id"),
        ("event_name,eventName,customer_external_id\n", [], "two columns hold event_name"),
        ("event_name,customer_external_id\n", ["--map", "b=click_id"], "names the column 'b'"),
        ("event_name,customer_external_id\n", ["--map", "event_name=x"], "names no field"),
        ("event_name,customer_external_id\n", ["--default", "click_id"], "names no field"),
        ("event_name,customer_external_id\n", ["--timezone", "Mars/Base"], "is not known"),
        ("event_name,customer_external_id\n", ["--encoding", "utf-99"], "there is no encoding"),
        ('event_name,customer_external_id\na,"u', [], "cannot be read in row 2"),
        ("event_name,customer_external_id\na,u1\n", ["--delimiter", "ab"], "must be one character"),
    ],
)
def test_what_cannot_be_imported_as_it_is(
    folder: Folder, text: str, arguments: list[str], reason: str
) -> None:
    """One line says what to do; exit code 2."""
    folder.write("leads.csv", text)
    assert reason in folder.run("leads.csv", "--kind", "lead", *arguments, code=2)


def test_a_file_that_is_not_there_or_says_no_kind(folder: Folder) -> None:
    """Neither is a crash."""
    assert "nowhere.csv: No such file" in folder.run("nowhere.csv", code=2)
    folder.write("sales.csv", SALES)
    assert "pass --kind lead or --kind sale" in folder.run("sales.csv", code=2)
    (folder.path / "folder").mkdir()
    assert "Error:" in folder.run("folder", code=2)


# What files look like


def test_a_file_from_excel(folder: Folder, sandbox: Sandbox) -> None:
    """With a byte order mark, semicolons, decimal commas, quoted newlines, CRLF, blank rows."""
    folder.write(
        "sales.csv",
        HEADINGS.replace(",", ";").replace("\n", ";customer_name\r\n")
        + 'c1;"bought\nit";u1;i1;7,77;USD;"Doe; Jané"\r\n;;;;;;\r\n\r\n'
        + "c2;bought;u2;i2;bad;USD;\r\n",
        "utf-8-sig",
    )
    folder.run("sales.csv", "--kind", "sale", "--amount-unit", "major", "--skip-bad", code=1)
    (event,) = sandbox.events
    assert ("bought\nit", 777) == (event.event_name, event.amount)
    assert "Doe; Jané" == event.payload["customerName"]
    (error,) = folder.errors("sales.csv.errors.csv", delimiter=";")
    assert ("5", "i2") == (error["error_row"], error["invoice_id"])
    assert folder.read("sales.csv.errors.csv").startswith("\ufeffclick_id;")


def test_a_file_in_latin_1(folder: Folder, sandbox: Sandbox) -> None:
    """The message names the byte and the option, and with that it goes well."""
    folder.write(
        "leads.csv", "click_id,event_name,customer_external_id\nc1,Inscrição,u1\n", "cp1252"
    )
    said = folder.run("leads.csv", "--kind", "lead", code=2)
    assert "leads.csv is not utf-8: it holds the byte 0xE7." in said
    assert "try --encoding cp1252" in said
    folder.run("leads.csv", "--kind", "lead", "--encoding", "cp1252")
    assert ["Inscrição"] == [each.event_name for each in sandbox.events]


@pytest.mark.parametrize("form", ["utf-16", "tabs", "gzip", "pipes"])
def test_other_forms_of_text(folder: Folder, sandbox: Sandbox, form: str) -> None:
    """What a spreadsheet or a database exports is read as it comes."""
    text = SALES.replace(",", {"tabs": "\t", "pipes": "|"}.get(form, ","))
    data = text.encode("utf-16" if form == "utf-16" else "utf-8")
    (folder.path / "sales").write_bytes(gzip.compress(data) if form == "gzip" else data)
    folder.run("sales", "--kind", "sale")
    assert 2 == len(sandbox.events)


def test_a_damaged_archive(folder: Folder) -> None:
    """Half a file is not imported as if it were whole."""
    for data in (gzip.compress(SALES.encode())[:-12], b"\x1f\x8bjunk"):
        (folder.path / "sales.gz").write_bytes(data)
        assert "cannot be read" in folder.run("sales.gz", "--kind", "sale", code=2)


def test_json_lines(folder: Folder, sandbox: Sandbox) -> None:
    """Names of the wire or ours; a number that is no float is exact."""
    sale = {
        "clickId": "c1", "eventName": "bought", "customerExternalId": 42, "invoiceId": "i1",
        "currency": "USD", "timestamp": "2026-01-31T09:30:00Z", "kind": "sale",
    }  # fmt: skip
    lines = [
        json.dumps(sale).replace("}", ', "amount": 7.77}'),
        "",
        '{"kind": "lead", "event_name": "a", "customer_external_id": "u1", "click_id": "c1"}',
        '{"kind": "lead", "event_name": ["a"], "customer_external_id": "u1"}',
        '{"kind": "lead", "event": "a"}',
        "[]",
        '{"kind": ' + "[" * 100_000,
    ]
    folder.write("events.jsonl", "\n".join(lines))
    folder.run("events.jsonl", "--amount-unit", "major", "--skip-bad", code=1)
    assert {"bought", "a"} == {each.event_name for each in sandbox.events}
    assert {("i1", 777, "USD"), (None, None, None)} == sales(sandbox)
    errors = folder.errors("events.jsonl.errors.csv")
    assert ["4", "5", "6", "7"] == [each["error_row"] for each in errors]
    assert ["eventName", "event", "row", "row"] == [each["error_field"] for each in errors]


def test_a_field_that_a_json_line_has_twice(folder: Folder, sandbox: Sandbox) -> None:
    """Nobody can know which value is meant, so the row is wrong; a blank one is no value."""
    customer = '"customer_external_id": "u1", "click_id": "c1"'
    folder.write(
        "leads.jsonl",
        f'{{"event_name": "a", "eventName": "b", {customer}}}\n'
        f'{{"event_name": "c", "event_name": "d", {customer}}}\n'
        f'{{"event_name": "e", "eventName": null, {customer}}}\n',
    )
    folder.run("leads.jsonl", "--kind", "lead", "--skip-bad", code=1)
    assert ["e"] == [each.event_name for each in sandbox.events]
    first, second = folder.errors("leads.jsonl.errors.csv")
    assert "event_name is there twice, under two names" in first["error_reason"]
    assert ("", "event_name", "u1") == (
        first["event_name"], first["error_field"], first["customer_external_id"],
    )  # fmt: skip
    assert "row has one name twice" == second["error_reason"]


def test_headings_alone(folder: Folder) -> None:
    """No rows are no failure."""
    folder.write("sales.csv", HEADINGS)
    said = folder.run("sales.csv", "--kind", "sale")
    assert "sales.csv: 0 rows, 0 wrong; nothing was sent.\n" == said


def test_ragged_rows(folder: Folder) -> None:
    """A row that lost a cell, or has one too many, is wrong; trailing blank cells are nothing."""
    folder.write("sales.csv", SALES + "c3,bought,u3\nc4,bought,u4,i4,5,USD,,\nc5,b,u5,i5,5,USD,x\n")
    folder.run("sales.csv", "--kind", "sale", "--dry-run", code=1)
    errors = folder.errors("sales.csv.errors.csv")
    assert [("4", "c3"), ("6", "c5")] == [(each["error_row"], each["click_id"]) for each in errors]
    assert "row has 3 cells under 6 headings" == errors[0]["error_reason"]
    assert "row has a value in a column that has no heading" == errors[1]["error_reason"]


def test_standard_input_and_a_named_pipe(folder: Folder, server: FaultServer) -> None:
    """What comes through a pipe is known by what it holds, and not sent twice either."""
    folder.env["CMS_HOST"] = server.url
    for _ in range(2):
        assert "2 delivered" in folder.run("-", "--kind", "sale", input=SALES)
    assert 2 == len(server.requests)
    if hasattr(os, "mkfifo"):
        pipe = folder.path / "pipe"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_text, args=(SALES.replace("i1", "i9"),))
        writer.start()
        assert "pipe: 2 rows, 0 wrong; 2 delivered" in folder.run("pipe", "--kind", "sale")
        writer.join()


@pytest.mark.parametrize(
    ("text", "currency", "expected"),
    [
        ("7.77", "USD", 777),
        ("7,77", "EUR", 777),
        ("0.1", "USD", 10),
        ("1,234.50", "USD", 123450),
        ("1.234,50", "EUR", 123450),
        ("1,234,567", "USD", 123456700),
        ("1.234.567,8", "EUR", 123456780),
        ("7.770000", "USD", 777),
        ("500", "JPY", 500),
        ("500.00", "JPY", 500),
        ("1.234", "KWD", 1234),
        ("9007199254740993.01", "USD", 900719925474099301),
        (" 5 ", "USD", 500),
    ],
)
def test_an_amount_in_major_units(text: str, currency: str, expected: int) -> None:
    """It is read exactly, with as many digits as its currency has."""
    assert expected == money.minor_units(text, currency)


@pytest.mark.parametrize(
    ("text", "currency", "reason"),
    [
        ("1e3", "USD", "scientific notation"),
        ("1.23E+05", "USD", "scientific notation"),
        ("1,234", "USD", "in two ways"),
        ("1.234", "EUR", "in two ways"),
        ("1.200", "JPY", "in two ways"),
        ("1,234", "KWD", "in two ways"),
        ("7.7777", "USD", r"more digits after the point than USD has \(2\)"),
        ("7.7", "JPY", r"than JPY has \(0\)"),
        ("12,34,56", "USD", "must be an amount"),
        ("1,234.567.8", "USD", "must be an amount"),
        ("$5", "USD", "must be an amount"),
        ("-5", "USD", "must be an amount"),
        ("NaN", "USD", "must be an amount"),
        ("٣", "USD", "must be an amount"),
        ("", "USD", "must be an amount"),
        ("9" * 1000, "USD", "must be an amount"),
    ],
)
def test_an_amount_that_could_mean_something_else(text: str, currency: str, reason: str) -> None:
    """Where there are two ways to read it, none is taken."""
    with pytest.raises(ValueError, match=reason):
        money.minor_units(text, currency)


def test_times(folder: Folder, sandbox: Sandbox) -> None:
    """One with a zone keeps it; one without takes that of --timezone, and is wrong without."""
    folder.write(
        "leads.csv",
        "event_name,customer_external_id,click_id,timestamp\n"
        "a,u1,c1,2026-01-31T09:30:00Z\nb,u2,c2,2026-07-31 09:30\n"
        "c,u3,c3,2026-01-31\nd,u4,c4,31.1.2026\ne,u5,c5,2026-W05\n",
    )
    folder.run("leads.csv", "--kind", "lead", "--dry-run", code=1)
    errors = folder.errors("leads.csv.errors.csv")
    assert ["3", "4", "5", "6"] == [each["error_row"] for each in errors]
    assert "timestamp has no time zone: pass --timezone" in errors[0]["error_reason"]
    assert "timestamp must be ISO 8601" in errors[2]["error_reason"]
    zone = ["--timezone", "Europe/Berlin"]
    folder.run("leads.csv", "--kind", "lead", "--skip-bad", *zone, code=1)
    times = {each.event_name: each.payload["timestamp"] for each in sandbox.events}
    assert {
        "a": "2026-01-31T09:30:00Z",
        "b": "2026-07-31T09:30:00+02:00",
        "c": "2026-01-31T00:00:00+01:00",
    } == times


def test_a_time_that_is_a_number(folder: Folder, sandbox: Sandbox) -> None:
    """A date that JSON lines hold as a number needs a zone as any other does."""
    lead = {"event_name": "a", "customer_external_id": "u1", "click_id": "c1"}
    folder.write("leads.jsonl", json.dumps({**lead, "timestamp": 20260131}))
    folder.run("leads.jsonl", "--kind", "lead", code=1)
    (error,) = folder.errors("leads.jsonl.errors.csv")
    assert "timestamp has no time zone: pass --timezone" in error["error_reason"]
    folder.run("leads.jsonl", "--kind", "lead", "--timezone", "Europe/Berlin")
    assert ["2026-01-31T00:00:00+01:00"] == [each.payload["timestamp"] for each in sandbox.events]


# On the way


def test_a_file_that_has_changed_is_refused(folder: Folder, sandbox: Sandbox) -> None:
    """Neither its old rows nor its new ones are doubled or forgotten."""
    folder.write("sales.csv", SALES)
    folder.run("sales.csv", "--kind", "sale")
    folder.write("sales.csv", SALES + "c3,bought,u3,i3,5,USD\n")
    said = folder.run("sales.csv", "--kind", "sale", code=2)
    assert "sales.csv is not the file that it was when its import began" in said
    folder.write("sales.csv", SALES)
    said = folder.run("sales.csv", "--kind", "sale", "--amount-unit", "major", code=2)
    assert "began with other options" in said
    assert 2 == len(sandbox.events)


def test_a_dry_run_after_the_import(folder: Folder, server: FaultServer) -> None:
    """It tells of the file as it is, and neither sends nor spoils anything."""
    folder.env["CMS_HOST"] = server.url
    folder.write("sales.csv", SALES)
    folder.run("sales.csv", "--kind", "sale")
    said = folder.run("sales.csv", "--kind", "sale", "--dry-run")
    assert "sales.csv: 2 rows, 0 wrong; nothing was sent." in said
    assert 2 == len(server.requests)


def test_an_outbox_of_something_else(folder: Folder) -> None:
    """The queue of an application is no place for an import, which could not tell what is whose."""
    folder.write("sales.csv", SALES)
    path = folder.path / "events.db"
    arguments = ["sales.csv", "--kind", "sale", "--outbox", "events.db"]
    with CMSClient(delivery=Outbox(path, send=False)) as client:
        client.track_lead("a", "user_1", "id_1")
    assert "the outbox of something else" in folder.run(*arguments, code=2)
    path.unlink()
    with closing(Outbox(path, send=False)) as outbox:
        outbox.add_all([], "row 7", after="")
    assert "the outbox of something else" in folder.run(*arguments, code=2)


def test_what_the_api_refuses_is_told(folder: Folder, server: FaultServer) -> None:
    """Exit code 1, and where to look."""
    server.behaviour = answer(422, {"success": False, "error": "No such click"})
    folder.env["CMS_HOST"] = server.url
    folder.write("sales.csv", SALES)
    said = folder.run("sales.csv", "--kind", "sale", code=1)
    assert "0 delivered, 2 failed, 0 waiting." in said
    assert "cms-python outbox dead sales.csv.outbox.db" in said


def test_a_wrong_token_stops_an_import(folder: Folder, server: FaultServer) -> None:
    """It does not wait for ever, loses nothing, and goes on once the token is right."""
    server.behaviour = answer(401, {"success": False, "error": "Expired."})
    folder.env["CMS_HOST"] = server.url
    folder.write("sales.csv", SALES)
    said = folder.run("sales.csv", "--kind", "sale", code=1)
    assert "0 delivered, 0 failed, 2 waiting." in said
    assert "The API lets nothing in: Expired." in said
    server.behaviour = echo
    assert "2 delivered" in folder.run("sales.csv", "--kind", "sale")


def started(folder: Folder, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "import", *arguments],
        env=environment(folder.env), cwd=folder.path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def interrupted(folder: Folder, server: FaultServer, name: str) -> str:
    """What an import says that gets a signal while the server is silent."""
    server.behaviour = silent
    folder.env["CMS_HOST"] = server.url
    folder.write("two sales.csv", SALES)
    with started(folder, "two sales.csv", "--kind", "sale", "--timeout", "1") as process:
        server.wait_for_requests(2)
        process.send_signal(signal.Signals[name])
        _, errors = process.communicate(timeout=30)
    assert 130 == process.returncode, errors
    return errors


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_import_says_how_to_go_on(
    folder: Folder, server: FaultServer, name: str
) -> None:
    """Exit code 130 and the very command, whoever stops it."""
    command = "cms-python import 'two sales.csv' --kind sale --timeout 1"
    said = interrupted(folder, server, name)
    assert f"Interrupted. What is queued is kept: go on with: {command}\n" == said


@posix
def test_an_interrupted_import_goes_on(folder: Folder, server: FaultServer) -> None:
    """What was on its way is sent again once it is sure that nobody has it any more."""
    said = interrupted(folder, server, "SIGINT")
    server.behaviour = echo
    assert "2 delivered" in folder.run(*shlex.split(said.rpartition("go on with: ")[2])[2:])


def test_progress_where_there_is_no_terminal(folder: Folder, server: FaultServer) -> None:
    """A line from time to time, on stderr."""
    server.behaviour = answer_late(0.1, echo)
    folder.env["CMS_HOST"] = server.url
    leads = "".join(f"a,u{number}\n" for number in range(20))
    folder.write("leads.csv", "event_name,customer_external_id\n" + leads)
    arguments = ["leads.csv", "--kind", "lead", "--workers", "2", "--progress-every", "0.1"]
    ran = run("import", *arguments, env=folder.env, cwd=folder.path)
    assert (0, "leads.csv: 20 rows") == (ran.returncode, ran.stdout[:18])
    line = (
        r"Sending: \d+ of 20 events(, [\d,]+/s, \d+ s left)?, 20 rows read, 0 failed, \d+ waiting"
    )
    lines = ran.stderr.splitlines()
    assert len(lines) > 3
    assert all(re.fullmatch(line, each) for each in lines), lines


@posix
def test_progress_at_a_terminal(folder: Folder, server: FaultServer) -> None:
    """A bar that shows how far it is, and is gone at the end."""
    server.behaviour = answer_late(0.2, echo)
    folder.env["CMS_HOST"] = server.url
    leads = "".join(f"a,u{number}\n" for number in range(20))
    folder.write("leads.csv", "event_name,customer_external_id\n" + leads)
    line = [*COMMAND, "import", "leads.csv", "--kind", "lead", "--workers", "2"]
    env: Mapping[str, str] = environment(folder.env)
    with pexpect.spawn(
        line[0], line[1:], env=env, cwd=str(folder.path), encoding="utf-8",
        dimensions=(24, 120), timeout=30,
    ) as terminal:  # fmt: skip
        terminal.expect(r"Sending: +\d+%\|.*\| \d+/20 .*, 20 rows read, 0 failed, \d+ waiting")
        terminal.expect("leads.csv: 20 rows, 0 wrong; 20 delivered, 0 failed, 0 waiting")
        terminal.expect(pexpect.EOF)
    assert 0 == terminal.exitstatus


def many(path: Path, count: int) -> tuple[set[str], set[int]]:
    """Writes so many rows, of which two in a hundred have a wrong amount or an earlier key.

    Returns the invoices of the good ones and the numbers of the others.
    """
    good, wrong = set(), set()
    with path.open("w", encoding="utf-8") as file:
        file.write(HEADINGS.replace("\n", ",idempotency_key\n"))
        for number in range(count):
            amount = "oops" if number % 100 == 50 else str(number)
            key = "key-1" if number % 100 == 70 or number == 1 else ""
            file.write(f"c{number},bought,u{number // 3},i{number},{amount},USD,{key}\n")
            if amount == "oops" or (key and number > 1):
                wrong.add(number + 2)
            else:
                good.add(f"i{number}")
    return good, wrong


def most_memory(pid: int) -> int:
    """The most KiB that a process had in use; 0 where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"VmHWM:\s*(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) if found else 0


@posix
def test_an_import_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """Killed five times, it still delivers each good row under one key, and in bounded memory."""
    path = tmp_path / "sales.csv"
    good, wrong = many(path, ROWS)
    arguments = ["sales.csv", "--kind", "sale", "--skip-bad", "--timeout", "2", "--workers", "4"]
    patience = 60 + ROWS / 100
    with Books() as server:
        folder = Folder(tmp_path, server.url)
        for kill in range(1, KILLS + 1):
            with started(folder, *arguments) as process:
                server.wait_for_events(kill * len(good) // (KILLS + 2), patience)
                process.kill()
        with started(folder, *arguments) as process:
            server.wait_for_events(len(good) - 10, patience)
            memory = most_memory(process.pid)
            assert 1 == process.wait(timeout=60)
        bodies = [json.loads(body) for body in server.bodies.values()]
    assert memory < 150 * 1024
    assert (sorted(good), []) == (sorted(each["invoiceId"] for each in bodies), server.altered)
    numbers = [int(each["error_row"]) for each in folder.errors("sales.csv.errors.csv")]
    assert sorted(wrong) == numbers


def test_what_begins_like_json_and_has_a_mark(folder: Folder, sandbox: Sandbox) -> None:
    """A byte order mark before JSON is none of its rows."""
    line = b'{"event_name": "a", "customer_external_id": "u1", "clickId": "c1"}\n'
    (folder.path / "leads.jsonl").write_bytes(codecs.BOM_UTF8 + line)
    folder.run("leads.jsonl", "--kind", "lead")
    assert ["a"] == [each.event_name for each in sandbox.events]
