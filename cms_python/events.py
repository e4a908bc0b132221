"""An event before it leaves: checked, complete, and with a key of its own.

OpenApiException comes from what happens on the way; InvalidEvent from what the caller passed.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal, Optional, Union

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cms_python.models import LeadPayload, SalePayload

__all__ = ["Event", "EventKind", "InvalidEvent"]

EventKind = Literal["lead", "sale"]

_PAYLOADS: dict[EventKind, Union[type[LeadPayload], type[SalePayload]]] = {
    "lead": LeadPayload,
    "sale": SalePayload,
}
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_CENTS = "must be whole cents as an int, at least 0 (cents: 4999 means 49.99)"


class InvalidEvent(ValueError):
    """Arguments that make no event; ``details`` has a sentence for each wrong one."""

    def __init__(self, details: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name} {problem}" for name, problem in details.items()))
        self.details = dict(details)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.details,)


@dataclass(frozen=True)
class Event:
    """One lead or sale, ready to be delivered.

    ``payload`` is the generated model of its body. ``idempotency_key`` is the same on each attempt
    to deliver it. ``created_at`` is when the call was made.

    Example:
        >>> Event.create("lead", {"event_name": "signup", "customer_external_id": "user_42"}).kind
        'lead'
    """

    kind: EventKind
    payload: Union[LeadPayload, SalePayload]
    idempotency_key: str
    created_at: datetime

    @classmethod
    def create(
        cls, kind: EventKind, fields: Mapping[str, Any], idempotency_key: Optional[str] = None
    ) -> Event:
        """Checks the fields, named as the arguments of ``track_lead`` or ``track_sale``.

        None counts as left out. Raises InvalidEvent with all that is wrong.
        """
        given = {name: value for name, value in fields.items() if value is not None}
        problems: dict[str, str] = {}
        if "timestamp" in given:
            try:
                given["timestamp"] = _moment(given["timestamp"])
            except ValueError as problem:
                problems["timestamp"] = str(problem)
                del given["timestamp"]
        currency = given.get("currency")
        if isinstance(currency, str) and currency.isascii():
            given["currency"] = currency.upper()
        if given.get("mode") == "deferred" and "click_id" not in given:
            problems["click_id"] = "is required in a deferred lead: it is what the lead stores"
        if idempotency_key is not None and not is_idempotency_key(idempotency_key):
            problems["idempotency_key"] = "must be 1 to 255 visible ASCII characters, no spaces"
        try:
            payload = _PAYLOADS[kind](**given)
        except ValidationError as error:
            raise InvalidEvent({**_problems(kind, error), **problems}) from None
        if problems:
            raise InvalidEvent(problems)
        return cls(kind, payload, idempotency_key or str(uuid.uuid4()), datetime.now(timezone.utc))

    def personal_data(self) -> list[str]:
        """The values that no log, repr or failure may show; the contract marks their fields."""
        fields = type(self.payload).model_fields
        values = [getattr(self.payload, name) for name, field in fields.items() if not field.repr]
        return [value for value in values if value]


def is_idempotency_key(value: object) -> bool:
    """Whether a value can travel as an idempotency key."""
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def _moment(value: object) -> datetime:
    """The moment that a datetime or an ISO 8601 text means; without a zone, in local time."""
    if isinstance(value, str):
        # Imported late: most calls give no text, and importing takes longer than a call.
        from dateutil.parser import isoparse

        try:
            value = isoparse(value)
        except (ValueError, OverflowError):
            raise ValueError("must be ISO 8601, such as 2026-01-31T09:30:00Z") from None
    if not isinstance(value, datetime):
        raise ValueError(f"must be a datetime or ISO 8601 text, not {type(value).__name__}")
    try:
        return value if value.utcoffset() is not None else value.astimezone()
    except (ValueError, OverflowError, OSError):
        raise ValueError("must lie in the years that this system's clock knows") from None


def _problems(kind: EventKind, error: ValidationError) -> dict[str, str]:
    """What is wrong by argument. The errors' own texts may quote the input and are not used."""
    names = {field.alias: name for name, field in _PAYLOADS[kind].model_fields.items()}
    problems: dict[str, str] = {}
    for each in error.errors():
        name = str(each["loc"][0])
        name = names.get(name) or name
        problems[name] = _problem(name, each)
    return problems


def _problem(name: str, error: ErrorDetails) -> str:
    kind, bounds = error["type"], error.get("ctx", {})
    if kind == "missing":
        return "is required"
    if name == "amount":
        return _CENTS if kind != "less_than_equal" else f"must be at most {bounds['le']} cents"
    if name == "currency":
        return "must be a three-letter code such as USD"
    if name == "mode":
        return 'must be "deferred" or left out'
    if kind == "string_too_long":
        return f"must be at most {bounds['max_length']} characters long"
    if kind == "string_unicode":
        return "must be text that UTF-8 can hold, without lone surrogates"
    if kind in {"string_too_short", "string_pattern_mismatch"}:
        return "must not be blank"
    return f"must be text, not {type(error['input']).__name__}"
