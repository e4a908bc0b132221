"""How many events a second leave: by outbox threads and by Celery workers, at several round trips.

    python benchmarks/scaling.py

needs the extra `celery` with `redis`, and Debian's `redis-server`. It runs on the interpreter that
it is called with. README.md beside this file says how to read what it prints.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common import CHILD_ENVIRONMENT, MEMORY, machine, running_server, say, spread

from cms_python import CMSClient, Outbox

if TYPE_CHECKING:
    from celery import Celery

ROUND_TRIPS = (0.02, 0.05, 0.2)
THREADS = (1, 4, 16, 64)
PROCESSES = (1, 2, 4)
CELERY_ROUND_TRIP = 0.05
# What has been delivered while the workers start is not counted.
STARTED = 0.1
LEAST = 10


def track(client: CMSClient, count: int) -> None:
    for number in range(count):
        result = client.track_sale(
            "id_123", "purchase_completed", f"user_{number}", f"inv_{number}", 4999, "USD"
        )
        assert result["success"] is True, result


# Threads of an outbox


def sent_by_threads(url: str, threads: int, count: int, folder: Path) -> float:
    """Events a second that the threads of one process send from a full file."""
    with CMSClient(delivery=Outbox(folder / "events.db", send=False)) as writer:
        track(writer, count)
    outbox = Outbox(folder / "events.db", workers=threads)
    with CMSClient("a-token", url, delivery=outbox) as client:
        begin = time.monotonic()
        assert client.flush(timeout=120)
        return count / (time.monotonic() - begin)


def measure_threads(options: argparse.Namespace, place: Path) -> None:
    print("\nEvents a second that one process sends, by threads of its outbox")
    print(f"{'round trip':>12}" + "".join(f"{threads:>10}" for threads in options.threads))
    with running_server(*options.round_trips) as urls:
        for round_trip, url in zip(options.round_trips, urls):
            shown = []
            for threads in options.threads:
                count = max(1, min(int(threads / round_trip * options.seconds), 3000))
                say(f"{threads} threads, {round_trip * 1000:.0f} ms ...")
                rates = []
                for _ in range(options.rounds):
                    with tempfile.TemporaryDirectory(dir=place) as folder:
                        rates.append(sent_by_threads(url, threads, count, Path(folder)))
                shown.append(f"{spread(rates).median:>10.0f}")
            print(f"{round_trip * 1000:>9.0f} ms" + "".join(shown))


# Celery


def application(broker: str) -> Celery:
    from celery import Celery

    app = Celery("scaling", broker=broker)
    app.conf.update(imports=["cms_python.delivery.celery"], worker_hijack_root_logger=False)
    return app


def work(broker: str, processes: str) -> None:
    """A worker, in this process and its children."""
    line = ["worker", "--concurrency", processes, "--loglevel", "ERROR", "--without-gossip",
            "--without-mingle", "--without-heartbeat"]  # fmt: skip
    application(broker).worker_main(line)


@contextmanager
def running_redis(folder: Path) -> Iterator[tuple[str, int]]:
    """A Redis on a free port. Gives its URL and port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with subprocess.Popen(line, cwd=folder, stdout=subprocess.DEVNULL) as process:
        try:
            while not is_listening(port):
                time.sleep(0.01)
            yield f"redis://127.0.0.1:{port}/0", port
        finally:
            process.kill()


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def unfinished(connection: socket.socket) -> int:
    """How many events Redis holds, those that workers have taken included."""
    connection.sendall(b"LLEN celery\r\nHLEN unacked\r\n")
    answer = b""
    while answer.count(b"\n") < 2:
        answer += connection.recv(100)
    return sum(int(line[1:]) for line in answer.split())


def hand_on(broker: str, count: int, folder: Path) -> float:
    """Queues events, and tells how many a second the outbox hands to the broker."""
    from cms_python.delivery.celery import CeleryDelivery

    path = folder / f"{random.random()}.db"
    with CMSClient(delivery=Outbox(path, send=False)) as writer:
        track(writer, count)
    with CMSClient(delivery=CeleryDelivery(application(broker), path)) as client:
        begin = time.monotonic()
        assert client.flush(timeout=120)
        return count / (time.monotonic() - begin)


def delivered_by_workers(broker: str, port: int, url: str, processes: int, count: int) -> float:
    """Events a second that one worker with so many processes delivers, once it has started."""
    env = {**CHILD_ENVIRONMENT, "CMS_HOST": url, "CMS_BEARER_TOKEN": "a-token"}
    line = [sys.executable, __file__, "--work", broker, str(processes)]
    with socket.create_connection(("127.0.0.1", port)) as connection, subprocess.Popen(
        line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as worker:  # fmt: skip
        begin, first = 0.0, 0
        try:
            while True:
                left = unfinished(connection)
                if not begin and left <= count * (1 - STARTED):
                    begin, first = time.monotonic(), left
                if left == 0:
                    return first / (time.monotonic() - begin)
                time.sleep(0.002)
        finally:
            os.killpg(worker.pid, signal.SIGKILL)


def measure_celery(options: argparse.Namespace, place: Path) -> None:
    rates: dict[int, list[float]] = {processes: [] for processes in options.processes}
    handed = []
    with tempfile.TemporaryDirectory(dir=place) as name, running_server(
        CELERY_ROUND_TRIP
    ) as urls, running_redis(Path(name)) as (broker, port):  # fmt: skip
        for number in range(options.rounds):
            for processes in random.sample(options.processes, len(options.processes)):
                say(f"Round {number + 1} of {options.rounds}: {processes} worker processes ...")
                count = max(LEAST, int(processes / CELERY_ROUND_TRIP * options.seconds))
                handed.append(hand_on(broker, count, Path(name)))
                rates[processes].append(
                    delivered_by_workers(broker, port, urls[0], processes, count)
                )
    print(f"\nEvents a second that one process hands to Redis: {spread(handed).median:.0f}")
    print(f"\nDeliveries a second by Celery, at a round trip of {CELERY_ROUND_TRIP * 1000:.0f} ms")
    first = options.processes[0]
    print(f"{'processes':>12}{'a second':>12}   times as many as by {first}")
    for processes, found in rates.items():
        ratios = [many / one for many, one in zip(found, rates[first])]
        print(f"{processes:>12}{spread(found).median:>12.1f}   {spread(ratios)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="a measurement, about")
    parser.add_argument("--round-trips", type=float, nargs="+", default=ROUND_TRIPS, help="seconds")
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS, help="of an outbox")
    parser.add_argument("--processes", type=int, nargs="+", default=PROCESSES, help="of Celery")
    parser.add_argument("--disk", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*options.work)
        return
    if options.rounds < 2 or options.seconds <= 0:
        parser.error("it takes at least 2 rounds, and some time")
    if shutil.which("redis-server") is None:
        parser.error("Redis is missing: apt install redis-server")
    place = options.disk or (MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir()))
    print(f"Python {sys.version.split()[0]}, {machine()}")
    measure_threads(options, place)
    measure_celery(options, place)


if __name__ == "__main__":
    main()
