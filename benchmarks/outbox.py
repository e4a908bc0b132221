"""What a queued call costs, beside a direct call and beside the in-memory queues of others.

    python benchmarks/outbox.py

makes an environment in a temporary directory, installs this package and the others into it, runs
every case in rounds, and prints how many times as much as another each one takes. README.md beside
this file says how to read that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MEMORY = Path("/dev/shm")
PEERS = ["posthog", "segment-analytics-python"]
# The queues of the others hold 10,000 events and drop what comes on top.
MOST_CALLS = 5000
WARM_UP = 100
# A proxy of this machine has no part in what stays on it.
WITHOUT_PROXY = {
    name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
}
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n"
    b'{"success": true}'
)


class Cost(NamedTuple):
    """Of one call, in seconds: as the caller waits, and what its thread computes."""

    wall: float
    cpu: float


Call = Callable[[int], object]


# The cases. Each runs in a process of its own and gets the server's URL and an empty folder.


def direct(url: str, folder: Path) -> Call:  # noqa: ARG001, a case may need no folder
    from cms_python import CMSClient

    return sale(CMSClient("a-token", url))


def queued(url: str, folder: Path) -> Call:
    from cms_python import CMSClient, Outbox

    return sale(CMSClient("a-token", url, delivery=Outbox(folder / "events.db")))


def written(url: str, folder: Path) -> Call:
    from cms_python import CMSClient, Outbox

    outbox = Outbox(folder / "events.db", send=False)
    return sale(CMSClient(host=url, delivery=outbox))


def sale(client: object) -> Call:
    from cms_python import CMSClient

    assert isinstance(client, CMSClient)

    def call(number: int) -> None:
        result = client.track_sale(
            f"click_{number}", "purchase_completed", f"user_{number}", f"inv_{number}", 4999, "USD"
        )
        assert result["success"], result

    return call


def disk(url: str, folder: Path) -> Call:  # noqa: ARG001, no server is asked
    """What no queue that survives a power cut can do without: append a page, and sync it."""
    file = os.open(folder / "pages", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    page = b"x" * 4096

    def call(number: int) -> None:  # noqa: ARG001, all pages are alike
        os.write(file, page)
        os.fsync(file)

    return call


def properties(number: int) -> dict[str, object]:
    return {
        "click_id": f"click_{number}",
        "invoice_id": f"inv_{number}",
        "amount": 4999,
        "currency": "USD",
    }


def posthog(url: str, folder: Path) -> Call:  # noqa: ARG001, it keeps its queue in memory
    from posthog import Posthog

    client = Posthog("a-key", host=url)

    def call(number: int) -> None:
        client.capture(
            "purchase_completed", distinct_id=f"user_{number}", properties=properties(number)
        )

    return call


def segment(url: str, folder: Path) -> Call:  # noqa: ARG001, it keeps its queue in memory
    from segment.analytics.client import Client

    client = Client("a-key", host=url)

    def call(number: int) -> None:
        client.track(f"user_{number}", "purchase_completed", properties(number))

    return call


class Case(NamedTuple):
    name: str
    prepare: Callable[[str, Path], Call]
    on_disk: bool = True


CASES = {
    "direct": Case("direct call", direct),
    "queued": Case("queued, on disk", queued),
    "written": Case("queued, on disk, send=False", written),
    "queued-in-memory": Case("queued, on tmpfs", queued, on_disk=False),
    "written-in-memory": Case("queued, on tmpfs, send=False", written, on_disk=False),
    "disk": Case("write and fsync alone", disk),
    "posthog": Case("PostHog, in memory", posthog),
    "segment": Case("Segment, in memory", segment),
}
REFERENCES = ["direct", "disk", "posthog", "segment"]


def measure(case: str, url: str, folder: str, calls: int) -> None:
    """Prints the cost of one call."""
    call = CASES[case].prepare(url, Path(folder))
    for number in range(WARM_UP):
        call(number)
    wall, cpu = time.perf_counter(), time.thread_time()
    for number in range(WARM_UP, WARM_UP + calls):
        call(number)
    cost = Cost((time.perf_counter() - wall) / calls, (time.thread_time() - cpu) / calls)
    print(json.dumps(cost), flush=True)
    # What is still queued is not measured.
    os._exit(0)


# The server, in a process of its own: it takes whatever is posted.


def serve() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The cases end without a farewell.
    with connection, connection.makefile("rb") as stream, suppress(ConnectionError):
        length = 0
        for line in stream:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            elif line == b"\r\n":
                stream.read(length)
                connection.sendall(ANSWER)


# The run


def environment(folder: Path) -> str:
    """Makes an environment with this package and the others. Returns its Python."""
    print("Making an environment ...", file=sys.stderr)
    venv.create(folder, with_pip=True)
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--editable", str(ROOT), *PEERS], check=True)
    return python


def run(python: str, rounds: int, calls: int, disk_folder: Path) -> list[dict[str, Cost]]:
    """Each case once a round, in an order that changes, so that no case has the good minutes."""
    memory = MEMORY if MEMORY.is_dir() else None
    cases = [name for name, case in CASES.items() if case.on_disk or memory]
    costs: list[dict[str, Cost]] = []
    with subprocess.Popen(
        [python, __file__, "--serve"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        try:
            for number in range(rounds):
                print(f"Round {number + 1} of {rounds} ...", file=sys.stderr)
                random.shuffle(cases)
                costs.append({})
                for case in cases:
                    place = disk_folder if CASES[case].on_disk else memory
                    with tempfile.TemporaryDirectory(dir=place) as folder:
                        line = [python, __file__, "--case", case, url, folder, str(calls)]
                        ran = subprocess.run(
                            line, stdout=subprocess.PIPE, text=True, check=True, env=WITHOUT_PROXY
                        )
                    costs[-1][case] = Cost(*json.loads(ran.stdout))
        finally:
            server.kill()
    return costs


def ratio(costs: list[dict[str, Cost]], case: str, reference: str, what: int) -> str:
    """The median over the rounds, and the range in which half of them lie."""
    ratios = [each[case][what] / each[reference][what] for each in costs]
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return f"{shown(median(ratios))} ({shown(low)} to {shown(high)})"


def shown(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.0f}"


def report(costs: list[dict[str, Cost]], versions: list[str]) -> None:
    system = f"{platform.system()} on {platform.machine()}, {os.cpu_count()} processors"
    print(f"Python {platform.python_version()}, {system}; {', '.join(versions)}")
    print(f"{len(costs)} rounds; the median ratio, and the range of the middle half")
    for reference in REFERENCES:
        print(
            f"\n{'times ' + CASES[reference].name:30} {'as the caller waits':24} CPU of its thread"
        )
        for name, case in CASES.items():
            if name in costs[0] and name != reference:
                wall, cpu = ratio(costs, name, reference, 0), ratio(costs, name, reference, 1)
                print(f"{case.name:30} {wall:24} {cpu}")


def versions(python: str) -> list[str]:
    code = "import sys, importlib.metadata as m; print(*(n + ' ' + m.version(n) for n in sys.argv[1:]), sep='\\n')"  # noqa: E501
    line = [python, "-c", code, *PEERS]
    return subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=1000, help=f"a round, at most {MOST_CALLS}")
    parser.add_argument("--disk", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
    elif options.case:
        case, url, folder, calls = options.case
        measure(case, url, folder, int(calls))
    else:
        if options.rounds < 2 or not 0 < options.calls <= MOST_CALLS:
            parser.error(f"it takes at least 2 rounds, and 1 to {MOST_CALLS} calls")
        with tempfile.TemporaryDirectory() as folder:
            python = environment(Path(folder))
            place = options.disk or Path(tempfile.gettempdir())
            report(run(python, options.rounds, options.calls, place), versions(python))


if __name__ == "__main__":
    main()
