"""The time of threads and processes: waiting for them, and what comes in between."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

__all__ = ["handling", "restless_threads", "wait_until"]


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Returns once the condition holds; fails if it does not within the time."""
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, f"waited {seconds:g} seconds in vain"
        time.sleep(0.005)


@contextmanager
def restless_threads() -> Iterator[None]:
    """Threads take turns after each few lines, so that one comes between any two of another."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


@contextmanager
def handling(number: signal.Signals, handler: Callable[[], object]) -> Iterator[None]:
    """A signal has this handler; no timer is left that would send it."""
    before = signal.signal(number, lambda *_: handler())
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(number, before)
