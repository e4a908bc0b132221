"""Runs one `cms-python` after another, each in a process of its own.

Each is forked from this one, which has imported what all of them need: that takes most of a start.
A job comes over the socket whose number is the argument, as four files: its arguments and its
environment, and its standard streams. Its exit code goes back.
"""

from __future__ import annotations

import json
import os
import socket
import sys

import cms_python.cli.app  # noqa: F401, what main() imports late
from cms_python.cli import main


def become(description: int, *streams: int) -> None:
    """Makes of a fork what a start with these arguments and this environment would have made."""
    with os.fdopen(description) as file:
        job = json.load(file)
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
        message, files, _, _ = socket.recv_fds(jobs, 100, 4)
        if not message:
            return False
        child = os.fork()
        if not child:
            become(*files)
            return True
        for file in files:
            os.close(file)
        _, status = os.waitpid(child, 0)
        jobs.send(str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as jobs:
        is_job = serve(jobs)
    if is_job:
        raise SystemExit(main())
