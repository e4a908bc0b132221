"""How far a long command is: a bar at a terminal, else a line from time to time."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import Any, Optional

import click
from tqdm import tqdm
from typing_extensions import Self

__all__ = ["Progress"]

# Seconds between two looks at what is told.
BAR_EVERY = 0.25


class Progress:
    """Tells on stderr how much of ``total`` is done; ``every`` so many seconds without a terminal.

    Example:
        >>> with Progress("Sending", total=10, unit="events", every=30.0) as progress:
        ...     if progress.is_due():
        ...         progress.show(5, "5 waiting")
    """

    def __init__(self, name: str, total: int, unit: str, every: float) -> None:
        self._name, self._total, self._unit = name, total, unit
        is_terminal = sys.stderr.isatty()
        self._every = BAR_EVERY if is_terminal else every
        self._bar: Optional[tqdm[Any]] = None
        if is_terminal:
            self._bar = tqdm(
                total=total,
                desc=name,
                unit=f" {unit}",
                unit_scale=unit == "B",
                dynamic_ncols=True,
                leave=False,
                mininterval=0,
            )
        self._started = self._told = monotonic()
        self._first: Optional[int] = None

    def is_due(self) -> bool:
        """Whether it is time to show something."""
        return monotonic() - self._told >= self._every

    def show(self, done: int, more: str = "") -> None:
        """Shows that so much is done."""
        self._told = monotonic()
        if self._first is None:
            # What an earlier run has done says nothing about this one's speed.
            self._first, self._started = done, self._told
        if self._bar is not None:
            self._bar.set_postfix_str(more, refresh=False)
            self._bar.update(done - self._bar.n)
        else:
            click.echo(", ".join(filter(None, [self._line(done), more])), err=True)

    def _line(self, done: int) -> str:
        line = f"{self._name}: {done:,} of {self._total:,} {self._unit}"
        seconds = monotonic() - self._started
        rate = (done - (self._first or 0)) / seconds if seconds > 0 else 0.0
        if rate > 0:
            line += f", {rate:,.0f}/s, {_span((self._total - done) / rate)} left"
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
