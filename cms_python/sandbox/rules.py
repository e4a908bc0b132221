"""The rules of the API, in the order in which they are checked.

1. The token: any that is not empty, or the one the sandbox was given. Else 401.
2. The body: JSON, and sent as such. Else 400.
3. The schema: openapi.yaml, every field that breaks it at once. Else 422.
4. The idempotency key: the same request again gets the first answer again and records nothing,
   another request under the same key is refused with 422. Only an answer that settled the matter
   is kept (2xx, 409), so an event that was refused can be corrected and sent under its key.
5. The event:
   - A deferred lead stores the customer's click, the first one for good, and is no lead event.
   - A lead without a click id counts for the stored click; without one it is refused with 422.
   - A customer's lead of one name counts once; a repetition is a success marked as duplicate.
   - A sale counts for the stored click, else for the one it names.
   - An invoice counts once; a repetition under another key is a conflict, 409, or gets the first
     answer again, as the sandbox was told. Which of the two the real server does is not known.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NoReturn

from cms_python.sandbox.answers import Answer, Refusal, success
from cms_python.sandbox.store import KeptAnswer, RecordedEvent, Store

if TYPE_CHECKING:
    from cms_python.sandbox.contract import Contract


@dataclass(frozen=True)
class Call:
    """A request to a path of the contract, with what the rules look at."""

    path: str
    kind: str
    body: bytes
    authorization: str
    content_type: str
    idempotency_key: str | None
    request_id: str


class Rules:
    """Answers calls: checks them, and carries out those that pass."""

    def __init__(
        self,
        contract: Contract,
        store: Store,
        token: str | None = None,
        duplicates: str = "conflict",
    ) -> None:
        self._contract = contract
        self._store = store
        self._token = token
        self._duplicates = duplicates

    def answer(self, call: Call) -> Answer:
        """Take a call through the checks, one after the other."""
        try:
            self._check_token(call.authorization)
            payload = _read_json(call.content_type, call.body)
            self._check_schema(call, payload)
            return self._answer_once(call, payload)
        except Refusal as refusal:
            return refusal.answer(call.request_id)

    def _check_token(self, authorization: str) -> None:
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Refusal("unauthorized", "A bearer token is needed in the Authorization header.")
        wanted = self._token
        if wanted and not hmac.compare_digest(token.strip().encode(), wanted.encode()):
            raise Refusal("unauthorized", "The bearer token is not the one of this sandbox.")

    def _check_schema(self, call: Call, payload: Any) -> None:
        key = call.idempotency_key
        headers = {} if key is None else {"Idempotency-Key": key}
        try:
            problems = self._contract.problems(call.path, payload, headers)
        except RecursionError:
            raise Refusal("bad_request", "The body is nested too deeply.") from None
        if problems:
            raise Refusal("unprocessable_entity", "Validation failed.", problems)

    def _answer_once(self, call: Call, payload: dict[str, Any]) -> Answer:
        # One transaction holds the look-up and the work, so a second request with the same key
        # waits here until the first has its answer.
        with self._store.transaction():
            key = call.idempotency_key
            if key is None:
                return self._carry_out(call, payload)
            kept = self._store.kept_answer(key)
            if kept is None:
                answer = self._carry_out(call, payload)
                self._store.keep_answer(key, KeptAnswer(call.path, payload, answer))
                return answer
            if (kept.path, kept.payload) == (call.path, payload):
                return replace(kept.answer, replayed=True, counted=False)
            raise Refusal(
                "idempotency_key_reused",
                "This idempotency key has been used for another request.",
                {"Idempotency-Key": "belongs to another request"},
            )

    def _carry_out(self, call: Call, payload: dict[str, Any]) -> Answer:
        rules = {"lead": self._obey_lead, "sale": self._record_sale}
        return rules[call.kind](call, payload)

    def _obey_lead(self, call: Call, payload: dict[str, Any]) -> Answer:
        if payload.get("mode") == "deferred":
            return self._store_click(call, payload)
        return self._record_lead(call, payload)

    def _store_click(self, call: Call, payload: dict[str, Any]) -> Answer:
        if "clickId" not in payload:
            raise Refusal(
                "unprocessable_entity",
                "A deferred lead needs a click id.",
                {"clickId": "is required in a deferred lead, which stores it for later events"},
            )
        customer = payload["customerExternalId"]
        stored = self._store.click(customer)
        if stored is None:
            self._store.store_click(customer, payload["clickId"])
        data = {
            "id": None,
            "kind": "lead",
            "eventName": payload["eventName"],
            "customerExternalId": customer,
            "clickId": stored or payload["clickId"],
            "duplicate": stored is not None,
            "deferred": True,
        }
        answer = success("The click has been stored for this customer.", data, call.request_id)
        return replace(answer, duplicate=stored is not None)

    def _record_lead(self, call: Call, payload: dict[str, Any]) -> Answer:
        stored = self._store.click(payload["customerExternalId"])
        click_id = payload.get("clickId", stored)
        if click_id is None:
            _refuse_unknown_click()
        name = " ".join(payload["eventName"].casefold().split())
        identity = _identity(call, payload["customerExternalId"], name)
        earlier = self._store.event(identity)
        if earlier is not None:
            data = _describe(replace(earlier, duplicate=True))
            answer = success("This lead had been recorded before.", data, call.request_id)
            return replace(answer, duplicate=True)
        event = _event(call, payload, click_id, deferred="clickId" not in payload)
        return replace(_recorded(self._store.add(event, identity)), counted=True)

    def _record_sale(self, call: Call, payload: dict[str, Any]) -> Answer:
        identity = _identity(call, payload["invoiceId"])
        earlier = self._store.event(identity)
        if earlier is not None:
            return self._answer_known_invoice(call, earlier)
        stored = self._store.click(payload["customerExternalId"])
        event = _event(call, payload, stored or payload["clickId"], deferred=stored is not None)
        return replace(_recorded(self._store.add(event, identity)), counted=True)

    def _answer_known_invoice(self, call: Call, earlier: RecordedEvent) -> Answer:
        if self._duplicates == "replay":
            return replace(_recorded(earlier), replayed=True, duplicate=True)
        # Returned, not raised: this settles the matter, so it is kept like a success.
        refusal = Refusal(
            "conflict",
            "A sale with this invoice id has been recorded before.",
            {"invoiceId": "has been recorded before"},
        )
        return replace(refusal.answer(call.request_id), duplicate=True)


def _read_json(content_type: str, body: bytes) -> Any:
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Refusal(
            "bad_request",
            "The body must be sent as application/json.",
            {"Content-Type": "must be application/json"},
        )
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Refusal("bad_request", "The body is not valid JSON.") from None


def _refuse_constant(name: str) -> NoReturn:
    # Python reads NaN and Infinity, which JSON does not have.
    raise ValueError(name)


def _refuse_unknown_click() -> NoReturn:
    raise Refusal(
        "unprocessable_entity",
        "A click id is needed: no deferred lead has stored one for this customer.",
        {
            "clickId": "is required unless an earlier lead of this customer, sent with a click id "
            "and mode deferred, has stored one"
        },
    )


def _identity(call: Call, *parts: str) -> str:
    """What makes two events of a kind the same one."""
    return json.dumps([call.kind, *parts])


def _event(call: Call, payload: dict[str, Any], click_id: str, deferred: bool) -> RecordedEvent:
    return RecordedEvent(
        id=0,  # the store gives the real one
        kind=call.kind,
        payload=payload,
        click_id=click_id,
        event_name=payload["eventName"],
        customer_external_id=payload["customerExternalId"],
        invoice_id=payload.get("invoiceId"),
        amount=payload.get("amount"),
        currency=payload.get("currency"),
        deferred=deferred,
        duplicate=False,
        idempotency_key=call.idempotency_key,
        received_at=datetime.now(timezone.utc),
        request_id=call.request_id,
    )


def _recorded(event: RecordedEvent) -> Answer:
    # Made of the event alone, so that the same event gives the same bytes.
    return success(f"The {event.kind} has been recorded.", _describe(event), event.request_id)


def _describe(event: RecordedEvent) -> dict[str, Any]:
    data: dict[str, Any] = {
        "id": event.id,
        "kind": event.kind,
        "eventName": event.event_name,
        "customerExternalId": event.customer_external_id,
        "clickId": event.click_id,
        "duplicate": event.duplicate,
        "deferred": event.deferred,
    }
    if event.invoice_id is not None:
        data.update(invoiceId=event.invoice_id, amount=event.amount, currency=event.currency)
    return data
