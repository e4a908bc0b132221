"""Waiting for what no event tells of, such as another process's doing."""

from __future__ import annotations

import time
from collections.abc import Callable
from time import monotonic

__all__ = ["wait_until"]


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Returns once the condition holds; fails if it does not within the time."""
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, f"waited {seconds:g} seconds in vain"
        time.sleep(0.005)
