"""Runs one `cms-python` after another, each in a process of its own.

Each is forked from this one, which has imported what all of them need: that takes most of a start.
A job comes over the socket whose number is the argument, with its standard streams; its exit code
goes back.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

import cms_python.cli.app  # noqa: F401, what main() imports late
from cms_python.cli import main

LARGEST_JOB = 1024 * 1024


def become(job: dict[str, Any], streams: list[int]) -> None:
    """Makes of a fork what a start with these arguments and this environment would have made."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    sys.argv[1:] = job["arguments"]


def serve(jobs: socket.socket) -> bool:
    """Runs each job, until there is none any more. Returns whether this is a job's process."""
    while True:
        text, streams, _, _ = socket.recv_fds(jobs, LARGEST_JOB, 3)
        if not text:
            return False
        child = os.fork()
        if not child:
            become(json.loads(text), streams)
            return True
        for stream in streams:
            os.close(stream)
        _, status = os.waitpid(child, 0)
        jobs.send(str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as jobs:
        is_job = serve(jobs)
    if is_job:
        raise SystemExit(main())
