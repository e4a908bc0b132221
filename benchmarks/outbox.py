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
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common import (
    MEMORY,
    Spread,
    install,
    install_this_package,
    machine,
    new_environment,
    output,
    running_server,
    say,
    spread,
    versions,
)

# By case, what has to be installed.
PEERS = {"posthog": "posthog", "segment": "segment-analytics-python"}
# The queues of the others hold 10,000 events and drop what comes on top.
MOST_CALLS = 5000
WARM_UP = 100


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
    from posthog import Posthog  # pyright: ignore[reportMissingImports], not installed here

    client = Posthog("a-key", host=url)

    def call(number: int) -> None:
        client.capture(
            "purchase_completed", distinct_id=f"user_{number}", properties=properties(number)
        )

    return call


def segment(url: str, folder: Path) -> Call:  # noqa: ARG001, it keeps its queue in memory
    from segment.analytics.client import Client  # pyright: ignore[reportMissingImports], not installed here

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


# The run


def environment(folder: Path) -> str:
    """Makes an environment with this package and the others. Returns its Python."""
    say("Making an environment ...")
    python = new_environment(folder / "environment")
    install_this_package(python, folder / "source")
    for peer in PEERS.values():
        failure = install(python, peer)
        if failure:
            raise SystemExit(f"{peer} could not be installed: {failure}")
    return python


def run(
    pythons: dict[str, str], url: str, rounds: int, calls: int, disk_folder: Path
) -> list[dict[str, Cost]]:
    """Each case once a round, in an order that changes, so that no case has the good minutes."""
    memory = MEMORY if MEMORY.is_dir() else None
    cases = [name for name in pythons if CASES[name].on_disk or memory]
    costs: list[dict[str, Cost]] = []
    for number in range(rounds):
        say(f"Queue, round {number + 1} of {rounds} ...")
        random.shuffle(cases)
        costs.append({})
        for case in cases:
            place = disk_folder if CASES[case].on_disk else memory
            with tempfile.TemporaryDirectory(dir=place) as folder:
                line = [pythons[case], __file__, "--case", case, url, folder, str(calls)]
                costs[-1][case] = Cost(*json.loads(output(line)))
    return costs


def ratio(costs: list[dict[str, Cost]], case: str, reference: str, what: int) -> Spread:
    """How many times as much a case takes as a reference of the same round."""
    return spread(each[case][what] / each[reference][what] for each in costs)


def report(costs: list[dict[str, Cost]], versions: list[str]) -> None:
    print(f"Python {platform.python_version()}; {', '.join(versions)}\n{machine()}")
    print(f"{len(costs)} rounds; the median ratio, and the range of the middle half")
    for reference in REFERENCES:
        print(
            f"\n{'times ' + CASES[reference].name:30} {'as the caller waits':24} CPU of its thread"
        )
        for name, case in CASES.items():
            if name in costs[0] and name != reference:
                wall, cpu = (ratio(costs, name, reference, what) for what in (0, 1))
                print(f"{case.name:30} {wall!s:24} {cpu}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=1000, help=f"a round, at most {MOST_CALLS}")
    parser.add_argument("--disk", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        case, url, folder, calls = options.case
        measure(case, url, folder, int(calls))
    else:
        if options.rounds < 2 or not 0 < options.calls <= MOST_CALLS:
            parser.error(f"it takes at least 2 rounds, and 1 to {MOST_CALLS} calls")
        with tempfile.TemporaryDirectory() as folder, running_server(0) as (url,):
            python = environment(Path(folder))
            place = options.disk or Path(tempfile.gettempdir())
            costs = run(dict.fromkeys(CASES, python), url, options.rounds, options.calls, place)
            report(costs, versions(python, ["cms-python-client", *PEERS.values()]))


if __name__ == "__main__":
    main()
