"""The sandbox keeps the API's promises: told apart rule by rule, over real HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import urllib3
from forking import exit_status, fork, forks, threads_beside_fork
from werkzeug.test import Client

from cms_python import CMSClient
from cms_python.sandbox import RecordedEvent, Sandbox
from cms_python.sandbox.__main__ import main
from cms_python.sandbox.application import Application
from cms_python.sandbox.contract import load_contract
from cms_python.sandbox.faults import Faults
from cms_python.sandbox.memory import Memory
from cms_python.sandbox.rules import Call, Rules
from cms_python.sandbox.stream import Streams

LEAD = {"clickId": "id_123", "eventName": "signup", "customerExternalId": "user_42"}
LEAD_WITHOUT_CLICK = {"eventName": "trial", "customerExternalId": "user_42"}
DEFERRED = {**LEAD, "mode": "deferred"}
SALE = {
    "clickId": "id_123",
    "eventName": "purchase",
    "customerExternalId": "user_42",
    "invoiceId": "inv_987",
    "amount": 4999,
    "currency": "USD",
}
ROOT = Path(__file__).parent.parent


class Reply:
    """A response, read to its end."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.data

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def refusal(self) -> tuple[int, str, Any]:
        """Status, type and details of a refusal, once its whole shape has been checked."""
        body = self.json
        assert ["success", "error", "type", "statusCode", "details", "requestId"] == list(body)
        assert (False, self.status) == (body["success"], body["statusCode"])
        assert self.headers["X-Request-Id"] == body["requestId"]
        return self.status, body["type"], body["details"]


class Sender:
    """Sends raw requests, on connections that stay open."""

    def __init__(self) -> None:
        self.pool = urllib3.PoolManager(maxsize=16, retries=False, timeout=10)

    def send(
        self,
        sandbox: Sandbox,
        path: str,
        event: Any,
        *,
        key: str | None = None,
        method: str = "POST",
        **headers: str,
    ) -> Reply:
        wanted = {"Authorization": "Bearer any", "Content-Type": "application/json"}
        wanted.update({name.replace("_", "-"): value for name, value in headers.items()})
        if key is not None:
            wanted["Idempotency-Key"] = key
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        return Reply(self.pool.request(method, sandbox.url + path, body=body, headers=wanted))

    def lead(self, sandbox: Sandbox, event: Any, key: str | None = None) -> Reply:
        return self.send(sandbox, "/track/lead", event, key=key)

    def sale(self, sandbox: Sandbox, event: Any, key: str | None = None) -> Reply:
        return self.send(sandbox, "/track/sale", event, key=key)


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.reset()
    return running


@pytest.fixture(scope="module")
def sender() -> Iterator[Sender]:
    sender = Sender()
    yield sender
    sender.pool.clear()


# What was recorded


def test_a_lead_is_recorded_as_sent(sandbox: Sandbox, sender: Sender) -> None:
    """A lead can be read back with every field, the wire's payload and the request's id."""
    payload = {**LEAD, "customerName": "Jane", "timestamp": "2026-01-31T09:30:00Z"}
    reply = sender.lead(sandbox, payload, key="key-1")
    event = sandbox.events[0]

    expected = RecordedEvent(
        id=1,
        kind="lead",
        payload=payload,
        click_id="id_123",
        event_name="signup",
        customer_external_id="user_42",
        invoice_id=None,
        amount=None,
        currency=None,
        deferred=False,
        duplicate=False,
        idempotency_key="key-1",
        received_at=event.received_at,
        request_id=reply.headers["X-Request-Id"],
    )
    assert [expected] == sandbox.events
    assert timedelta(0) == event.received_at.utcoffset()
    assert "Jane" not in repr(event)


def test_a_lead_is_answered_with_what_was_recorded(sandbox: Sandbox, sender: Sender) -> None:
    """The answer to a lead has the documented shape, with the recorded event as its data."""
    reply = sender.lead(sandbox, LEAD)

    expected = {
        "success": True,
        "message": "The lead has been recorded.",
        "data": {
            "id": 1,
            "kind": "lead",
            "eventName": "signup",
            "customerExternalId": "user_42",
            "clickId": "id_123",
            "duplicate": False,
            "deferred": False,
        },
        "requestId": reply.headers["X-Request-Id"],
    }
    assert (200, expected) == (reply.status, reply.json)
    assert "application/json" == reply.headers["Content-Type"]


def test_a_sale_is_recorded_and_answered_with_its_money(sandbox: Sandbox, sender: Sender) -> None:
    """A sale keeps invoice, amount and currency, in the record and in the answer."""
    data = sender.sale(sandbox, SALE).json["data"]
    event = sandbox.events[0]

    assert ("inv_987", 4999, "USD") == (data["invoiceId"], data["amount"], data["currency"])
    assert ("inv_987", 4999, "USD") == (event.invoice_id, event.amount, event.currency)
    assert ("sale", "id_123") == (event.kind, event.click_id)


def test_events_are_a_snapshot_in_order_of_arrival(sandbox: Sandbox, sender: Sender) -> None:
    """The list of events is a copy, ordered by rising ids."""
    sender.lead(sandbox, LEAD)
    before = sandbox.events
    sender.sale(sandbox, SALE)

    assert ["signup"] == [event.event_name for event in before]
    assert [(1, "signup"), (2, "purchase")] == [(e.id, e.event_name) for e in sandbox.events]


def test_reset_forgets_everything(sandbox: Sandbox, sender: Sender) -> None:
    """After a reset neither events, clicks, invoices nor idempotency keys are known."""
    sender.lead(sandbox, DEFERRED)
    sender.sale(sandbox, SALE, key="key-1")
    sandbox.reset()

    assert ([], {}) == (sandbox.events, sandbox.deferred_clicks)
    reply = sender.sale(sandbox, SALE, key="key-1")
    assert (200, None) == (reply.status, reply.headers.get("Idempotent-Replayed"))
    assert [1] == [event.id for event in sandbox.events]


# Rule 1: the token


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic any", "any"])
def test_a_request_without_a_token_is_unauthorized(
    sandbox: Sandbox, sender: Sender, value: str
) -> None:
    """Without a bearer token the answer is 401, even if the body is wrong as well."""
    reply = sender.send(sandbox, "/track/lead", b"{", Authorization=value)

    assert (401, "unauthorized", None) == reply.refusal
    assert "Bearer" == reply.headers["WWW-Authenticate"]


@pytest.mark.parametrize("value", ["Bearer x", "bearer a.b.c", "Bearer \xe9"])
def test_any_token_passes(sandbox: Sandbox, sender: Sender, value: str) -> None:
    """Any token that is not empty is good enough for a sandbox without one of its own."""
    assert 200 == sender.send(sandbox, "/track/lead", LEAD, Authorization=value).status


@pytest.mark.parametrize(("token", "status"), [("right", 200), ("wrong", 401), ("\xe9", 401)])
def test_a_sandbox_with_a_token_takes_no_other(sender: Sender, token: str, status: int) -> None:
    """``Sandbox(token=...)`` refuses every other token."""
    with Sandbox(token="right") as sandbox:
        reply = sender.send(sandbox, "/track/lead", LEAD, Authorization=f"Bearer {token}")
        assert status == reply.status


# Rule 2: the body


@pytest.mark.parametrize("value", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_media_type_is_a_bad_request(sandbox: Sandbox, sender: Sender, value: str) -> None:
    """A body that is not sent as JSON is refused with 400."""
    reply = sender.send(sandbox, "/track/lead", LEAD, Content_Type=value)
    assert (400, "bad_request", {"Content-Type": "must be application/json"}) == reply.refusal


def test_a_media_type_may_name_its_charset(sandbox: Sandbox, sender: Sender) -> None:
    """``application/json; charset=utf-8`` is JSON."""
    reply = sender.send(
        sandbox, "/track/lead", LEAD, Content_Type="Application/JSON; charset=utf-8"
    )
    assert 200 == reply.status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"nope",
        b'{"amount": NaN}',
        b'{"a":' + b"[" * 200_000,
        b"1" * 5000 + b"x",
    ],
    ids=["empty", "cut", "no-utf-8", "no-json", "nan", "nested", "long"],
)
def test_a_body_that_is_no_json_is_a_bad_request(
    sandbox: Sandbox, sender: Sender, body: bytes
) -> None:
    """What can't be read as JSON is refused with 400."""
    assert (400, "bad_request", None) == sender.sale(sandbox, body).refusal


@pytest.mark.parametrize("depth", [300, 600, 900])
def test_a_deeply_nested_body_is_refused(sandbox: Sandbox, sender: Sender, depth: int) -> None:
    """Nesting without end is the sender's mistake, not a failure of the sandbox."""
    body = b'{"clickId":' + b"[" * depth + b"]" * depth + b"}"
    assert sender.lead(sandbox, body).status in (400, 422)


# Rule 3: the schema


def test_all_mistakes_are_named_at_once(sandbox: Sandbox, sender: Sender) -> None:
    """A refused event is answered with every wrong field and why."""
    event = {"clickId": "", "customerExternalId": 42, "mode": "later", "color": "red"}

    expected = {
        "clickId": "must have a length of at least 1; must not be blank",
        "customerExternalId": "must be of type string",
        "mode": "must be one of deferred",
        "color": "is not a field of this event",
        "eventName": "is required",
    }
    assert (422, "unprocessable_entity", expected) == sender.lead(sandbox, event).refusal
    assert [] == sandbox.events


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("amount", -1, "must be at least 0"),
        ("amount", 2**53, "must be at most 9007199254740991"),
        ("amount", True, "must be of type integer"),
        ("amount", "4999", "must be of type integer"),
        ("amount", 49.99, "must be of type integer"),
        ("amount", None, "must be of type integer"),
        ("currency", "usd", "must match ^[A-Z]{3}$"),
        ("currency", "USD\n", "must match ^[A-Z]{3}$"),
        ("clickId", "x" * 256, "must have a length of at most 255"),
        ("invoiceId", "  ", "must not be blank"),
        ("customerName", None, "must be of type string"),
        ("mode", "deferred", "is not a field of this event"),
    ],
)
def test_a_field_that_breaks_the_contract_is_refused(
    sandbox: Sandbox, sender: Sender, field: str, value: Any, message: str
) -> None:
    """Each bound of the contract is kept, and a message never shows the value."""
    reply = sender.sale(sandbox, {**SALE, field: value})
    assert (422, "unprocessable_entity", {field: message}) == reply.refusal


@pytest.mark.parametrize(
    "value",
    ["2026-01-31T09:30:00Z", "2026-01-31T09:30:00+05:30", "2026-01-31T09:30:00.123456-08:00"],
)
def test_a_timestamp_with_a_zone_passes(sandbox: Sandbox, sender: Sender, value: str) -> None:
    """ISO 8601 with a zone is taken."""
    assert 200 == sender.lead(sandbox, {**LEAD, "timestamp": value}).status


@pytest.mark.parametrize(
    "value", ["2026-01-31T09:30:00", "2026-01-31", "2026-02-31T09:30:00Z", "yesterday", ""]
)
def test_a_timestamp_without_a_zone_is_refused(
    sandbox: Sandbox, sender: Sender, value: str
) -> None:
    """A timestamp that is no date, or leaves its zone open, is refused."""
    expected = {"timestamp": "must be a date-time with a zone, such as 2026-01-31T09:30:00Z"}
    reply = sender.lead(sandbox, {**LEAD, "timestamp": value})
    assert (422, "unprocessable_entity", expected) == reply.refusal


@pytest.mark.parametrize("event", [[], "text", 5, None])
def test_a_body_that_is_no_object_is_refused(sandbox: Sandbox, sender: Sender, event: Any) -> None:
    """JSON other than an object is no event."""
    expected = (422, "unprocessable_entity", {"body": "must be of type object"})
    assert expected == sender.lead(sandbox, event).refusal


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("two words", r"must match ^[\x21-\x7e]+$"),
        ("x" * 256, "must have a length of at most 255"),
        ("", r"must have a length of at least 1; must match ^[\x21-\x7e]+$"),
    ],
)
def test_an_idempotency_key_keeps_to_the_contract(
    sandbox: Sandbox, sender: Sender, key: str, message: str
) -> None:
    """The header is checked like a field, under its own name."""
    expected = (422, "unprocessable_entity", {"Idempotency-Key": message})
    assert expected == sender.lead(sandbox, LEAD, key=key).refusal


def test_no_message_shows_a_value(sandbox: Sandbox, sender: Sender) -> None:
    """A refusal never repeats what was sent: it may be someone's name."""
    event = {**LEAD, "customerEmail": ["jane@example.com"], "mode": "jane", "timestamp": "jane"}
    assert b"jane" not in sender.lead(sandbox, event).body


# Rule 4: the idempotency key


@pytest.mark.parametrize(("path", "event"), [("/track/lead", LEAD), ("/track/sale", SALE)])
def test_a_repeated_request_gets_the_first_answer_again(
    sandbox: Sandbox, sender: Sender, path: str, event: dict[str, Any]
) -> None:
    """The same key and event: the same status and bytes, marked as replay, and one record."""
    first = sender.send(sandbox, path, event, key="key-1")
    # The order of the fields is not part of an event.
    again = sender.send(sandbox, path, dict(reversed(list(event.items()))), key="key-1")

    assert (first.status, first.body) == (again.status, again.body)
    assert (None, "true") == (
        first.headers.get("Idempotent-Replayed"),
        again.headers.get("Idempotent-Replayed"),
    )
    assert 1 == len(sandbox.events)


@pytest.mark.parametrize(
    ("path", "event"),
    [("/track/lead", {**LEAD, "eventName": "other"}), ("/track/sale", SALE)],
    ids=["another-body", "another-path"],
)
def test_a_key_belongs_to_one_request(
    sandbox: Sandbox, sender: Sender, path: str, event: dict[str, Any]
) -> None:
    """A key that comes back with another request is refused, and nothing is recorded."""
    sender.lead(sandbox, LEAD, key="key-1")
    reply = sender.send(sandbox, path, event, key="key-1")

    details = {"Idempotency-Key": "belongs to another request"}
    assert (422, "idempotency_key_reused", details) == reply.refusal
    assert 1 == len(sandbox.events)


@pytest.mark.parametrize("wrong", [{**LEAD, "eventName": ""}, {**LEAD_WITHOUT_CLICK}])
def test_a_corrected_event_may_keep_its_key(
    sandbox: Sandbox, sender: Sender, wrong: dict[str, Any]
) -> None:
    """A refused event leaves its key free for the corrected one."""
    assert 422 == sender.lead(sandbox, wrong, key="key-1").status
    assert 200 == sender.lead(sandbox, LEAD, key="key-1").status


def test_a_conflict_is_replayed_too(sandbox: Sandbox, sender: Sender) -> None:
    """A conflict settles the matter, so its key gets it again byte for byte."""
    sender.sale(sandbox, SALE)
    first = sender.sale(sandbox, SALE, key="key-2")
    again = sender.sale(sandbox, SALE, key="key-2")

    assert (409, first.body) == (again.status, again.body)
    assert "true" == again.headers["Idempotent-Replayed"]


class SlowStore(Memory):
    """Takes as long to store an event as a test needs."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.proceed = threading.Event()

    def add(self, event: RecordedEvent, identity: str) -> RecordedEvent:
        self.entered.set()
        assert self.proceed.wait(10)
        return super().add(event, identity)


def test_a_repetition_waits_for_the_first_answer() -> None:
    """A second request with the key of one in work waits, then gets the same answer."""
    store = SlowStore()
    rules = Rules(load_contract(), store)

    def call(request_id: str) -> Call:
        body = json.dumps(SALE).encode()
        return Call(
            "/track/sale", "sale", body, "Bearer any", "application/json", "key-1", request_id
        )

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(rules.answer, call("req_1"))
        assert store.entered.wait(10)
        second = threads.submit(rules.answer, call("req_2"))
        assert {first, second} == wait([first, second], timeout=0.1).not_done
        store.proceed.set()

    assert first.result().body == second.result().body
    assert (False, True) == (first.result().replayed, second.result().replayed)
    assert ["req_1"] == [event.request_id for event in store.events()]


# Rule 5: the event


def test_a_deferred_lead_stores_the_click_and_is_no_event(sandbox: Sandbox, sender: Sender) -> None:
    """A deferred lead shows among the deferred clicks and not among the events."""
    data = sender.lead(sandbox, DEFERRED).json["data"]

    assert ([], {"user_42": "id_123"}) == (sandbox.events, sandbox.deferred_clicks)
    assert (None, "id_123", True) == (data["id"], data["clickId"], data["deferred"])


def test_the_first_click_of_a_customer_stays(sandbox: Sandbox, sender: Sender) -> None:
    """A later deferred lead does not take the customer away from the first click."""
    sender.lead(sandbox, DEFERRED)
    data = sender.lead(sandbox, {**DEFERRED, "clickId": "id_later"}).json["data"]

    assert {"user_42": "id_123"} == sandbox.deferred_clicks
    assert ("id_123", True) == (data["clickId"], data["duplicate"])


def test_a_deferred_lead_needs_a_click(sandbox: Sandbox, sender: Sender) -> None:
    """Without a click id there is nothing for a deferred lead to store."""
    reply = sender.lead(sandbox, {**LEAD_WITHOUT_CLICK, "mode": "deferred"})

    assert (422, "unprocessable_entity", ["clickId"]) == (*reply.refusal[:2], [*reply.refusal[2]])
    assert {} == sandbox.deferred_clicks


def test_a_lead_without_click_counts_for_the_stored_one(sandbox: Sandbox, sender: Sender) -> None:
    """After a deferred lead the customer's leads need no click id."""
    sender.lead(sandbox, DEFERRED)
    data = sender.lead(sandbox, LEAD_WITHOUT_CLICK).json["data"]

    assert [("trial", "id_123", True)] == [
        (event.event_name, event.click_id, event.deferred) for event in sandbox.events
    ]
    assert ("id_123", True) == (data["clickId"], data["deferred"])


def test_a_lead_of_an_unknown_customer_needs_a_click(sandbox: Sandbox, sender: Sender) -> None:
    """The refusal names the missing field and explains the deferred flow."""
    status, kind, details = sender.lead(sandbox, LEAD_WITHOUT_CLICK).refusal

    assert (422, "unprocessable_entity", ["clickId"]) == (status, kind, list(details))
    assert "deferred" in details["clickId"]


def test_a_deferred_lead_does_not_use_up_the_lead(sandbox: Sandbox, sender: Sender) -> None:
    """The real lead may have the same name as the deferred one; it counts."""
    sender.lead(sandbox, DEFERRED)
    assert sender.lead(sandbox, LEAD).json["data"]["duplicate"] is False
    assert 1 == len(sandbox.events)


def test_a_sale_counts_for_the_stored_click(sandbox: Sandbox, sender: Sender) -> None:
    """A customer known by a deferred lead stays with that click, whatever the sale names."""
    sender.lead(sandbox, DEFERRED)
    data = sender.sale(sandbox, {**SALE, "clickId": "id_other"}).json["data"]

    assert ("id_123", True) == (data["clickId"], data["deferred"])
    assert "id_123" == sandbox.events[0].click_id


@pytest.mark.parametrize("name", ["signup form", "Signup Form", "  signup   FORM\t"])
def test_a_repeated_lead_counts_once(sandbox: Sandbox, sender: Sender, name: str) -> None:
    """Same customer and name, however written: a success that is marked and not counted."""
    sender.lead(sandbox, {**LEAD, "eventName": "signup form"})
    reply = sender.lead(sandbox, {**LEAD, "eventName": name, "clickId": "id_other"})
    data = reply.json["data"]

    assert (200, True, 1) == (reply.status, data["duplicate"], data["id"])
    assert 1 == len(sandbox.events)


@pytest.mark.parametrize("change", [{"customerExternalId": "user_43"}, {"eventName": "signup2"}])
def test_another_customer_or_name_is_another_lead(
    sandbox: Sandbox, sender: Sender, change: dict[str, str]
) -> None:
    """Only customer and name together make a repetition."""
    sender.lead(sandbox, LEAD)
    assert sender.lead(sandbox, {**LEAD, **change}).json["data"]["duplicate"] is False


@pytest.mark.parametrize(("first", "second"), [(None, None), ("key-1", "key-2"), ("key-1", None)])
def test_an_invoice_counts_once(
    sandbox: Sandbox, sender: Sender, first: str | None, second: str | None
) -> None:
    """The same invoice in another request is a conflict: a charge can't happen twice."""
    sender.sale(sandbox, SALE, key=first)
    reply = sender.sale(sandbox, {**SALE, "eventName": "renewal"}, key=second)

    assert (409, "conflict", {"invoiceId": "has been recorded before"}) == reply.refusal
    assert 1 == len(sandbox.events)


# HTTP


@pytest.mark.parametrize("path", ["/track", "/track/lead/", "/track/refund", "/index.html"])
def test_an_unknown_address_is_not_found(sandbox: Sandbox, sender: Sender, path: str) -> None:
    """Any other path is answered with 404, also without a token."""
    reply = sender.send(sandbox, path, LEAD, Authorization="")
    assert (404, "not_found", None) == reply.refusal


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_another_method_is_not_allowed(sandbox: Sandbox, sender: Sender, method: str) -> None:
    """Any other method is answered with 405 and the one that is allowed."""
    reply = sender.send(sandbox, "/track/lead", LEAD, method=method)
    assert (405, "method_not_allowed", None) == reply.refusal
    assert "POST" == reply.headers["Allow"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_one_mebibyte_is_too_large(
    sandbox: Sandbox, sender: Sender, chunked: bool
) -> None:
    """The sender of a body that is too large sees the answer, not a broken connection."""
    body = b" " * (1024 * 1024 + 1)
    response = sender.pool.request(
        "POST",
        sandbox.url + "/track/lead",
        body=iter([body[:700_000], body[700_000:]]) if chunked else body,
        headers={"Authorization": "Bearer any", "Content-Type": "application/json"},
    )
    assert (413, "payload_too_large", None) == Reply(response).refusal


def test_a_chunked_body_is_read(sandbox: Sandbox, sender: Sender) -> None:
    """A body may come in chunks of unknown number."""
    body = json.dumps(LEAD).encode()
    response = sender.pool.request(
        "POST",
        sandbox.url + "/track/lead",
        body=iter([body[:10], body[10:]]),
        headers={"Authorization": "Bearer any", "Content-Type": "application/json"},
    )
    assert 200 == response.status


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Host", "evil.example"),
        ("Host", "evil.example:80"),
        ("Host", "127.0.0.1.evil.example"),
        ("Host", "[::1"),
        ("Host", ""),
        ("Origin", "http://evil.example"),
        ("Origin", "https://localhost.evil.example"),
        ("Origin", "null"),
        ("Origin", ""),
    ],
)
def test_a_foreign_host_or_origin_is_forbidden(
    sandbox: Sandbox, sender: Sender, header: str, value: str
) -> None:
    """A web page elsewhere can't talk to the sandbox through the developer's browser."""
    reply = sender.send(sandbox, "/track/lead", LEAD, **{header: value})
    assert (403, "forbidden", None) == reply.refusal
    assert [] == sandbox.events


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:1234"},
        {"Host": "LOCALHOST"},
        {"Host": "[::1]:80"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://localhost:3000"},
    ],
)
def test_names_of_this_machine_are_welcome(
    sandbox: Sandbox, sender: Sender, headers: dict[str, str]
) -> None:
    """The usual names of the local machine pass, on any port."""
    assert 200 == sender.send(sandbox, "/track/lead", LEAD, **headers).status


def test_the_host_it_listens_on_is_welcome(sender: Sender) -> None:
    """The address that the sandbox was told to listen on is one of its names."""
    with Sandbox(host="127.0.0.2") as sandbox:
        assert sandbox.url.startswith("http://127.0.0.2:")
        assert 200 == sender.lead(sandbox, LEAD).status


def _connect(sandbox: Sandbox) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(urlsplit(sandbox.url).netloc, timeout=10)
    connection.connect()
    return connection


def test_a_connection_stays_open(sandbox: Sandbox) -> None:
    """One connection carries request after request, the refused ones too."""
    connection = _connect(sandbox)
    socket_at_first = connection.sock
    statuses = []
    for path, token in [("/track/lead", "any"), ("/nowhere", "any"), ("/track/lead", "")] * 2:
        connection.request(
            "POST",
            path,
            json.dumps(LEAD),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        response = connection.getresponse()
        statuses.append(response.status)
        assert len(response.read()) == int(response.headers["Content-Length"])
    kept = connection.sock is socket_at_first
    connection.close()

    assert [200, 404, 401] * 2 == statuses
    assert kept


@pytest.mark.parametrize(
    "head",
    ["Content-Length: x", "Content-Length: -1", "Transfer-Encoding: gzip"],
)
def test_a_body_without_a_certain_end_closes_the_connection(sandbox: Sandbox, head: str) -> None:
    """The rest of an unclear body is never taken for another request."""
    host, port = urlsplit(sandbox.url).netloc.split(":")
    request = f"POST /track/lead HTTP/1.1\r\nHost: {host}\r\n{head}\r\n\r\nGET / HTTP/1.1\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request.encode())
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert 1 == received.count(b"HTTP/1.1 ")
    assert b"Connection: close" in received


def test_what_is_no_http_is_refused_in_json(sandbox: Sandbox) -> None:
    """Even a request that can't be parsed is answered in the shape of an error."""
    host, port = urlsplit(sandbox.url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"what is this\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    body = json.loads(received[received.index(b"{") :])
    assert (False, "bad_request", 400) == (body["success"], body["type"], body["statusCode"])


def test_the_sandbox_keeps_quiet(
    sandbox: Sandbox, sender: Sender, capfd: pytest.CaptureFixture[str]
) -> None:
    """Requests leave no trace on the terminal."""
    sender.lead(sandbox, LEAD)
    sender.lead(sandbox, b"{")
    assert ("", "") == tuple(capfd.readouterr())


class BrokenStore(Memory):
    """Fails, as the sandbox itself never should."""

    def add(self, event: RecordedEvent, identity: str) -> RecordedEvent:  # noqa: ARG002 - it is given
        raise ZeroDivisionError


def test_a_failure_of_the_sandbox_is_answered_too(caplog: pytest.LogCaptureFixture) -> None:
    """Even a bug in the sandbox is a 500 in the shape of an error, and tells itself in the log."""
    store = BrokenStore()
    contract = load_contract()
    rules = Rules(contract, store)
    faults = Faults(lambda _: None)
    client = Client(Application(rules, contract.kinds, store, faults, Streams(), "127.0.0.1"))
    response = client.post("/track/lead", json=LEAD, headers={"Authorization": "Bearer any"})

    body = response.get_json()
    assert (500, 500) == (response.status_code, body["statusCode"])
    assert (False, "internal_server_error") == (body["success"], body["type"])
    assert ["The sandbox failed; this is a bug in the sandbox."] == caplog.messages


# Many at once


def test_many_threads_lose_nothing(sandbox: Sandbox, sender: Sender) -> None:
    """Sixteen threads send different leads: all are recorded, each under an id of its own."""
    events = [{**LEAD, "customerExternalId": f"user_{number}"} for number in range(160)]
    with ThreadPoolExecutor(16) as threads:
        replies = list(threads.map(lambda event: sender.lead(sandbox, event), events))

    assert {200} == {reply.status for reply in replies}
    assert set(range(1, 161)) == {reply.json["data"]["id"] for reply in replies}
    assert list(range(1, 161)) == [event.id for event in sandbox.events]
    assert {f"user_{n}" for n in range(160)} == {e.customer_external_id for e in sandbox.events}


def test_many_threads_with_one_key_record_once(sandbox: Sandbox, sender: Sender) -> None:
    """Sixteen attempts at one sale at the same time: one record, and one answer for all."""
    with ThreadPoolExecutor(16) as threads:
        replies = list(threads.map(lambda _: sender.sale(sandbox, SALE, key="key-1"), range(16)))

    assert {(200, replies[0].body)} == {(reply.status, reply.body) for reply in replies}
    assert 15 == sum("Idempotent-Replayed" in reply.headers for reply in replies)
    assert 1 == len(sandbox.events)


def test_many_threads_with_one_invoice_record_once(sandbox: Sandbox, sender: Sender) -> None:
    """Sixteen different requests for one invoice: one success, fifteen conflicts."""
    with ThreadPoolExecutor(16) as threads:
        replies = list(threads.map(lambda n: sender.sale(sandbox, SALE, key=f"k{n}"), range(16)))
    assert [200] + [409] * 15 == sorted(reply.status for reply in replies)


# Starting and stopping


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("cms-sandbox")]


def test_nothing_is_opened_before_start() -> None:
    """A sandbox that was not started has no address, and says what to do about it."""
    before = _threads()
    sandbox = Sandbox()

    with pytest.raises(RuntimeError, match=r"Call start\(\) first"):
        _ = sandbox.url
    assert "Sandbox(url=None)" == repr(sandbox)
    assert before == _threads()


def test_start_and_stop_may_be_repeated(sender: Sender) -> None:
    """Starting twice is one sandbox; after a stop, however often, it can start again."""
    sandbox = Sandbox()
    sandbox.stop()
    sandbox.start()
    url = sandbox.url
    sandbox.start()
    assert (url, f"Sandbox(url={url!r})") == (sandbox.url, repr(sandbox))
    sender.lead(sandbox, LEAD)
    sandbox.stop()
    sandbox.stop()
    assert 1 == len(sandbox.events)
    sandbox.start()
    assert sender.lead(sandbox, LEAD).json["data"]["duplicate"] is True
    sandbox.stop()


def test_stop_ends_open_connections_and_threads() -> None:
    """Stopping closes idle connections at once and leaves neither thread nor socket."""
    before = _threads()
    sandbox = Sandbox()
    sandbox.start()
    address = urlsplit(sandbox.url)
    connections = [_connect(sandbox) for _ in range(4)]
    for connection in connections[1:]:
        connection.request("GET", "/")
        connection.getresponse().read()
    began = time.monotonic()
    sandbox.stop()

    assert time.monotonic() - began < 10
    assert before == _threads()
    assert [b""] * 4 == [connection.sock.recv(1) for connection in connections]
    for connection in connections:
        connection.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname or "", address.port or 0))


def test_stop_does_not_wait_for_a_body_that_never_comes() -> None:
    """A client that stalls in the middle of a request can't hold the sandbox."""
    with Sandbox() as sandbox:
        connection = _connect(sandbox)
        connection.putrequest("POST", "/track/lead")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        began = time.monotonic()
    assert time.monotonic() - began < 10
    connection.close()


@forks
@threads_beside_fork
@pytest.mark.parametrize("stored", ["memory", "file"])
def test_a_child_that_leaves_the_sandbox_leaves_it_to_its_parent(
    stored: str, tmp_path: Path
) -> None:
    """A fork's child sends to it until it leaves, which ends nothing; the parent's goes on."""
    sandbox = Sandbox(db=tmp_path / "db" if stored == "file" else None)

    def lead(client: CMSClient, name: str) -> None:
        assert client.track_lead(name, "user_42", "id_123")["success"] is True

    def send_and_leave() -> None:
        with sandbox:
            lead(client, "child")
        # The address is the parent's still.
        lead(client, "child afterwards")

    with sandbox, CMSClient("any-token", sandbox.url, max_retries=0) as client:
        lead(client, "parent before")
        assert 0 == exit_status(fork(send_and_leave))
        # Over the connection that was open at the fork, and over another.
        lead(client, "parent")
        with CMSClient("any-token", sandbox.url, max_retries=0) as another:
            lead(another, "parent anew")
    names = [event.event_name for event in sandbox.events]
    assert ["parent before", "child", "child afterwards", "parent", "parent anew"] == names


def test_a_port_in_use_is_told() -> None:
    """The error names the address and the way out."""
    with Sandbox() as first:
        port = urlsplit(first.url).port or 0
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1, port {port}"):
            Sandbox(port).start()


# Command line


def _run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cms_python.sandbox", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a shell ignores Ctrl-C, and so would its children.
        preexec_fn=None
        if sys.platform == "win32"
        else lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_told_to_stop(sender: Sender, way: signal.Signals) -> None:
    """The first line is the address alone; both ways to stop end it cleanly."""
    with _run("--token", "right") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().rstrip("\n")
        statuses = [
            sender.pool.request("POST", f"{url}/track/lead", json=LEAD, headers=headers).status
            for headers in ({"Authorization": "Bearer right"}, {"Authorization": "Bearer wrong"})
        ]
        process.send_signal(way)
        process.wait(timeout=10)
        rest, errors = process.stdout.read(), process.stderr.read()

    assert [200, 401] == statuses
    assert (0, "") == (process.returncode, errors)
    assert "CMS_HOST=" + url in rest
    assert "CMS_BEARER_TOKEN" in rest


def test_the_command_tells_when_its_port_is_in_use(sandbox: Sandbox) -> None:
    """One line and no traceback."""
    with _run("--port", str(urlsplit(sandbox.url).port)) as process:
        output, errors = process.communicate(timeout=10)
    assert (1, "", 1) == (process.returncode, output, len(errors.splitlines()))


@pytest.mark.parametrize("port", ["-1", "65536", "web"])
def test_the_command_refuses_a_port_that_is_none(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A port is a number from 0 to 65535."""
    monkeypatch.setattr(sys, "argv", ["sandbox", f"--port={port}"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "must be a number from 0 to 65535" in capsys.readouterr().err


HINT = 'The sandbox needs an extra that is not installed: pip install "cms-python-client[sandbox]"'


def _without(module: str, folder: Path) -> str:
    """A PYTHONPATH that makes Python behave as if a module were not installed."""
    (folder / "sitecustomize.py").write_text(f"import sys; sys.modules[{module!r}] = None")
    return str(folder)


def test_without_the_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    """A missing extra is one line on stderr, exit code 2."""
    with _run(PYTHONPATH=_without("werkzeug", tmp_path)) as process:
        output, errors = process.communicate(timeout=10)
    assert (2, "", HINT + "\n") == (process.returncode, output, errors)


@pytest.mark.parametrize("missing", ["openapi_schema_validator", "yaml"])
def test_without_the_extra_the_import_says_what_to_install(tmp_path: Path, missing: str) -> None:
    """Importing the sandbox without the extra is an ImportError with the same line."""
    result = subprocess.run(
        [sys.executable, "-c", "import cms_python.sandbox"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": _without(missing, tmp_path)},
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert f"ImportError: {HINT}" == result.stderr.splitlines()[-1]


def test_importing_the_sandbox_is_cheap() -> None:
    """The schema validator, slow to import, waits until a sandbox starts."""
    program = "import sys, cms_python.sandbox; print('openapi_schema_validator' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=10
    )
    assert "False\n" == result.stdout
