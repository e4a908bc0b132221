"""A request to /track as the page and the JSON API show it: what came, and what it got."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from werkzeug.wrappers import Request

from cms_python.sandbox.answers import Answer

_MASK = "\u2022\u2022\u2022\u2022"
_SECRET_HEADERS = {"authorization", "proxy-authorization", "cookie"}
# Of a shorter token, four characters would be too much of it.
_SHOWN_FROM = 8
# No event that keeps to the contract comes near these; they bound what a thousand others take.
_BODY_LIMIT = 64 * 1024
_HEADER_LIMIT = 1024
_DEPTH_LIMIT = 32


@dataclass(frozen=True)
class Entry:
    """One request to /track and its answer; the fields are those of the JSON API."""

    id: int
    received_at: str
    kind: str | None
    event_name: str | None
    customer_external_id: str | None
    customer_name: str | None
    click_id: str | None
    invoice_id: str | None
    amount: int | None
    currency: str | None
    status: int
    type: str | None
    counted: bool
    duplicate: bool
    deferred: bool
    mode: str | None
    replayed: bool
    fault: str | None
    idempotency_key: str | None
    request_id: str
    method: str
    path: str
    request_headers: dict[str, str]
    payload: Any
    body: str
    body_complete: bool
    answer: Any
    answer_headers: dict[str, str]

    def search_text(self) -> str:
        """What a search looks through, in one letter case."""
        email = self.payload.get("customerEmail") if isinstance(self.payload, dict) else None
        texts = (
            self.event_name,
            self.customer_external_id,
            self.customer_name,
            email if isinstance(email, str) else None,
            self.click_id,
            self.invoice_id,
            self.idempotency_key,
            self.request_id,
        )
        return "\n".join(text for text in texts if text).casefold()

    def to_json(self) -> str:
        """The entry as one line of JSON."""
        return json.dumps(vars(self))


def make_entry(
    request: Request, kind: str | None, answer: Answer, headers: dict[str, str], request_id: str
) -> Entry:
    """Describe a request that has its answer; the store gives the entry its id."""
    body = request.get_data()
    payload = _read_payload(body)
    event = payload if isinstance(payload, dict) else {}
    answered = _read_answer(answer)
    shape = answered if isinstance(answered, dict) else {}
    data = shape.get("data") or {}
    mode = _text(event, "mode")
    return Entry(
        id=0,
        received_at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        kind=kind,
        event_name=_text(event, "eventName"),
        customer_external_id=_text(event, "customerExternalId"),
        customer_name=_text(event, "customerName"),
        click_id=_text(data, "clickId") or _text(event, "clickId"),
        invoice_id=_text(event, "invoiceId"),
        amount=_whole_number(event, "amount"),
        currency=_text(event, "currency"),
        status=answer.status,
        type=_text(shape, "type"),
        counted=answer.counted,
        duplicate=answer.duplicate,
        deferred=data.get("deferred") is True and mode != "deferred",
        mode=mode if mode == "deferred" else None,
        replayed=answer.replayed,
        fault=answer.fault,
        idempotency_key=request.headers.get("Idempotency-Key"),
        request_id=request_id,
        method=request.method,
        path=request.path,
        request_headers=_shown_headers(request),
        payload=payload,
        body=body[:_BODY_LIMIT].decode(errors="replace"),
        body_complete=len(body) <= _BODY_LIMIT,
        answer=None if answer.status == 0 else answered,
        answer_headers={} if answer.status == 0 else headers,
    )


def _read_payload(body: bytes) -> Any:
    """The body as JSON, or None where it could not be shown as JSON again."""
    if len(body) > _BODY_LIMIT:
        return None
    try:
        payload = json.loads(body.decode())
        json.dumps(payload, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return payload if _is_shallow(payload, _DEPTH_LIMIT) else None


def _is_shallow(value: Any, levels: int) -> bool:
    children = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list)):
        return True
    return levels > 0 and all(_is_shallow(child, levels - 1) for child in children)


def _read_answer(answer: Answer) -> Any:
    # An answer that was withheld is read too: it tells which click got the credit.
    if answer.media_type != "application/json":
        return answer.body.decode()
    return json.loads(answer.body) if answer.body else None


def _text(of: dict[str, Any], name: str) -> str | None:
    value = of.get(name)
    return value if isinstance(value, str) else None


def _whole_number(of: dict[str, Any], name: str) -> int | None:
    value = of.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shown_headers(request: Request) -> dict[str, str]:
    authorization = request.headers.get("Authorization", "").strip()
    token = authorization.partition(" ")[2].strip() or authorization
    shown = {}
    for name, value in request.headers.items():
        if name.lower() in _SECRET_HEADERS:
            value = _masked(value.strip())
        elif len(token) >= _SHOWN_FROM:
            value = value.replace(token, _MASK)
        shown[name] = value[:_HEADER_LIMIT]
    return shown


def _masked(value: str) -> str:
    scheme, _, secret = value.partition(" ")
    if scheme.lower() not in {"bearer", "basic"}:
        return _MASK
    return f"{scheme} {_MASK}{secret[-4:] if len(secret) >= _SHOWN_FROM else ''}"
