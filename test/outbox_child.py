"""The processes that test_outbox_processes.py starts: `python outbox_child.py COMMAND ARGUMENT...`.

What they print is for the test to read, a line at a time. An event is a number: its name is the
number, and five in a row belong to one customer.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

from cms_python import CMSClient, Outbox
from cms_python.delivery import outbox, storage

EVENTS_OF_A_CUSTOMER = 5
STATUS = Path("/proc/self/status")


def say(text: object) -> None:
    # One write a line: what arrives is whole although the process may end at any moment.
    os.write(1, f"{text}\n".encode())


def client_of(path: str, url: str, **options: Any) -> CMSClient:
    # Slow machines must not make a request look lost.
    return CMSClient("token", url, timeout=60.0, delivery=Outbox(path, **options))


def queue(client: CMSClient, number: int) -> None:
    customer = f"customer-{number // EVENTS_OF_A_CUSTOMER}"
    result = client.track_lead(str(number), customer, click_id="id_123")
    assert result["success"] is True, result
    assert result["data"]["queued"] is True, result


def queue_until_ended(path: str, url: str, first: str) -> None:
    """Says each number once its call has returned; ends at a line on its input, or is killed."""

    def end_at_a_line() -> None:
        sys.stdin.readline()
        os._exit(3)

    # What a killed process was sending is sent again once its lease is over: here, soon.
    outbox.LEASE_MARGIN = 0.5
    # Each of these processes dies, which is no event's fault.
    storage.MOST_UNANSWERED = 1000
    client = CMSClient("token", url, timeout=0.5, delivery=Outbox(path))
    threading.Thread(target=end_at_a_line, daemon=True).start()
    number = int(first)
    while True:
        queue(client, number)
        say(number)
        number += 1


def queue_in_threads(path: str, url: str, first: str, count: str, threads: str) -> None:
    """Queues `count` events in so many threads, and waits until the file is empty."""
    begin, share = int(first), int(count) // int(threads)
    with client_of(path, url) as client:

        def queue_share(thread: int) -> None:
            for number in range(begin + thread * share, begin + (thread + 1) * share):
                queue(client, number)

        with ThreadPoolExecutor(int(threads)) as pool:
            list(pool.map(queue_share, range(int(threads))))
        say(client.flush(timeout=600))


def queue_and_end(path: str, url: str, count: str, drain_timeout: Optional[str] = None) -> None:
    """A script that queues and just ends: no flush, no close."""
    options = {"drain_timeout": float(drain_timeout)} if drain_timeout else {}
    client = client_of(path, url, **options)
    for number in range(int(count)):
        queue(client, number)
    say("done")


def queue_and_measure(path: str, url: str, count: str) -> None:
    """Says by how many KiB the memory in use grows, and just ends."""
    client = client_of(path, url)
    warm = 200
    for number in range(warm):
        queue(client, number)
    before = resident()
    for number in range(warm, int(count)):
        queue(client, number)
    say(resident() - before)
    say("done")


def resident() -> int:
    """The KiB of memory that this process has in use."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def only_write(path: str, url: str, count: str) -> None:
    """Queues for others to send: it has no token."""
    assert "CMS_BEARER_TOKEN" not in os.environ
    with CMSClient(host=url, delivery=Outbox(path, send=False)) as client:
        for number in range(int(count)):
            queue(client, number)


def send_until_told(path: str, url: str) -> None:
    """Sends what others queue in the file, until a line comes."""
    with client_of(path, url) as client:
        client.flush(timeout=0)
        say("ready")
        sys.stdin.readline()


def drain(path: str, url: str, timeout: str) -> None:
    """Says whether all was delivered in time, and what the file tells then."""
    delivery = Outbox(path)
    with CMSClient("token", url, timeout=60.0, delivery=delivery) as client:
        say(client.flush(timeout=float(timeout)))
        say(json.dumps(asdict(delivery.stats())))


COMMANDS = {
    command.__name__: command
    for command in (
        queue_until_ended,
        queue_in_threads,
        queue_and_end,
        queue_and_measure,
        only_write,
        send_until_told,
        drain,
    )
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
