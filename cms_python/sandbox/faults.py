"""Failing on purpose: what happens to the next requests before, or instead of, the rules.

A gateway in front of the API fails without having looked at a request, and so do faults: no token,
body or rule matters to them. ``drop_after`` and ``delay`` let the rules work first, and then lose
or withhold the answer.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cms_python.sandbox.answers import STATUS_BY_KIND, Answer, failure

KINDS = ("status", "delay", "drop_before", "drop_after", "html_502", "silence")
_KIND_BY_STATUS = {
    **{status: kind for kind, status in STATUS_BY_KIND.items() if kind != "idempotency_key_reused"},
    429: "rate_limit_exceeded",
    502: "bad_gateway",
    503: "service_unavailable",
    504: "gateway_timeout",
}
_HTML = (
    b"<html>\n<head><title>502 Bad Gateway</title></head>\n<body>502 Bad Gateway</body>\n</html>\n"
)


@dataclass(frozen=True)
class Fault:
    """One way to fail, for the next ``times`` requests, or by chance, or for good."""

    kind: str
    status: int = 503
    retry_after: str | None = None
    seconds: float = 1.0
    times: int | None = None
    probability: float | None = None

    def __post_init__(self) -> None:
        """Refuse what can't be; the message names the field first."""
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}")
        if not _is_number(self.status, int) or not 400 <= self.status <= 599:
            raise ValueError("status must be a number from 400 to 599")
        if self.retry_after is not None and not _is_header_value(self.retry_after):
            raise ValueError("retry_after must be a text of visible characters")
        if not _is_number(self.seconds, int, float) or not 0 <= self.seconds <= 3600:
            raise ValueError("seconds must be a number from 0 to 3600")
        if self.times is not None and (not _is_number(self.times, int) or self.times < 1):
            raise ValueError("times must be a number from 1 on")
        if self.probability is not None and not (
            _is_number(self.probability, int, float) and 0 <= self.probability <= 1
        ):
            raise ValueError("probability must be a number from 0 to 1")

    @classmethod
    def read(cls, given: Any) -> Fault:
        """Make a fault of its JSON; null is as good as left out."""
        if not isinstance(given, dict) or "kind" not in given:
            raise ValueError("kind is required")
        for name in given:
            if name not in cls.__dataclass_fields__:
                raise ValueError(f"{name} is not a field of a fault")
        return cls(**{name: value for name, value in given.items() if value is not None})

    def state(self) -> dict[str, Any]:
        """The fault as JSON, with null for what does not matter to its kind."""
        of_status, of_delay = self.kind == "status", self.kind == "delay"
        return {
            "kind": self.kind,
            "status": self.status if of_status else None,
            "retry_after": self.retry_after if of_status else None,
            "seconds": self.seconds if of_delay else None,
            "times": self.times,
            "probability": self.probability,
        }

    def answer(self, request_id: str) -> Answer:
        """What the client gets instead of the rules' answer; a status of 0 is nothing."""
        if self.kind == "html_502":
            return Answer(502, _HTML, fault=self.kind, media_type="text/html")
        if self.kind != "status":
            return Answer(0, b"", fault=self.kind)
        general = "bad_request" if self.status < 500 else "internal_server_error"
        kind = _KIND_BY_STATUS.get(self.status, general)
        body = failure(self.status, kind, "The sandbox was told to fail.", request_id)
        headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
        return Answer(self.status, body, fault=self.kind, headers=headers)


class Faults:
    """The faults to come, in order.

    A request meets all delays whose turn it is, one after the other, and of the other faults the
    first.
    """

    def __init__(self, announce: Callable[[dict[str, Any]], None]) -> None:
        self._announce = announce
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._random = random.Random()  # noqa: S311 - chance, not a secret

    def state(self) -> dict[str, Any]:
        """What remains, as JSON."""
        with self._lock:
            return self._state()

    def tell(self, listener: Callable[[dict[str, Any]], None]) -> None:
        """Tell someone what remains, before it can change."""
        with self._lock:
            listener(self._state())

    def _state(self) -> dict[str, Any]:
        return {"faults": [fault.state() for fault in self._faults]}

    def add(self, fault: Fault) -> None:
        """Let one more happen, after those that are there."""
        with self._lock:
            self._faults.append(fault)
            self._announce(self._state())

    def replace(self, faults: Sequence[Fault]) -> None:
        """Let these happen and no others."""
        with self._lock:
            self._faults = list(faults)
            self._announce(self._state())

    def take(self) -> tuple[float, Fault | None]:
        """What the next request meets: the seconds to wait with the answer, and a failure."""
        seconds, failure = 0.0, None
        with self._lock:
            before, self._faults = self._faults, []
            for fault in before:
                is_delay = fault.kind == "delay"
                if (not is_delay and failure is not None) or not self._is_due(fault):
                    self._faults.append(fault)
                    continue
                self._faults += _left_of(fault)
                if is_delay:
                    seconds += fault.seconds
                else:
                    failure = fault
            if before != self._faults:
                self._announce(self._state())
        return seconds, failure

    def _is_due(self, fault: Fault) -> bool:
        return fault.probability is None or self._random.random() < fault.probability


def _left_of(fault: Fault) -> list[Fault]:
    if fault.times is None:
        return [fault]
    return [replace(fault, times=fault.times - 1)] if fault.times > 1 else []


def _is_number(value: Any, *types: type) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _is_header_value(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()
