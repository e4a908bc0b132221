"""Forks for tests: work that a child does, and how it ended."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

import pytest

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
# The server's own threads run beside the fork; the child uses none of what they hold.
threads_beside_fork = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def fork(work: Callable[[], object]) -> int:
    """Runs `work` in a child, which ends with it, or after 30 seconds. Returns the child's id."""
    if not hasattr(os, "fork"):
        pytest.skip("Windows has no fork")
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        # A child that waits for a lock for ever is killed, and that is a failure.
        signal.alarm(30)
        work()
        status = 0
    finally:
        if status:
            traceback.print_exc()
        # Neither pytest's nor the server's ends are the child's to run.
        os._exit(status)


def exit_status(child: int) -> int:
    return os.waitpid(child, 0)[1]
