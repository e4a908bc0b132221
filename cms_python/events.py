"""An event before it leaves: checked, complete, and with a key of its own.

OpenApiException comes from what happens on the way; InvalidEvent from what the caller passed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Optional

from dateutil.parser import isoparse
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cms_python.api.tracking_api import PAYLOADS, EventKind, Payload

__all__ = ["Event", "EventKind", "InvalidEvent"]

# Text is taken as it is, but for these.
_READ = {"currency", "timestamp"}
_PLAIN = {str, int, float, bool}
# The name of an argument by its name on the wire, which is what pydantic's errors have.
_ARGUMENTS = {
    kind: {str(field.alias): name for name, field in model.model_fields.items()}
    for kind, model in PAYLOADS.items()
}
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_DATE = re.compile(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}(?![^Tt ])")
_UNREADABLE = "cannot be read: its class fails at it"
_OWN_SENTENCES = {
    "amount": "must be whole cents as an int, at least 0 (cents: 4999 means 49.99)",
    "currency": "must be a three-letter code such as USD",
    "mode": 'must be "deferred" or left out',
}


class InvalidEvent(ValueError):
    """Arguments that make no event; ``details`` has a sentence for each wrong one.

    Example:
        >>> try:
        ...     Event.create("lead", {"event_name": "signup"})
        ... except InvalidEvent as error:
        ...     print(error.details)
        {'customer_external_id': 'is required'}
    """

    def __init__(self, details: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name} {problem}" for name, problem in details.items()))
        self.details = dict(details)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.details,)


@dataclass(frozen=True)
class Event:
    """One lead or sale, ready to be delivered.

    ``kind`` is ``"lead"`` or ``"sale"``. ``payload`` is the generated model of its body.
    ``idempotency_key`` is the same on each attempt to deliver it. ``created_at`` is when the call
    was made.

    Example:
        >>> Event.create("lead", {"event_name": "signup", "customer_external_id": "user_42"}).kind
        'lead'
    """

    kind: EventKind
    payload: Payload
    idempotency_key: str
    created_at: datetime

    @classmethod
    def create(
        cls, kind: EventKind, fields: Mapping[str, Any], idempotency_key: Optional[str] = None
    ) -> Event:
        """Checks the fields, named as the arguments of ``track_lead`` or ``track_sale``.

        ``kind`` says of which of the two. A field that is None counts as left out, and so does
        ``idempotency_key``: a new one is made. Raises InvalidEvent with all that is wrong.
        """
        if kind not in PAYLOADS:
            raise InvalidEvent({"kind": f"must be {' or '.join(PAYLOADS)}"})
        given: dict[str, Any] = {}
        problems: dict[str, str] = {}
        for name, value in fields.items():
            if type(value) is str and name not in _READ:
                given[name] = value
            elif value is not None:
                try:
                    given[name] = _read(name, value)
                except Exception as problem:  # noqa: BLE001, an argument may be of any class
                    problems[name] = str(problem) if type(problem) is _Problem else _UNREADABLE
        if given.get("mode") == "deferred" and fields.get("click_id") is None:
            problems["click_id"] = "is required in a deferred lead: it is what the lead stores"
        key = None if idempotency_key is None else _plain(idempotency_key)
        if key is not None and not is_idempotency_key(key):
            problems["idempotency_key"] = "must be 1 to 255 visible ASCII characters, no spaces"
        payload = None
        try:
            payload = PAYLOADS[kind](**given)
        except ValidationError as error:
            # What could not be read is not missing.
            problems = {**_problems(kind, error), **problems}
        if payload is None or problems:
            raise InvalidEvent(problems)
        return cls(kind, payload, key or _new_key(), datetime.now(timezone.utc))

    @classmethod
    def restored(cls, kind: str, body: str, key: str, created_at: float) -> Event:
        """The event whose body, the payload's JSON, was kept; ``created_at`` is in epoch seconds.

        ``kind`` and ``key`` are its kind and its idempotency key.
        Raises ValueError where the body does not fit the contract.
        """
        for known, model in PAYLOADS.items():
            if kind == known:
                at = datetime.fromtimestamp(created_at, timezone.utc)
                return cls(known, model.from_json(body), key, at)
        raise ValueError("This version knows no such kind of event")

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Event:
        """The event that ``to_dict()`` was called on, perhaps in another process.

        Raises ValueError, which does not repeat the value, where it cannot have come from there.
        """
        try:
            kind, key, body = value["kind"], value["idempotency_key"], json.dumps(value["payload"])
            if not is_idempotency_key(key):
                raise ValueError("This is no key")
            return cls.restored(kind, body, key, float(value["created_at"]))
        except Exception:  # noqa: BLE001, there is no telling what a queue holds, nor may it show
            sentence = "This is no event: Event.to_dict() makes one that can be read again"
            raise ValueError(sentence) from None

    def to_dict(self) -> dict[str, Any]:
        """The event as a dict that JSON can hold, for queues; ``created_at`` in epoch seconds.

        It holds the customer's data, as the event itself does.

        Example:
            >>> event = Event.create("lead", {"event_name": "a", "customer_external_id": "user_42"})
            >>> Event.from_dict(event.to_dict()) == event
            True
        """
        return {
            "kind": self.kind,
            "payload": json.loads(self.payload.to_json()),
            "idempotency_key": self.idempotency_key,
            "created_at": self.created_at.timestamp(),
        }

    def dated(self) -> Event:
        """The same event with a timestamp: its own, or else when the call was made."""
        if self.payload.timestamp is not None:
            return self
        payload = self.payload.model_copy(update={"timestamp": self.created_at})
        return replace(self, payload=payload)

    def personal_data(self) -> list[str]:
        """The values that no log, repr or failure may show; the contract marks their fields."""
        fields = type(self.payload).model_fields
        values = [getattr(self.payload, name) for name, field in fields.items() if not field.repr]
        return [value.strip() for value in values if value and value.strip()]


def is_idempotency_key(value: object) -> bool:
    """Whether a value can travel as an idempotency key."""
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def _new_key() -> str:
    """A random UUID (version 4), without the module uuid: it takes as long as a model's checks."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


class _Problem(ValueError):
    """What is wrong with one argument, told without its value."""


def _plain(value: Any) -> Any:
    """A text, int or datetime without what a subclass adds; anything else as it is."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, datetime):
        return datetime.combine(datetime.date(value), datetime.timetz(value))
    return int.__index__(value) if issubclass(kind, int) else value


def _read(name: str, value: Any) -> Any:
    """An argument in the form that the contract knows. Raises _Problem."""
    value = _plain(value)
    if name == "timestamp":
        return _moment(value)
    if name == "currency" and type(value) is str and value.isascii():
        return value.upper()
    if type(value) not in {str, int}:
        raise _Problem(_OWN_SENTENCES.get(name) or f"must be text, not {_name(type(value))}")
    return value


def _name(kind: type) -> str:
    """The name of a class, whatever its metaclass makes of it."""
    return str(type.__dict__["__name__"].__get__(kind))


def read_moment(text: str) -> datetime:
    """What an ISO 8601 text says, with its zone if it has one. Raises ValueError."""
    try:
        said = isoparse(text) if _DATE.match(text) else None
    except (ValueError, OverflowError):
        said = None
    if said is None:
        raise _Problem("must be ISO 8601, such as 2026-01-31T09:30:00Z")
    return said


def _moment(value: Any) -> datetime:
    """The moment that a datetime or an ISO 8601 text means; without a zone, in local time."""
    if type(value) is str:
        value = read_moment(value)
    if type(value) is not datetime:
        raise _Problem(f"must be a datetime or ISO 8601 text, not {_name(type(value))}")
    try:
        offset = value.utcoffset()
        if offset is None:
            return value.astimezone()
        # On the wire an offset has no seconds, and a zone of the caller's own is not asked twice.
        whole = offset % timedelta(minutes=1) == timedelta(0)
        return value.replace(tzinfo=timezone(offset)) if whole else value.astimezone(timezone.utc)
    except Exception:  # noqa: BLE001, a tzinfo may be of any class
        problem = "must lie in the years, and in a zone, that this system's clock knows"
    raise _Problem(problem)


def _problems(kind: EventKind, error: ValidationError) -> dict[str, str]:
    """What is wrong by argument. The errors' own texts may quote the input and are not used."""
    names = _ARGUMENTS[kind]
    problems: dict[str, str] = {}
    for each in error.errors(include_url=False):
        name = str(each["loc"][0])
        name = names.get(name, name)
        problems[name] = _problem(name, each)
    return problems


def _problem(name: str, error: ErrorDetails) -> str:
    kind, bounds = error["type"], error.get("ctx", {})
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return "is no field of this kind of event: leave it out"
    if kind == "less_than_equal":
        return f"must be at most {bounds['le']} cents"
    if name in _OWN_SENTENCES:
        return _OWN_SENTENCES[name]
    if kind == "string_too_long":
        return f"must be at most {bounds['max_length']} characters long"
    if kind == "string_unicode":
        return "must be text that UTF-8 can hold, without lone surrogates"
    if kind in {"string_too_short", "string_pattern_mismatch"}:
        return "must not be blank"
    return f"must be text, not {_name(type(error['input']))}"
