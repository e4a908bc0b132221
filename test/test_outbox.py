"""The outbox takes each event into its file and sends it from there, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, cast

import pytest
from fault_server import (
    Behaviour,
    FaultServer,
    Visit,
    answer,
    close_after_reading,
    close_once,
    echo,
    echo_once,
    garbage,
    in_turn,
    nobody_listens,
    redirect,
    reset_after_reading,
    silent,
)
from forking import exit_status, fork, forks, threads_beside_fork
from waiting import handling, restless_threads, wait_until

from cms_python import CMSClient, Delivery, Event, Outbox, TrackFailure, TrackResult
from cms_python.delivery import database as database_module
from cms_python.delivery import outbox as outbox_module
from cms_python.delivery import storage as storage_module
from cms_python.delivery import verdicts
from cms_python.delivery.outbox import OutboxError
from cms_python.delivery.storage import Storage
from cms_python.results import success
from cms_python.sandbox import Sandbox

MEMORY = Path("/dev/shm")
TOKEN = "a-s3cret-token"
PERSON: dict[str, Any] = {
    "customer_name": "Jane Doe",
    "customer_email": "jane@example.com",
    "customer_avatar": "https://example.com/jane.png",
}
REFUSED = {"success": False, "error": "Not for jane@example.com", "type": "unprocessable_entity"}


ends_its_withs = pytest.mark.skipif(
    sys.version_info < (3, 10),
    reason="in Python 3.9 Ctrl-C can keep any with statement from giving its lock back",
)
timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no such timers")


@pytest.fixture
def path() -> Iterator[Path]:
    """In memory where that is possible: no power fails here, and disks are slow to sync."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder) / "events.db"
        # close() does not wait for a slow request for ever; its thread opens the file once more.
        wait_until(lambda: not senders())


def senders() -> list[threading.Thread]:
    """The threads of all outboxes of this process that send."""
    return [each for each in threading.enumerate() if each.name.startswith("cms-outbox")]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits between attempts keep their proportions and take a hundredth of their time."""
    monkeypatch.setattr(verdicts, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(verdicts, "LONGEST_BACKOFF", 3.0)
    monkeypatch.setattr(storage_module, "FIRST_PROBE", 0.01)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a busy file for longer than 0.3 seconds."""
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.3)


@contextmanager
def opened(
    path: Path, url: str = "http://127.0.0.1:1", timeout: float = 10.0, **options: Any
) -> Iterator[tuple[CMSClient, Outbox]]:
    """A client that queues in the file, and its outbox."""
    outbox = Outbox(path, **options)
    with CMSClient(TOKEN, url, timeout=timeout, delivery=outbox) as client:
        yield client, outbox


@contextmanager
def writing(path: Path, **options: Any) -> Iterator[tuple[CMSClient, Outbox]]:
    """A client that only writes, as in a process without a token."""
    outbox = Outbox(path, send=False, **options)
    with CMSClient(delivery=outbox) as client:
        yield client, outbox


def lead(client: CMSClient, name: str = "signup", customer: str = "user_42", **more: Any) -> Any:
    """The data that comes back for a lead that is queued."""
    result = client.track_lead(name, customer, click_id="id_123", **more)
    assert result["success"] is True, result
    return result["data"]


def names(server: FaultServer) -> list[str]:
    return [request.json["eventName"] for request in server.requests]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def by_name(behaviours: dict[str, Behaviour]) -> Behaviour:
    """Behaves as is told for the event's name, which is looked at before the request is read."""

    def behave(visit: Visit) -> None:
        while b'"eventName":"' not in visit._unread:
            visit.receive()
        name = visit._unread.split(b'"eventName":"')[1].split(b'"')[0].decode()
        behaviours.get(name, echo)(visit)

    return behave


class Listing(Delivery):
    """Another way to leave than HTTP, which fails a few times."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures, self.closed = list(failures), 0
        self.events: list[Event] = []

    def deliver(self, event: Event) -> TrackResult:
        if self.failures:
            raise self.failures.pop()
        self.events.append(event)
        return success("Listed")

    def close(self) -> None:
        self.closed += 1


# A call


def test_a_call_says_queued_and_the_event_arrives(path: Path, sandbox: Sandbox) -> None:
    """The result tells the event's number; flush() waits until the API has it."""
    with opened(path, sandbox.url) as (client, outbox):
        queued = {"event_id": 1, "queued": True, "duplicate": False}
        assert client.track_sale("id_123", "bought", "user_42", "inv_1", 4999, "usd") == {
            "success": True,
            "message": "Event queued",
            "data": queued,
        }
        assert client.flush(timeout=10) is True
        assert outbox.stats().delivered == 1
    assert [("bought", 4999)] == [(each.event_name, each.amount) for each in sandbox.events]


def test_a_mistake_is_told_at_once(path: Path) -> None:
    """The arguments are checked as ever, and nothing is queued."""
    with writing(path) as (client, _), CMSClient(TOKEN) as direct:
        wrong: dict[str, Any] = {"event_name": "", "customer_external_id": "user_1", "mode": "x"}
        assert direct.track_lead(**wrong) == client.track_lead(**wrong)
    assert not path.exists()


def test_an_event_without_a_timestamp_gets_that_of_the_call(
    path: Path, server: FaultServer
) -> None:
    """It may be sent days later, and still counts for when it happened; a given one stays."""
    given = datetime(2026, 1, 31, 9, 30, tzinfo=timezone(timedelta(hours=2)))
    before = datetime.now(timezone.utc)
    with writing(path) as (client, _):
        lead(client, "now")
        lead(client, "then", timestamp=given)
    after = datetime.now(timezone.utc)
    with opened(path, server.url) as (client, _):
        assert client.flush(timeout=10)
    now, then = (request.json["timestamp"] for request in server.requests)
    assert before <= datetime.fromisoformat(now.replace("Z", "+00:00")) <= after
    assert "2026-01-31T09:30:00+02:00" == then


def test_each_attempt_sends_the_same_bytes_under_the_same_key(
    path: Path, server: FaultServer
) -> None:
    """Key and body are fixed at the call, for every attempt of every process."""
    with writing(path) as (client, _):
        lead(client, customer="Jané 🦊\x00", **PERSON)
    server.behaviour = in_turn(close_after_reading, answer(503, "{}"), echo)
    with opened(path, server.url) as (client, _):
        assert client.flush(timeout=10)
    assert 3 == len(server.requests)
    assert 1 == len({(request.key, request.body) for request in server.requests})
    assert "Jané 🦊\x00" == server.requests[0].json["customerExternalId"]


def test_a_key_given_twice_is_queued_once(path: Path, server: FaultServer) -> None:
    """Who is unsure may call again; the second call says that it is a duplicate."""
    with writing(path) as (client, outbox):
        first = lead(client, idempotency_key="order-7")
        assert {**first, "duplicate": True} == lead(client, idempotency_key="order-7")
        assert 1 == outbox.stats().queued
    with opened(path, server.url) as (client, _):
        assert client.flush(timeout=10)
    assert ["order-7"] == server.keys


@pytest.mark.parametrize(
    "other",
    [
        {"event_name": "signup_2"},
        {"customer_external_id": "user_43"},
        {"click_id": None},
        {"click_id": "id_124"},
        {"mode": "deferred"},
    ],
)
def test_a_key_given_to_another_event_is_refused(path: Path, other: dict[str, Any]) -> None:
    """A call never says that its event is queued while in truth another is."""
    first: dict[str, Any] = {
        "event_name": "signup", "customer_external_id": "user_42", "click_id": "id_123"
    }  # fmt: skip
    with writing(path) as (client, outbox):
        client.track_lead(**first, idempotency_key="order-7")
        refused = client.track_lead(**{**first, **other}, idempotency_key="order-7")
        assert "error" in refused
        assert ("validation_error", False, "order-7") == (
            refused["type"], refused["retryable"], refused["idempotency_key"]
        )  # fmt: skip
        problem = "order-7 is that of another event in the queue: give each its own"
        assert {"idempotency_key": problem} == refused["details"]
        sale = client.track_sale(
            "id_123", "signup", "user_42", "inv_1", 100, "USD", idempotency_key="order-7"
        )
        assert sale["success"] is False
        assert 1 == outbox.stats().queued


def test_a_repetition_may_tell_name_and_time_otherwise(path: Path) -> None:
    """It is the same event all the same, and the one that was queued first is sent."""
    with writing(path) as (client, _):
        lead(client, idempotency_key="order-7", **PERSON)
        later = datetime.now(timezone.utc) + timedelta(hours=1)
        again = lead(client, idempotency_key="order-7", customer_name="J.", timestamp=later)
        assert again["duplicate"] is True


def test_the_key_of_an_event_that_cannot_be_read_queues_it_anew(
    path: Path, server: FaultServer
) -> None:
    """What could not be sent is not taken for what is given now."""
    with writing(path) as (client, outbox):
        lead(client, "damaged", idempotency_key="order-7")
        lead(client, "behind")
        with closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE events SET body = '{' WHERE id = 1")
            db.commit()
        assert lead(client, "whole", idempotency_key="order-7")["duplicate"] is False
        assert (2, 0) == (outbox.stats().queued, outbox.stats().dead)
    with opened(path, server.url) as (client, _):
        assert client.flush(timeout=10)
    assert ["behind", "whole"] == names(server)


def test_a_dead_events_key_queues_the_mended_event(path: Path, server: FaultServer) -> None:
    """A call is never told that its event is queued while it lies among the dead."""
    server.behaviour = by_name({"wrong": answer(422, REFUSED)})
    with opened(path, server.url) as (client, outbox):
        lead(client, "wrong", idempotency_key="order-7")
        assert client.flush(timeout=10)
        assert 1 == outbox.stats().dead
        assert lead(client, "mended", idempotency_key="order-7")["duplicate"] is False
        assert client.flush(timeout=10)
        assert (0, 1) == (outbox.stats().dead, outbox.stats().delivered)
    assert ["wrong", "mended"] == names(server)


# The file


def test_nothing_is_opened_before_the_first_event(path: Path) -> None:
    """Making a client starts no thread and makes no file, so that it may be made anywhere."""
    threads = threading.active_count()
    with opened(path):
        assert threads == threading.active_count()
    assert not path.exists()


def test_a_queued_event_outlives_the_process(path: Path, server: FaultServer) -> None:
    """What one process has queued another one sends."""
    with writing(path) as (client, outbox):
        for number in range(20):
            lead(client, str(number), f"user_{number % 3}")
        assert 20 == outbox.stats().queued
    with opened(path, server.url) as (client, outbox):
        assert client.flush(timeout=10)
        assert (0, 20) == (outbox.stats().queued, outbox.stats().delivered)
    assert {str(number) for number in range(20)} == set(names(server))


def test_the_file_is_the_owners_alone_and_holds_no_token(path: Path, server: FaultServer) -> None:
    """It holds customers' names, so nobody else may read it; a stolen copy opens no account."""
    server.behaviour = answer(401, {"success": False, "error": f"{TOKEN} is not valid"})
    with opened(path, server.url, drain_timeout=0) as (client, outbox):
        lead(client, **PERSON)
        wait_until(lambda: outbox.stats().paused is not None)
        files = list(path.parent.glob("events.db*"))
        if os.name != "nt":  # Windows has no such permissions
            assert {0o600} == {stat.S_IMODE(each.stat().st_mode) for each in files}
        assert not any(TOKEN.encode() in each.read_bytes() for each in files)
        with closing(sqlite3.connect(path)) as db:
            assert ("wal",) == db.execute("PRAGMA journal_mode").fetchone()


def test_a_relative_path_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that changes its directory finds its events again."""
    monkeypatch.chdir(tmp_path)
    with writing(Path("events.db")) as (client, _):
        monkeypatch.chdir("/")
        lead(client)
    assert (tmp_path / "events.db").exists()


def test_a_file_system_without_shared_memory(path: Path, server: FaultServer) -> None:
    """Where there can be no write-ahead log, a rollback journal serves."""
    path.with_name("events.db-shm").mkdir()
    with opened(path, server.url) as (client, outbox):
        lead(client)
        assert client.flush(timeout=10)
        assert 1 == outbox.stats().delivered
        with closing(sqlite3.connect(path)) as db:
            assert ("delete",) == db.execute("PRAGMA journal_mode").fetchone()


def test_an_older_file_is_upgraded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update of this package keeps what is queued."""
    with writing(path) as (client, _):
        lead(client, idempotency_key="order-7")
    later = (*storage_module.SCHEMAS, "ALTER TABLE events ADD COLUMN note TEXT")
    monkeypatch.setattr(storage_module, "SCHEMAS", later)
    with writing(path) as (client, _):
        assert lead(client, idempotency_key="order-7")["duplicate"] is True
    with closing(sqlite3.connect(path)) as db:
        assert (2,) == db.execute("PRAGMA user_version").fetchone()
        assert (None,) == db.execute("SELECT note FROM events").fetchone()


# Where the file cannot be used


def corrupt(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + random.Random(0).randbytes(9000))


def damaged(path: Path) -> None:
    with writing(path) as (client, _):
        for number in range(100):
            lead(client, str(number))
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)


def text(path: Path) -> None:
    path.write_text("Dear diary, today I was mistaken for a database. " * 100)


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE orders (number TEXT)")


def newer(path: Path) -> None:
    with writing(path) as (client, _):
        lead(client)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


UNUSABLE = [
    pytest.param(corrupt, "", id="corrupt"),
    pytest.param(damaged, "malformed", id="damaged"),
    pytest.param(text, "not a database", id="text"),
    pytest.param(foreign, "belongs to another program: choose another path", id="foreign"),
    pytest.param(newer, "is of a newer version: update cms-python-client", id="newer"),
    pytest.param(lambda path: path.mkdir(), "unable to open", id="folder"),
]


@pytest.mark.parametrize(("make", "reason"), UNUSABLE)
def test_a_file_that_cannot_be_used_is_a_failure_and_stays_as_it_is(
    path: Path, make: Callable[[Path], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The call says what is wrong and does not raise; nobody's data is touched."""
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with opened(path, on_full="refuse") as (client, outbox):
        results = [client.track_lead("a", "user_1", "id_1", **PERSON) for _ in range(2)]
        for result in results:
            assert "error" in result
            assert reason in result["error"]
            assert ("outbox_error", 0, True, False) == (
                result["type"], result["status_code"], result["retryable"], result["ambiguous"]
            )  # fmt: skip
            assert result["idempotency_key"] is not None
        assert client.flush(timeout=10) is False
        with pytest.raises(OutboxError):
            outbox.stats()
    assert before == (path.read_bytes() if path.is_file() else b"")
    refused = [each for each in warnings_in(caplog) if "Events are refused." in each]
    assert 1 == len(refused)
    assert "jane" not in caplog.text


@pytest.mark.parametrize(("make", "reason"), UNUSABLE)
def test_what_the_file_cannot_take_is_sent_directly(
    path: Path, make: Callable[[Path], None], reason: str, server: FaultServer
) -> None:
    """By default the call then does what it does without an outbox, other attempts included."""
    make(path)
    server.behaviour = in_turn(answer(503, "{}"), echo)
    with opened(path, server.url) as (client, _):
        result = client.track_lead("signup", "user_42", "id_123")
    assert success("Recorded", "signup") == result
    assert ["signup", "signup"] == names(server), reason


def test_a_folder_that_is_not_there_or_is_none(tmp_path: Path) -> None:
    """Nothing can be written below a file either, whoever runs the program."""
    (tmp_path / "file").touch()
    for folder in ("missing", "file"):
        with writing(tmp_path / folder / "events.db") as (client, _):
            result = client.track_lead("signup", "user_42", "id_123")
            assert result["success"] is False
            assert "outbox_error" == result["type"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_file_that_may_only_be_read(path: Path) -> None:
    """A wrong owner or mode is told as it is."""
    with writing(path) as (client, _):
        lead(client)
    path.chmod(0o400)
    with writing(path) as (client, _):
        result = client.track_lead("signup", "user_42", "id_123")
        assert "error" in result
        assert "readonly" in result["error"]


def test_a_full_disk_and_room_again(path: Path, server: FaultServer) -> None:
    """What cannot be written is refused; what was taken before is there, and is sent."""
    with writing(path) as (client, outbox):
        lead(client, "0")
        limit(outbox, 20)
        taken = 1
        while (result := client.track_lead(f"{taken}", "user_42", "id_1"))["success"] is True:
            taken += 1
        assert "full" in result["error"]
        assert taken == outbox.stats().queued
        limit(outbox, 1_000_000)
        lead(client, f"{taken}")
    with opened(path, server.url) as (client, _):
        assert client.flush(timeout=10)
    assert [f"{number}" for number in range(taken + 1)] == names(server)


def limit(outbox: Outbox, pages: int) -> None:
    """Bounds the file as a full disk would."""
    db = outbox._storage._database._connection
    assert db is not None
    db.execute(f"PRAGMA max_page_count = {pages}").fetchone()


@pytest.mark.usefixtures("_impatient")
def test_a_disk_that_is_full_while_events_are_sent(
    path: Path, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What is delivered and cannot be noted so is noted as soon as there is room."""
    told: list[TrackResult] = []
    with opened(path, server.url, on_result=lambda _, result: told.append(result)) as (client, box):
        with closing(sqlite3.connect(path)) as other:
            server.behaviour = echo_once(release := threading.Event())
            lead(client)
            server.wait_for_requests(1)
            # Nobody can write while another program has the file, which a full disk is like.
            other.execute("BEGIN IMMEDIATE")
            release.set()
            wait_until(lambda: any("Nothing is sent." in each for each in warnings_in(caplog)))
            other.rollback()
        assert client.flush(timeout=10)
        assert 1 == box.stats().delivered
    assert (1, [success("Recorded", "signup")]) == (len(server.requests), told)


def test_a_full_outbox(path: Path, server: FaultServer) -> None:
    """At max_events, queued and dead together, a call is refused, or sends directly."""
    with writing(path, max_events=3) as (client, outbox):
        for _ in range(3):
            lead(client, idempotency_key=f"k{_}")
        result = client.track_lead("signup", "user_42", "id_123")
        assert "error" in result
        assert "The outbox is full: it holds 3 events." == result["error"]
        assert lead(client, idempotency_key="k0")["duplicate"] is True
        assert 3 == outbox.stats().queued
    server.behaviour = answer(400, "{}")
    with opened(path, server.url, max_events=3) as (client, outbox):
        assert client.flush(timeout=10)
        assert 3 == outbox.stats().dead
        server.behaviour = echo
        assert success("Recorded", "direct") == client.track_lead("direct", "user_1", "id_1")
        assert 3 == outbox.purge_dead()
        assert "event_id" in lead(client)


@pytest.mark.usefixtures("_impatient")
def test_a_file_that_another_program_has_locked(path: Path, server: FaultServer) -> None:
    """A call waits for a while and then takes the other way; later the file serves again."""
    with opened(path, server.url, on_full="refuse") as (client, _):
        lead(client, "before")
        assert client.flush(timeout=10)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            started = monotonic()
            result = client.track_lead("during", "user_42", "id_123")
            assert "error" in result
            assert "locked" in result["error"]
            assert 0.2 < monotonic() - started < 10
        lead(client, "after")
        assert client.flush(timeout=10)
    assert ["before", "after"] == names(server)


@pytest.mark.usefixtures("_impatient")
def test_threads_do_not_queue_up_at_a_locked_file(path: Path) -> None:
    """However many call at once, each waits for the file only once."""
    with writing(path) as (client, _), closing(sqlite3.connect(path)) as other:
        lead(client)
        other.execute("BEGIN EXCLUSIVE")
        started = monotonic()
        threads = [
            threading.Thread(target=client.track_lead, args=("signup", "user_42", "id_123"))
            for _ in range(64)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # One after the other they would take 64 times 0.3 seconds.
        assert monotonic() - started < 10


def test_a_call_waits_for_threads_and_processes_together(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has waited for another thread of the program has less time left for other programs."""
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 3.0)
    with writing(path) as (client, outbox), closing(sqlite3.connect(path)) as other:
        lead(client)
        other.execute("BEGIN IMMEDIATE")
        took: list[float] = []

        def track() -> None:
            started = monotonic()
            assert client.track_lead("signup", "user_42", "id_123")["success"] is False
            took.append(monotonic() - started)

        thread = threading.Thread(target=track)
        with outbox._storage._database.transaction("BEGIN"):
            thread.start()
            thread.join(timeout=0.8 * 3.0)
        thread.join()
        assert took[0] < 1.5 * 3.0


def test_a_file_that_is_removed_while_it_is_in_use(path: Path, server: FaultServer) -> None:
    """Later events go into a new file instead of one that nobody will find."""
    with writing(path) as (client, outbox):
        lead(client, "before")
        for each in path.parent.glob("events.db*"):
            each.unlink()
        lead(client, "after")
        assert 1 == outbox.stats().queued
    with opened(path, server.url) as (client, _):
        assert client.flush(timeout=10)
    assert ["after"] == names(server)


# Many at once


def leads(*numbers: int) -> list[Event]:
    return [
        Event.create(
            "lead", {"event_name": str(each), "customer_external_id": "user_42"}, f"k{each}"
        )
        for each in numbers
    ]


def test_many_events_are_queued_in_one_step_with_a_checkpoint(
    path: Path, server: FaultServer
) -> None:
    """A program that dies finds both or neither, and may give the same events again."""
    with writing(path) as (_, outbox):
        assert "" == outbox.checkpoint()
        assert 3 == outbox.add_all(leads(1, 2, 3), "3 rows", after="")
        assert 1 == outbox.add_all(leads(3, 4), "4 rows", after="3 rows")
        assert ("4 rows", 4) == (outbox.checkpoint(), outbox.stats().queued)
    with opened(path, server.url) as (client, outbox):
        assert client.flush(timeout=10)
        assert "4 rows" == outbox.checkpoint()
    assert ["1", "2", "3", "4"] == names(server)


def test_many_events_of_which_one_has_no_room(path: Path) -> None:
    """None of them is queued then, and the checkpoint stays."""
    with writing(path, max_events=3) as (_, outbox):
        outbox.add_all(leads(1, 2), "2 rows", after="")
        with pytest.raises(OutboxError, match="full"):
            outbox.add_all(leads(3, 4), "4 rows", after="2 rows")
        assert ("2 rows", 2) == (outbox.checkpoint(), outbox.stats().queued)


def test_many_events_of_which_one_has_the_key_of_another(path: Path) -> None:
    """None of them is queued, and the error says which key it is."""
    with writing(path) as (client, outbox):
        lead(client, idempotency_key="k2")
        with pytest.raises(OutboxError, match="idempotency_key k2 is that of another event"):
            outbox.add_all(leads(1, 2), "2 rows", after="")
        assert ("", 1) == (outbox.checkpoint(), outbox.stats().queued)


def test_two_programs_cannot_go_on_from_the_same_checkpoint(path: Path) -> None:
    """The second is told, and queues nothing."""
    with writing(path) as (_, outbox):
        outbox.add_all(leads(1), "1 row", after="")
        with pytest.raises(OutboxError, match="Another program has gone on"):
            outbox.add_all(leads(1, 2), "2 rows", after="")
        assert ("1 row", 1) == (outbox.checkpoint(), outbox.stats().queued)


def test_all_events_can_be_looked_at(path: Path, server: FaultServer) -> None:
    """Those that are queued and those that were given up, in their order."""
    server.behaviour = answer(422, "{}")
    with opened(path, server.url) as (client, outbox):
        outbox.add_all(leads(0), "1 row", after="")
        assert client.flush(timeout=10)
    with writing(path) as (_, outbox):
        outbox.add_all(leads(*range(1, 1201)), "1201 rows", after="1 row")
        shown = [(state, event and event.payload.event_name) for state, event in outbox.events()]
    assert [("dead", "0"), *(("queued", str(number)) for number in range(1, 1201))] == shown


# Verdicts


def failure(status: int, kind: str = "", retryable: bool = False) -> TrackFailure:
    return {
        "success": False, "error": "", "status_code": status, "type": kind, "details": None,
        "retryable": retryable, "ambiguous": False, "attempts": 1, "idempotency_key": "k",
        "retry_after": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (failure(409), "delivered"),
        (failure(0, "connection_error", retryable=True), "again"),
        (failure(0, "timeout_error", retryable=True), "again"),
        (failure(0, "tls_error"), "again"),
        (failure(0, "invalid_response"), "again"),
        (failure(200, "invalid_response"), "again"),
        (failure(101, "invalid_response"), "again"),
        *((failure(status, retryable=True), "again") for status in (408, 425, 429, 500, 502, 503)),
        *((failure(status), "again") for status in (501, 505, 511, 599)),
        *((failure(status), "pause") for status in (301, 302, 307, 308, 401, 403, 407)),
        *((failure(status), "dead") for status in (400, 402, 405, 410, 413, 422, 451)),
        (failure(200, "unprocessable_entity"), "dead"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value['status_code']}{value['type']}",
)
def test_a_verdict(result: TrackFailure, expected: str) -> None:
    """What the event is to blame for ends it; what passes is tried again; the rest pauses all."""
    assert expected == verdicts.verdict(result, unknown=0)


def test_the_backoff_doubles_up_to_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins within a second, and not all that failed together come back together."""
    monkeypatch.undo()
    for attempts, longest in [(1, 1), (2, 2), (5, 16), (10, 300), (10_000, 300)]:
        waits = [verdicts.backoff(attempts) for _ in range(300)]
        assert longest * 0.8 < max(waits) <= longest
        assert min(waits) < longest * 0.2


def test_what_may_pass_is_sent_again_until_it_is_delivered(path: Path, server: FaultServer) -> None:
    """No connection, no answer, an unreadable one, a busy server: none of them loses an event."""
    faults: dict[str, Behaviour] = {
        "reset": reset_after_reading,
        "hang-up": close_after_reading,
        "garbage": garbage,
        "page": answer(200, "<html>Welcome to the hotel</html>"),
        **{str(status): answer(status, "{}") for status in (408, 425, 429, 500, 501, 503, 599)},
    }
    server.behaviour = by_name({name: in_turn(fault, echo) for name, fault in faults.items()})
    with opened(path, server.url) as (client, outbox):
        for name in faults:
            lead(client, name, customer=name)
        assert client.flush(timeout=10)
        assert (len(faults), 0) == (outbox.stats().delivered, outbox.stats().dead)
    assert sorted([*faults, *faults]) == sorted(names(server))


def test_what_had_been_recorded_before_is_delivered(path: Path, server: FaultServer) -> None:
    """A 409 means that an earlier attempt came through."""
    told: list[TrackResult] = []
    server.behaviour = answer(409, {"success": False, "error": "Known"})
    with opened(path, server.url, on_result=lambda _, result: told.append(result)) as (client, box):
        lead(client)
        assert client.flush(timeout=10)
        assert (1, 0) == (box.stats().delivered, box.stats().dead)
    assert [success("Event tracked successfully by an earlier attempt")] == told


def test_what_the_api_refuses_is_kept_among_the_dead(
    path: Path, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """With status, error and event, until somebody mends it; the log tells of it without names."""
    server.behaviour = answer(422, REFUSED)
    with opened(path, server.url) as (client, outbox):
        lead(client, idempotency_key="order-7", **PERSON)
        assert client.flush(timeout=10)
        (dead,) = outbox.dead()
        assert (1, 1, 422, "Not for [hidden]") == (
            dead.event_id, dead.attempts, dead.status_code, dead.error
        )  # fmt: skip
        assert dead.event is not None
        assert ("lead", "order-7") == (dead.event.kind, dead.event.idempotency_key)
        assert "jane@example.com" == dead.event.payload.customer_email
        assert "Jane" not in repr(dead)
    assert [
        "Gave up on a lead: unprocessable_entity, status 422, attempt 1, key order-7"
    ] == warnings_in(caplog)
    assert "jane" not in caplog.text.lower()


def test_the_dead_are_queued_again_or_forgotten(path: Path, server: FaultServer) -> None:
    """Once the cause is mended they go out as if they were new, in their order."""
    server.behaviour = answer(400, "{}")
    with opened(path, server.url) as (client, outbox):
        for number in range(6):
            lead(client, str(number), f"user_{number % 2}")
        assert client.flush(timeout=10)
        server.behaviour = echo
        server.forget()
        assert 6 == outbox.retry_dead()
        assert client.flush(timeout=10)
        assert ([], 6) == (outbox.dead(), outbox.stats().delivered)
        assert ["0", "2", "4"] == [name for name in names(server) if int(name) % 2 == 0]
        server.behaviour = answer(400, "{}")
        lead(client)
        assert client.flush(timeout=10)
        assert (1, 0, 0) == (outbox.purge_dead(), outbox.retry_dead(), outbox.stats().dead)


def test_some_dead_events_are_forgotten(path: Path, server: FaultServer) -> None:
    """Those whose ids are given, if they are dead; the others and their count stay."""
    server.behaviour = answer(400, "{}")
    with opened(path, server.url) as (client, outbox):
        for name in ("a", "b", "c"):
            lead(client, name)
        assert client.flush(timeout=10)
        first, second, third = (each.event_id for each in outbox.dead())
        assert 0 == outbox.purge_dead([])
        assert 2 == outbox.purge_dead({first, third, 1000})
        assert ([second], 1) == ([each.event_id for each in outbox.dead()], outbox.stats().dead)
        outbox.retry_dead()
        assert 0 == outbox.purge_dead([second])


@pytest.mark.parametrize(
    "unknown", [answer(404, "{}"), answer(422, {"details": {"clickId": "is required"}})]
)
def test_a_click_that_is_not_known_gets_five_attempts(
    path: Path, server: FaultServer, unknown: Behaviour
) -> None:
    """It may be known a moment later; attempts that failed otherwise do not count."""
    busy = answer(503, "{}")
    server.behaviour = in_turn(*[busy] * 3, *[unknown] * 4, echo)
    with opened(path, server.url) as (client, outbox):
        lead(client)
        assert client.flush(timeout=10)
        assert (1, 8) == (outbox.stats().delivered, len(server.requests))
        server.forget()
        server.behaviour = unknown
        lead(client)
        assert client.flush(timeout=10)
        assert (1, 5) == (outbox.stats().dead, len(server.requests))


def test_what_fails_for_too_long_is_given_up(path: Path, server: FaultServer) -> None:
    """An event older than max_age gets an attempt, and is dead if that fails."""
    with writing(path) as (client, _):
        lead(client, "old")
        lead(client, "lucky")
    server.behaviour = in_turn(answer(503, {"error": "Busy"}), echo)
    with opened(path, server.url, max_age=0) as (client, outbox):
        assert client.flush(timeout=10)
        assert [(503, "Busy")] == [(each.status_code, each.error) for each in outbox.dead()]
        assert 1 == outbox.stats().delivered


@pytest.mark.parametrize(
    "wrong", [answer(401, "{}"), answer(403, "{}"), answer(407, "{}"), redirect(301, "/")]
)
def test_a_wrong_token_or_host_pauses_the_outbox(
    path: Path, server: FaultServer, wrong: Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    """One event at a time is tried, one warning is logged, and no event is lost over it."""
    server.behaviour = wrong
    with opened(path, server.url) as (client, outbox):
        for number in range(20):
            lead(client, str(number), f"user_{number}")
        # Up to four were on their way already; then one after the other.
        server.wait_for_requests(6)
        stats = outbox.stats()
        assert stats.paused
        assert (20, 0, 0) == (stats.queued, stats.dead, stats.delivered)
        server.behaviour = echo
        assert client.flush(timeout=10)
        assert (20, None) == (outbox.stats().delivered, outbox.stats().paused)
    assert 1 == len(warnings_in(caplog))
    assert "The outbox is paused: status" in warnings_in(caplog)[0]


def test_a_restart_with_the_right_token_ends_a_pause(
    path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new process tries at once instead of waiting for the next probe."""
    monkeypatch.setattr(storage_module, "FIRST_PROBE", 300.0)
    server.behaviour = answer(401, {"error": "Expired"})
    with opened(path, server.url, drain_timeout=0) as (client, outbox):
        lead(client)
        wait_until(lambda: outbox.stats().paused == "Expired")
    server.behaviour = echo
    with opened(path, server.url) as (client, outbox):
        assert client.flush(timeout=10)
        assert outbox.stats().paused is None


def test_a_full_server_is_given_the_time_it_asks_for(path: Path, server: FaultServer) -> None:
    """Retry-After holds back all events, not only the one that met it."""
    server.behaviour = in_turn(answer(429, "{}", {"Retry-After": "1"}), echo)
    with opened(path, server.url) as (client, outbox):
        lead(client, "first", "user_1")
        server.wait_for_requests(1)
        wait_until(lambda: outbox.stats().waiting == 1)
        lead(client, "second", "user_2")
        assert client.flush(timeout=10)
    first, *later = server.requests
    assert ["first", "second"] == sorted(request.json["eventName"] for request in later)
    assert min(request.at for request in later) - first.at >= 1.0


def test_a_rate_bounds_all_workers_together(path: Path, server: FaultServer) -> None:
    """Who must not ask too much of the API says how often; close() does not wait for its turn."""
    with opened(path, server.url, workers=8, rate=5.0) as (client, _):
        for number in range(5):
            lead(client, str(number), f"user_{number}")
        assert client.flush(timeout=10)
    times = sorted(request.at for request in server.requests)
    # 0.8 seconds, less what kept the first one on its way.
    assert times[-1] - times[0] >= 0.3
    with opened(path, server.url, rate=0.01, drain_timeout=0.1) as (client, outbox):
        lead(client, "first", "user_1")
        lead(client, "second", "user_2")
        wait_until(lambda: outbox.stats().sending == 1 and outbox.stats().delivered == 6)
        assert 6 == len(server.requests)
        started = monotonic()
    assert monotonic() - started < 10


# Order


def test_a_customers_events_leave_in_order(path: Path, server: FaultServer) -> None:
    """Also where attempts fail; a deferred lead comes before what builds on it."""
    chance = random.Random(7)

    def flaky(visit: Visit) -> None:
        chance.choice([echo, echo, answer(503, "{}"), reset_after_reading])(visit)

    server.behaviour = flaky
    with opened(path, server.url, workers=8) as (client, outbox):
        for number in range(60):
            lead(client, f"{number:02}", f"user_{number % 5}")
        assert client.flush(timeout=20)
        assert 60 == outbox.stats().delivered
    for customer in range(5):
        came = [
            request.json["eventName"]
            for request in server.requests
            if request.json["customerExternalId"] == f"user_{customer}"
        ]
        assert came == sorted(came)


def test_a_customer_who_waits_holds_up_nobody_else(path: Path, server: FaultServer) -> None:
    """Events of others pass one whose server does not answer, and one that is to come again."""
    stuck = threading.Event()

    def hold(visit: Visit) -> None:
        visit.request()
        stuck.wait(timeout=20)
        visit.close()

    server.behaviour = by_name({"stuck": hold})
    with opened(path, server.url, drain_timeout=0) as (client, outbox):
        lead(client, "stuck", "user_1")
        lead(client, "behind", "user_1")
        server.wait_for_requests(1)
        for number in range(10):
            lead(client, str(number), f"other_{number}")
        server.wait_for_requests(11)
        wait_until(lambda: outbox.stats().delivered == 10)
        stats = outbox.stats()
        assert (2, 1, 1) == (stats.queued, stats.sending, stats.waiting)
        assert "behind" not in names(server)
        stuck.set()


# What is told


def test_stats_tell_how_it_goes(path: Path) -> None:
    """Of an empty file, and of one in which events wait."""
    with writing(path) as (client, outbox):
        stats = outbox.stats()
        assert (0, 0, 0, 0, 0) == (
            stats.queued, stats.sending, stats.waiting, stats.dead, stats.delivered
        )  # fmt: skip
        assert (None, 0.0) == (stats.paused, stats.oldest_age)
        lead(client, customer="user_1")
        lead(client, customer="user_1")
        lead(client, customer="user_2")
        stats = outbox.stats()
        assert (3, 1) == (stats.queued, stats.waiting)
        assert 0.0 < stats.oldest_age < 10.0


def test_on_result_is_told_what_became_of_each_event(path: Path, server: FaultServer) -> None:
    """Once for each that is delivered or given up, and not for attempts in between."""
    told: list[tuple[Event, TrackResult]] = []
    server.behaviour = by_name(
        {"good": in_turn(answer(503, "{}"), echo), "bad": answer(422, REFUSED)}
    )
    with opened(path, server.url, on_result=lambda *both: told.append(both)) as (client, _):
        lead(client, "good", "user_1", idempotency_key="order-1")
        lead(client, "bad", "user_2", idempotency_key="order-2")
        assert client.flush(timeout=10)
    (_, bad), (_, good) = sorted(told, key=lambda both: both[1]["success"])
    assert success("Recorded", "good") == good
    assert "error" in bad
    assert (422, 1) == (bad["status_code"], bad["attempts"])
    assert {"order-1", "order-2"} == {event.idempotency_key for event, _ in told}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_on_result_raises_stops_nothing(
    path: Path, server: FaultServer, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged by its kind alone, since its text may hold a customer's data."""

    def fail(event: Event, _: TrackResult) -> None:
        raise error(event.payload.customer_email)

    with opened(path, server.url, workers=1, on_result=fail) as (client, outbox):
        for _ in range(3):
            lead(client, **PERSON)
        assert client.flush(timeout=10)
        assert 3 == outbox.stats().delivered
    assert [f"on_result failed: {error.__name__}"] * 3 == warnings_in(caplog)
    assert "jane" not in caplog.text


def test_on_result_may_use_the_client(path: Path, server: FaultServer) -> None:
    """It may track a further event, and close the outbox."""
    ended = threading.Event()

    def follow_up(event: Event, _: TrackResult) -> None:
        if event.payload.event_name == "first":
            lead(client, "second")
        else:
            client.close()
            ended.set()

    with opened(path, server.url, on_result=follow_up) as (client, _):
        lead(client, "first")
        assert ended.wait(timeout=10)
    assert ["first", "second"] == names(server)


def test_an_event_that_takes_the_program_down_is_given_up(path: Path, server: FaultServer) -> None:
    """After five attempts that nobody came back from it is dead, and on_result is told."""
    with writing(path) as (client, _):
        lead(client, "poison")
        lead(client, "next")
    taker = Storage(path, max_events=10, max_age=10)
    for _ in range(5):
        assert taker.exchange(None, lease=0.0).claim
    taker.close()
    told: list[TrackResult] = []
    with opened(path, server.url, on_result=lambda _, result: told.append(result)) as (client, box):
        assert client.flush(timeout=10)
        assert [(5, 0)] == [(each.attempts, each.status_code) for each in box.dead()]
    assert ["next"] == names(server)
    gave_up, _ = told
    assert "error" in gave_up
    assert ("outbox_error", 5) == (gave_up["type"], gave_up["attempts"])
    assert "The program ended in each of 5 attempts to send it." == gave_up["error"]


@pytest.mark.parametrize(
    "damage",
    [
        "body = '{'",
        "body = CAST(substr(CAST(body AS BLOB), 1, 9) || x'ff' AS TEXT)",
        "kind = CAST(x'ff' AS TEXT)",
        "key = CAST(x'ff' AS TEXT)",
        "created_at = 'yesterday'",
    ],
)
def test_a_row_that_cannot_be_read_holds_up_nothing(
    path: Path, server: FaultServer, damage: str
) -> None:
    """It lies among the dead, is shown as None, and what comes after it is sent."""
    with writing(path) as (client, outbox):
        lead(client, "damaged")
        lead(client, "whole")
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"UPDATE events SET {damage} WHERE id = 1")
            db.commit()
        shown = [event and event.payload.event_name for _, event in outbox.events()]
        assert [None, "whole"] == shown
    with opened(path, server.url) as (client, outbox):
        assert client.flush(timeout=10)
        assert [None] == [each.event for each in outbox.dead()]
        assert [("dead", None)] == list(outbox.events())
    assert ["whole"] == names(server)


def test_a_customer_that_cannot_be_read_is_one_like_any_other(
    path: Path, server: FaultServer
) -> None:
    """Where only the column for the order is damaged, the events are whole and leave in order."""
    with writing(path) as (client, _):
        lead(client, "first")
        lead(client, "second")
        with closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE events SET customer = CAST(x'ff' AS TEXT)")
            db.commit()
    with opened(path, server.url) as (client, _):
        assert client.flush(timeout=10)
    assert ["first", "second"] == names(server)


# Several of them


def test_another_processes_events_are_sent_soon(path: Path, server: FaultServer) -> None:
    """A process that sends looks into the file twice a second."""
    with opened(path, server.url) as (sender, _), writing(path) as (writer, _):
        assert sender.flush(timeout=10)
        lead(writer)
        server.wait_for_requests(1)


def test_a_client_that_only_writes_needs_no_token(path: Path) -> None:
    """The token stays with the process that sends."""
    with writing(path) as (client, outbox):
        lead(client)
        assert client.flush(timeout=0.1) is False
        assert 1 == outbox.stats().queued
    with pytest.raises(ValueError, match="token is missing"):
        CMSClient(delivery=Outbox(path))


def test_events_go_through_another_delivery(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It needs no token; what it raises is tried again and told of once, by its type."""
    listing = Listing(OSError("secret"), ValueError("secret"))
    told: list[bool] = []
    outbox = Outbox(
        path, through=listing, workers=1, on_result=lambda _, result: told.append(result["success"])
    )
    with CMSClient(delivery=outbox) as client:
        lead(client, "a", "user_1")
        lead(client, "b", "user_2")
        assert client.flush(timeout=10)
    assert {"a", "b"} == {event.payload.event_name for event in listing.events}
    assert [True, True] == told
    assert ["Events wait, for they cannot be handed on: ValueError"] == warnings_in(caplog)
    assert listing.closed > 0


def test_no_exception_of_another_delivery_ends_the_sending(path: Path) -> None:
    """Not even those that are no errors, such as a cancelled task's, nor a result that is none."""

    class Odd(Listing):
        def deliver(self, event: Event) -> TrackResult:
            if len(self.failures) == 1:
                self.failures.clear()
                return cast("TrackResult", {})
            return super().deliver(event)

        def close(self) -> None:
            raise OSError("closed badly")

    odd = Odd(OSError(), asyncio.CancelledError())
    with CMSClient(delivery=Outbox(path, through=odd, workers=1)) as client:
        lead(client, "a")
        assert client.flush(timeout=10)
    assert ["a"] == [event.payload.event_name for event in odd.events]


@pytest.mark.parametrize(
    "odd",
    [
        None,
        {},
        {"success": 1},
        {"success": False, "error": "x"},
        {**failure(500), "success": 0},
        {**failure(500), "status_code": "500"},
        {**failure(500), "status_code": 2**70},
        {**failure(500), "retry_after": float("nan")},
        {**failure(500), "retry_after": "5"},
        {**failure(500), "error": "\ud800"},
        {**failure(500), "error": None},
    ],
)
def test_what_is_no_result_is_tried_again(
    path: Path, odd: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A delivery of one's own that answers oddly buries no event, however often it does."""

    class Odd(Listing):
        def deliver(self, event: Event) -> TrackResult:
            self.events.append(event)
            return cast("TrackResult", odd) if len(self.events) <= 8 else success("Listed")

    listing = Odd()
    with CMSClient(delivery=Outbox(path, through=listing, workers=1)) as client:
        lead(client)
        assert client.flush(timeout=20)
        assert 9 == len(listing.events)
    (warning,) = warnings_in(caplog)
    assert warning.startswith("Events wait, for they cannot be handed on: ")


@pytest.mark.parametrize("seconds", [None, "5", float("nan")])
def test_another_delivery_says_how_long_it_takes(path: Path, seconds: Any) -> None:
    """A time that cannot be used is refused where the program starts."""
    listing = Listing()
    listing.timeout = seconds
    with pytest.raises(ValueError, match=r"through\.timeout must be a number of seconds"):
        Outbox(path, through=listing)


def test_a_call_does_not_wait_for_another_delivery(path: Path) -> None:
    """Where the file takes no event the call fails at once, and can be made again."""
    path.mkdir()
    with CMSClient(delivery=Outbox(path, through=Listing())) as client:
        result = client.track_lead("a", "user_42", "id_123")
    assert result["success"] is False
    assert ("outbox_error", True) == (result["type"], result["retryable"])


def test_an_outbox_serves_one_client(path: Path) -> None:
    """Events must not go out under another client's token."""
    outbox = Outbox(path)
    CMSClient(TOKEN, delivery=outbox)
    with pytest.raises(ValueError, match="make an Outbox a client"):
        CMSClient("another-token", delivery=outbox)


def test_threads_share_an_outbox(path: Path, server: FaultServer) -> None:
    """Many may track at once; each event arrives once."""
    with opened(path, server.url) as (client, outbox):
        threads = [
            threading.Thread(
                target=lambda n=number: [lead(client, f"{n}-{i}", f"{n}") for i in range(25)]
            )
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.flush(timeout=20)
        assert 200 == outbox.stats().delivered
    assert 200 == len(set(names(server))) == len(names(server))


@pytest.mark.filterwarnings("error")
def test_plain_http_warns_at_the_line_that_made_the_client(path: Path) -> None:
    """Also with an outbox, through which the token travels as well."""
    with pytest.warns(UserWarning, match="plain http") as caught:
        CMSClient(TOKEN, "http://api.example.com", delivery=Outbox(path))
    assert __file__ == caught[0].filename


# The end


def test_close_sends_what_is_queued(path: Path, server: FaultServer) -> None:
    """It waits for a moment, twice is fine, and a later event is sent as well."""
    with opened(path, server.url) as (client, _):
        for number in range(20):
            lead(client, str(number), f"user_{number}")
        client.close()
        assert 20 == len(names(server))
        assert not senders()
        client.close()
        lead(client, "later")
        assert client.flush(timeout=10)


def test_close_does_not_wait_for_a_server_that_hangs(path: Path, server: FaultServer) -> None:
    """It takes drain_timeout at most, and what is left is sent the next time."""
    over = threading.Event()
    server.behaviour = close_once(over)
    with opened(path, server.url, timeout=30, drain_timeout=0.1) as (client, outbox):
        lead(client, "stuck")
        server.wait_for_requests(1)
        started = monotonic()
        client.close()
        assert 0.1 <= monotonic() - started < 10
        over.set()
        wait_until(lambda: not senders())
        assert 1 == outbox.stats().queued
        server.behaviour = echo
        assert client.flush(timeout=10)


def test_a_program_may_end_while_the_server_hangs_as_often_as_it_likes(
    path: Path, server: FaultServer
) -> None:
    """A script that closes its client in good order has not crashed, and its event is not dead."""
    go_on = threading.Event()
    server.behaviour = close_once(go_on)
    with writing(path) as (client, _):
        lead(client)
    for run in range(1, 8):
        with opened(path, server.url, drain_timeout=0) as (client, outbox):
            client.flush(timeout=0)
            server.wait_for_requests(run)
        assert (1, 0) == (outbox.stats().queued, outbox.stats().dead)
        with closing(sqlite3.connect(path)) as db:
            # The time of the lease is over.
            db.execute("UPDATE events SET due_at = 0")
            db.commit()
    server.behaviour = echo
    go_on.set()
    wait_until(lambda: not senders())
    with opened(path, server.url) as (client, outbox):
        assert client.flush(timeout=10)
        assert (1, 0) == (outbox.stats().delivered, outbox.stats().dead)


def test_flush_goes_on_when_another_thread_closes(path: Path, server: FaultServer) -> None:
    """What close() left in the file is sent while somebody waits for it."""
    server.behaviour = answer(503, "{}")
    with opened(path, server.url, drain_timeout=0.1) as (client, _), ThreadPoolExecutor(1) as pool:
        lead(client)
        flushing = pool.submit(client.flush, timeout=20)
        server.wait_for_requests(1)
        client.close()
        server.behaviour = echo
        assert flushing.result() is True


def test_flush_tells_whether_all_is_delivered(path: Path) -> None:
    """It does not wait for longer than it is told."""
    with nobody_listens() as url, opened(path, url, drain_timeout=0) as (client, _):
        assert client.flush(timeout=0) is True
        lead(client)
        started = monotonic()
        assert client.flush(timeout=0.2) is False
        assert 0.2 <= monotonic() - started < 10


ENDING = """
import sys
from cms_python import CMSClient, Outbox
client = CMSClient("token", sys.argv[2], delivery=Outbox(sys.argv[1], drain_timeout=0.2))
client.track_lead("signup", "user_42", click_id="id_123")
print("tracked", flush=True)
"""


def test_the_end_of_a_program_is_bounded(path: Path, server: FaultServer) -> None:
    """A server that hangs does not keep a program from ending, quietly."""
    server.behaviour = silent
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", ENDING, str(path), server.url],
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert (0, "tracked\n", "") == (ran.returncode, ran.stdout, ran.stderr)
    with writing(path) as (_, outbox), closing(sqlite3.connect(path)) as db:
        assert 1 == outbox.stats().queued
        # It has not crashed either.
        assert (0,) == db.execute("SELECT unanswered FROM events").fetchone()


# Forks


@forks
@threads_beside_fork
def test_a_fork_before_the_first_event(path: Path, server: FaultServer) -> None:
    """A client made before the fork, as with gunicorn --preload, serves each child."""
    with opened(path, server.url) as (client, outbox):

        def work(name: str) -> None:
            lead(client, name, name)
            assert client.flush(timeout=20)

        children = [fork(partial(work, f"child-{number}")) for number in range(4)]
        assert [0] * 4 == [exit_status(child) for child in children]
        assert (0, 4) == (outbox.stats().queued, outbox.stats().delivered)


@forks
@threads_beside_fork
def test_50_forks_while_threads_send(path: Path, server: FaultServer) -> None:
    """Each child starts senders of its own; the parent's go on; every event arrives once."""
    with opened(path, server.url, workers=2, drain_timeout=20) as (client, outbox):

        def work(number: int) -> None:
            lead(client, f"child-{number}", f"child-{number % 5}")
            client.close()

        children = []
        for number in range(50):
            lead(client, f"parent-{number}", f"parent-{number % 5}")
            children.append(fork(partial(work, number)))
        assert [0] * 50 == [exit_status(child) for child in children]
        assert client.flush(timeout=20)
        assert (0, 100, 0) == (
            outbox.stats().queued, outbox.stats().delivered, outbox.stats().dead
        )  # fmt: skip
    assert 100 == len(set(names(server))) == len(names(server))


@forks
@threads_beside_fork
def test_a_child_loses_nothing_when_its_parent_goes(path: Path) -> None:
    """It holds the file's locks itself, so nobody takes away the log that it writes to."""
    go_on, at_work = os.pipe(), os.pipe()
    with writing(path) as (client, outbox):
        lead(client, "parent")

        def work() -> None:
            lead(client, "child-1")
            os.write(at_work[1], b"1")
            os.read(go_on[0], 1)
            lead(client, "child-2")

        child = fork(work)
        os.read(at_work[0], 1)
        client.close()
        # Who closes the file as the last tidies up its log; the child is still there.
        assert "3" == queued_elsewhere(path)
        os.write(go_on[1], b"1")
        assert 0 == exit_status(child)
        assert 4 == outbox.stats().queued
    for end in (*go_on, *at_work):
        os.close(end)


@forks
@threads_beside_fork
def test_a_child_does_not_speak_for_what_its_parent_sends(path: Path) -> None:
    """A child that closes the outbox takes back no attempt of its parent, which may crash yet."""
    counts: list[tuple[int]] = []

    class Forking(Delivery):
        """Another way to leave than HTTP, that needs a process of its own."""

        def deliver(self, event: Event) -> TrackResult:  # noqa: ARG002, whatever it is
            assert 0 == exit_status(fork(work))
            with closing(sqlite3.connect(path)) as db:
                counts.append(db.execute("SELECT unanswered FROM events").fetchone())
            return success("Forked")

    def work() -> None:
        client.flush(timeout=0)
        client.close()

    with opened(path, through=Forking(), drain_timeout=0) as (client, outbox):
        lead(client)
        assert client.flush(timeout=20)
        assert 1 == outbox.stats().delivered
    assert [(1,)] == counts


ELSEWHERE = """
import sys
from cms_python import CMSClient, Outbox
outbox = Outbox(sys.argv[1], send=False)
with CMSClient(delivery=outbox) as client:
    client.track_lead("elsewhere", "user_7", click_id="id_1")
    print(outbox.stats().queued)
"""


def queued_elsewhere(path: Path) -> str:
    """Queues an event in another process; returns how many are queued then."""
    command = [sys.executable, "-c", ELSEWHERE, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    return ran.stdout.strip()


LOCKING = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
"""


@contextmanager
def locked_elsewhere(path: Path) -> Iterator[Callable[[], object]]:
    """Another process has the file, until the function is called that comes back."""
    command = [sys.executable, "-c", LOCKING, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert "locked\n" == process.stdout.readline()
        yield process.stdin.close


@forks
@threads_beside_fork
def test_a_fork_while_a_thread_waits_for_the_file(path: Path) -> None:
    """The fork waits for a moment; thread and child both get their turn."""
    with writing(path) as (client, outbox):
        lead(client, "before")
        with locked_elsewhere(path) as unlock:
            thread = threading.Thread(target=lead, args=(client, "thread"))
            thread.start()
            wait_until(lambda: bool(outbox._storage._database._turns))
            threading.Timer(0.1, unlock).start()
            child = fork(lambda: lead(client, "child"))
            thread.join()
        assert 0 == exit_status(child)
        lead(client, "after")
        assert 4 == outbox.stats().queued


@forks
@threads_beside_fork
def test_forks_while_a_thread_makes_outboxes(path: Path) -> None:
    """No child gets a file half-used, or SQLite's locks, however many come and go meanwhile."""
    stopping = threading.Event()

    def make() -> None:
        while not stopping.is_set():
            made = [Outbox(path.with_name(f"{number}.db"), send=False) for number in range(50)]
            # This one is let go of without a close().
            lead(CMSClient(TOKEN, delivery=made[0]))

    with writing(path) as (client, outbox), restless_threads():
        thread = threading.Thread(target=make)
        thread.start()
        children = []
        try:
            for number in range(50):
                lead(client, f"parent-{number}")
                children.append(fork(partial(lead, client, f"child-{number}")))
        finally:
            stopping.set()
            thread.join()
        assert [0] * 50 == [exit_status(child) for child in children]
        assert 100 == outbox.stats().queued


@forks
@threads_beside_fork
def test_a_fork_out_of_a_transaction(path: Path, server: FaultServer) -> None:
    """A child that got the file half-used leaves it alone, and sends its events directly."""
    with opened(path, server.url) as (client, outbox):
        lead(client, "before")
        assert client.flush(timeout=10)

        def work() -> None:
            result = client.track_lead("child", "user_42", "id_123")
            assert success("Recorded", "child") == result

        with outbox._storage._database.transaction():
            child = fork(work)
        assert 0 == exit_status(child)
        lead(client, "after")
        assert client.flush(timeout=10)
    assert ["before", "child", "after"] == names(server)


# Signals


def interrupt() -> None:
    """As Ctrl-C."""
    raise KeyboardInterrupt


@timers
@pytest.mark.parametrize(
    "call",
    [
        "flush",
        pytest.param("track", marks=ends_its_withs),
        pytest.param("wake the senders", marks=ends_its_withs),
    ],
)
def test_ctrl_c_at_any_moment(path: Path, server: FaultServer, call: str) -> None:
    """A call that an exception out of a signal's handler cuts short leaves nothing locked."""
    tracked = ["before"]

    def go_on() -> None:
        if call == "flush":
            client.flush(timeout=0)
        elif call == "track":
            name = str(len(tracked))
            lead(client, name)
            tracked.append(name)
        else:
            outbox._wake_senders()

    with opened(path, server.url) as (client, outbox), handling(signal.SIGALRM, interrupt):
        lead(client, "before")
        for _ in range(200):
            with suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.003))
                while True:
                    go_on()
        lead(client, "after")
        assert client.flush(timeout=60)
        started = monotonic()
        lead(client, "later")
        assert client.flush(timeout=10)
        # No step waited for a lock that nobody gives back.
        assert monotonic() - started < 5
        assert {*tracked, "after", "later"} <= set(names(server))


@forks
@threads_beside_fork
# Python tells of what ended the waiting, and forks all the same.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_while_a_fork_waits_for_the_file(path: Path) -> None:
    """The thread that forked can use each of its outboxes afterwards."""
    in_use, over = threading.Event(), threading.Event()

    def hold() -> None:
        with outbox._storage._database.transaction():
            in_use.set()
            wait_until(lambda: threading.main_thread().ident in outbox._storage._database._turns)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            over.wait(timeout=20)

    with writing(path) as (client, outbox), writing(path.with_name("other.db")) as (other, _):
        lead(other)
        thread = threading.Thread(target=hold)
        with handling(signal.SIGUSR1, interrupt):
            thread.start()
            assert in_use.wait(timeout=20)
            child = fork(lambda: None)
        over.set()
        thread.join()
        assert 0 == exit_status(child)
        lead(client)
        lead(other)


def at_step(number: int, handler: Callable[[], object], call: Callable[[], object]) -> bool:
    """Calls, and has a handler come in at this step of starting senders; tells whether it did.

    A step is an instruction of Python. A signal's handler comes in between two of them, which a
    timer would have to meet by chance.
    """
    starting = {Outbox._running_senders.__code__, outbox_module._Senders.start.__code__}
    steps = iter(range(number, -1, -1))
    came: list[object] = []

    def trace(frame: FrameType, event: str, _: object) -> Any:
        frame.f_trace_opcodes = frame.f_code in starting
        if frame.f_trace_opcodes and event == "opcode" and next(steps, None) == 0:
            came.append(handler())
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return bool(came)


def test_a_handler_of_a_signal_that_tracks_while_its_thread_starts_senders(
    path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any step of that; both share the threads, and close() stops them."""
    monkeypatch.setattr(outbox_module, "FLUSH_POLL", 0.001)
    step, came = 0, True
    while came:
        server.forget()
        with opened(path.with_name(f"{step}.db"), server.url, workers=2) as (client, _):
            came = at_step(step, partial(lead, client, "handler"), partial(lead, client, "main"))
            assert client.flush(timeout=10)
            assert len(senders()) == 2
        assert not senders()
        assert (["handler"] if came else []) + ["main"] == sorted(names(server))
        step += 1
    assert step > 100


def test_a_handler_of_a_signal_that_tracks_while_its_thread_writes(
    path: Path, server: FaultServer
) -> None:
    """It cannot write as well, and sends its event directly."""
    with opened(path, server.url) as (client, outbox):
        lead(client, "before")
        assert client.flush(timeout=10)
        with outbox._storage._database.transaction():
            result = client.track_lead("handler", "user_42", "id_123")
            assert success("Recorded", "handler") == result
        lead(client, "after")
        assert client.flush(timeout=10)
    assert ["before", "handler", "after"] == names(server)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no such signals")
def test_a_handler_of_a_signal_that_tracks_while_its_thread_enters(path: Path) -> None:
    """It takes nothing from the call that it came into: no other thread gets in between."""
    with writing(path) as (client, outbox):
        lead(client, "before")
        database, others = outbox._storage._database, []

        class Signalled:
            """A lock that a signal meets just as it has been taken."""

            lock = database._lock
            release = lock.release

            def acquire(self, timeout: float) -> bool:
                taken = self.lock.acquire(timeout=timeout)
                database._lock = self.lock
                signal.raise_signal(signal.SIGUSR1)
                return taken

        def track() -> None:
            client.track_lead("handler", "user_42", "id_123")

        def look() -> None:
            others.append(database._lock.acquire(blocking=False))

        with handling(signal.SIGUSR1, track):
            database._lock = cast("Any", Signalled())
            with database.transaction():
                thread = threading.Thread(target=look)
                thread.start()
                thread.join()
        assert [False] == others
        lead(client, "after")


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": ""}, "path must be the path of a file"),
        ({"path": b"events.db"}, "path must be"),
        ({"path": "a\0b"}, "path must be"),
        ({"path": ":memory:"}, "path must be"),
        ({"path": 5}, "path must be"),
        ({"send": 1}, "send must be True or False"),
        ({"workers": 0}, "workers must be an int from 1 to 64"),
        ({"workers": 65}, "workers must be"),
        ({"workers": True}, "workers must be"),
        ({"rate": 0}, "rate must be a number of requests a second"),
        ({"rate": float("nan")}, "rate must be"),
        ({"rate": True}, "rate must be"),
        ({"max_events": 0}, "max_events must be an int from 1"),
        ({"max_events": 1e6}, "max_events must be"),
        ({"max_age": -1}, "max_age must be a number of seconds from 0"),
        ({"max_age": float("nan")}, "max_age must be"),
        ({"max_age": float("inf")}, "max_age must be"),
        ({"max_age": "7d"}, "max_age must be"),
        ({"drain_timeout": None}, "drain_timeout must be"),
        ({"drain_timeout": True}, "drain_timeout must be"),
        ({"on_full": "drop"}, 'on_full must be "send" or "refuse"'),
        ({"on_full": "send", "send": False}, 'on_full must be "refuse" where send is False'),
        ({"on_full": "send", "through": Listing()}, 'on_full must be "refuse" where through is'),
        ({"on_result": "print"}, "on_result must be a function"),
        ({"through": print}, "through must be a Delivery"),
    ],
)
def test_an_argument_that_cannot_be_used_is_refused(
    arguments: dict[str, Any], message: str
) -> None:
    """Where the program starts, by its name."""
    with pytest.raises(ValueError, match=f"^{message}"):
        Outbox(**{"path": "events.db", **arguments})


def test_a_repr_shows_the_path(path: Path) -> None:
    """And nothing that is in the file."""
    assert f"Outbox({str(path)!r})" == repr(Outbox(path))
