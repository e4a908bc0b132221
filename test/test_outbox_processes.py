"""What an outbox has taken arrives, whatever becomes of the processes that queue and send."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from books import Books
from fault_server import (
    answer,
    answer_late,
    every_time,
    nobody_listens,
    reset_before_reading,
    silent,
)
from outbox_child import EVENTS_OF_A_CUSTOMER

from cms_python import Outbox

CHILD = Path(__file__).with_name("outbox_child.py")
KILLS = int(os.environ.get("CMS_KILLS", "5"))
EVENTS = int(os.environ.get("CMS_OUTBOX_EVENTS", "1000"))
OUTAGE_EVENTS = int(os.environ.get("CMS_OUTAGE_EVENTS", "3000"))
PROCESSES, THREADS = 4, 4
MEMORY, STATUS = Path("/dev/shm"), Path("/proc/self/status")
GIBIBYTE = 1024**3
# What a process that is ended tells its parent.
ENDS = {"SIGKILL": -9, "SIGTERM": -15, "os._exit": 3}

busy = answer(503, {"success": False, "error": "Busy"})


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is room: no power fails here, and disks are slow to sync."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > GIBIBYTE
    with tempfile.TemporaryDirectory(dir=MEMORY if roomy else None) as name:
        yield Path(name)


@contextmanager
def child(command: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a command of outbox_child.py; killed if it is still there afterwards."""
    line = [sys.executable, "-W", "error", str(CHILD), command, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def piped(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def line_of(process: subprocess.Popen[str]) -> str:
    line = piped(process.stdout).readline().strip()
    assert line, piped(process.stderr).read()
    return line


def tell(process: subprocess.Popen[str]) -> None:
    print(file=piped(process.stdin), flush=True)


def said_until_end(process: subprocess.Popen[str], seconds: float = 60) -> list[str]:
    """The lines of a process that ends well and says nothing to complain about."""
    status = process.wait(timeout=seconds)
    # Not communicate(): it would pass over what line_of() has read ahead.
    assert (0, "") == (status, piped(process.stderr).read())
    return piped(process.stdout).read().splitlines()


def drained(path: Path, url: str, seconds: float = 60) -> dict[str, Any]:
    """Has a new process send all that waits in the file. Returns the file's stats after it."""
    with child("drain", path, url, seconds) as process:
        flushed, stats = said_until_end(process, seconds + 30)
    assert "True" == flushed, stats
    parsed: dict[str, Any] = json.loads(stats)
    return parsed


def unordered(server: Books) -> list[str]:
    """The customers whose events did not come in the order in which they were queued."""
    return [
        customer for customer, numbers in server.by_customer.items() if numbers != sorted(numbers)
    ]


def queued_until_ended(process: subprocess.Popen[str], end: str) -> list[int]:
    """Ends a process that queues, at some moment; tells the events whose call had returned."""
    lines = [line_of(process) for _ in range(random.randrange(100))]
    if end == "os._exit":
        tell(process)
    else:
        process.send_signal(signal.Signals[end])
    lines += piped(process.stdout).read().split()
    assert (ENDS[end], "") == (process.wait(timeout=30), piped(process.stderr).read())
    return [int(line) for line in lines]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_a_process_may_end_at_any_moment(folder: Path) -> None:
    """Once a call has returned, its event arrives, under one key, however the process dies."""
    path = folder / "events.db"
    returned: list[int] = []
    with Books() as server, ThreadPoolExecutor(len(ENDS)) as pool:
        server.behaviour = every_time(
            *[server.accept] * 7, server.lose_answer, busy, reset_before_reading
        )

        def lives(end: str, first: int) -> list[int]:
            """One process after the other; tells the events whose call had returned."""
            events = []
            for number in range(first, first + KILLS):
                with child("queue_until_ended", path, server.url, number * 1_000_000) as process:
                    events += queued_until_ended(process, end)
            return events

        for events in pool.map(lives, ENDS, itertools.count(0, KILLS)):
            returned += events
        server.behaviour = server.accept
        stats = drained(path, server.url, 60 + 5 * KILLS)
    assert [] == sorted({*returned} - {*server.numbers})
    assert len(server.numbers) == len(set(server.numbers))
    assert [] == server.altered
    assert [] == unordered(server)
    assert (0, 0, len(server.numbers)) == (stats["queued"], stats["dead"], stats["delivered"])


def test_many_processes_share_a_file(folder: Path) -> None:
    """Each event is sent once, and each customer's in order, whichever process sends them."""
    # No customer is shared among threads.
    step = THREADS * EVENTS_OF_A_CUSTOMER
    share = EVENTS // PROCESSES // step * step
    path = folder / "events.db"
    with Books() as server, ExitStack() as stack:
        processes = [
            stack.enter_context(
                child("queue_in_threads", path, server.url, number * share, share, THREADS)
            )
            for number in range(PROCESSES)
        ]
        assert [["True"]] * PROCESSES == [said_until_end(each, 900) for each in processes]
    assert list(range(share * PROCESSES)) == sorted(server.numbers)
    assert {1: share * PROCESSES} == Counter(server.times.values())
    assert [] == unordered(server)


@pytest.mark.skipif(not STATUS.exists(), reason="the memory in use is read from /proc")
def test_an_outage_costs_neither_memory_nor_events(folder: Path) -> None:
    """While the server is down events wait in the file, not in memory, and later all arrive."""
    path = folder / "events.db"
    with nobody_listens() as url, child("queue_and_measure", path, url, OUTAGE_EVENTS) as process:
        grown = int(line_of(process))
        assert "done" == line_of(process)
        assert [] == said_until_end(process, seconds=10)
    assert grown < 10 * 1024
    with Books() as server:
        stats = drained(path, server.url, 60 + OUTAGE_EVENTS / 100)
    assert list(range(OUTAGE_EVENTS)) == sorted(server.numbers)
    assert (0, 0, OUTAGE_EVENTS) == (stats["queued"], stats["dead"], stats["delivered"])
    assert [] == unordered(server)


def test_one_process_writes_and_another_sends(folder: Path) -> None:
    """A process with `send=False` needs no token, and what it queues another one sends at once."""
    path = folder / "events.db"
    with Books() as server, child("send_until_told", path, server.url) as sender:
        assert "ready" == line_of(sender)
        with child("only_write", path, server.url, 500) as writer:
            assert [] == said_until_end(writer)
        server.wait_for_events(500)
        tell(sender)
        assert [] == said_until_end(sender)
    assert list(range(500)) == sorted(server.numbers)
    assert {1: 500} == Counter(server.times.values())


def test_a_process_that_only_writes_sends_nothing(folder: Path) -> None:
    """What `send=False` has queued waits until some process sends it."""
    path = folder / "events.db"
    with Books() as server:
        with child("only_write", path, server.url, 20) as writer:
            assert [] == said_until_end(writer)
        assert 0 == server.connections
        assert 20 == drained(path, server.url)["delivered"]
    assert list(range(20)) == sorted(server.numbers)


def test_a_script_that_just_ends(folder: Path) -> None:
    """Without flush() or close() the queue is sent at the end of the program, if that is quick."""
    path = folder / "events.db"
    with Books() as server:
        server.behaviour = answer_late(0.05, server.accept)
        with child("queue_and_end", path, server.url, 40, 30) as process:
            assert ["done"] == said_until_end(process)
        arrived = len(server.numbers)
    assert 40 == arrived
    assert [] == unordered(server)


def test_a_script_that_ends_while_the_server_hangs(folder: Path) -> None:
    """The end of a program waits 2 seconds at most; what is left stays in the file."""
    path = folder / "events.db"
    with Books() as server:
        server.behaviour = silent
        with child("queue_and_end", path, server.url, 40) as process:
            assert "done" == line_of(process)
            assert [] == said_until_end(process, seconds=10)
    with closing(Outbox(path, send=False)) as outbox:
        assert (40, 0) == (outbox.stats().queued, outbox.stats().dead)
