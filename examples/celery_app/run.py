"""Starts Redis, the sandbox, a Celery worker, and a shop that tracks; ends when all has arrived."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from cms_python.sandbox import Sandbox

HERE = Path(__file__).parent
# Five sign-ups, and three purchases.
EVENTS = 8
SECONDS = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(stack: ExitStack, line: list[str], **env: str) -> "subprocess.Popen[bytes]":
    """Starts a process that ends with this one."""
    quiet = subprocess.DEVNULL if line[0] == "redis-server" else None
    process = subprocess.Popen(line, env={**os.environ, **env}, cwd=HERE, stdout=quiet)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


def start_redis(stack: ExitStack, folder: str) -> str:
    if shutil.which("redis-server") is None:
        sys.exit("Redis is missing: apt install redis-server")
    port = free_port()
    start(stack, ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder,
                  "--appendonly", "yes", "--loglevel", "warning"])  # fmt: skip
    return f"redis://127.0.0.1:{port}/0"


def wait_for(sandbox: Sandbox) -> int:
    """Waits until all events are in the sandbox, and says what arrives."""
    shown, deadline = 0, time.monotonic() + SECONDS
    while shown < EVENTS and time.monotonic() < deadline:
        for event in sandbox.events[shown:]:
            shown += 1
            print(f"{event.kind:5} {event.event_name:20} {event.customer_external_id}", flush=True)
        time.sleep(0.1)
    return shown


def main() -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        sandbox = stack.enter_context(Sandbox())
        print(f"Events arrive at {sandbox.url}", flush=True)
        env = {"BROKER_URL": start_redis(stack, folder), "SHOP_OUTBOX": f"{folder}/events.db"}
        worker = ["worker", "--concurrency", "2", "--loglevel", "WARNING"]
        start(stack, [sys.executable, "-m", "celery", "--quiet", "--app", "celery_shop", *worker],
              CMS_HOST=sandbox.url, CMS_BEARER_TOKEN="any", **env)  # fmt: skip
        shop = start(stack, [sys.executable, "track.py", *sys.argv[1:]], **env)
        arrived = wait_for(sandbox)
        if "--stay" in sys.argv:
            with suppress(KeyboardInterrupt):
                shop.wait()
        print(f"{arrived} of {EVENTS} events arrived")
        sys.exit(0 if arrived == EVENTS else 1)


if __name__ == "__main__":
    main()
