"""The sandbox shows what it was sent: over its JSON API, live, and after a restart."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import urllib3
from needed import IS_CI

from cms_python.sandbox import Sandbox
from cms_python.sandbox.entries import Entry
from cms_python.sandbox.memory import Memory

ROOT = Path(__file__).parent.parent
LEAD = {"clickId": "id_1", "eventName": "signup", "customerExternalId": "user_1"}
DEFERRED = {**LEAD, "mode": "deferred"}
SALE = {
    "clickId": "id_1",
    "eventName": "purchase",
    "customerExternalId": "user_1",
    "invoiceId": "inv_1",
    "amount": 4999,
    "currency": "USD",
}
TOKEN = "a-token-that-nobody-may-see"
POOL = urllib3.PoolManager(maxsize=16, retries=False, timeout=10)


@pytest.fixture(autouse=True, scope="module")
def _no_connection_stays_open() -> Iterator[None]:
    yield
    POOL.clear()


def send(sandbox: Sandbox, event: Any, path: str = "", **headers: str) -> urllib3.BaseHTTPResponse:
    """Send an event; the path is that of its kind if none is given."""
    kind = "sale" if isinstance(event, dict) and "invoiceId" in event else "lead"
    wanted = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    wanted.update({name.replace("_", "-"): value for name, value in headers.items()})
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    url = sandbox.url + (path or f"/track/{kind}")
    return POOL.request("POST", url, body=body, headers=wanted)


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def ask(sandbox: Sandbox, address: str, status: int = 200) -> Any:
    """What the JSON API tells, read as strictly as a browser reads it."""
    reply = POOL.request("GET", f"{sandbox.url}/_sandbox/{address}")
    assert reply.status == status
    return json.loads(reply.data, parse_constant=_no_constant)


def entries(sandbox: Sandbox, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(sandbox, f"events?{query}")["events"]
    return found


def names(sandbox: Sandbox, query: str) -> list[str]:
    return [entry["event_name"] for entry in entries(sandbox, query)]


def change(sandbox: Sandbox, method: str, address: str, body: Any = None) -> Any:
    reply = POOL.request(
        method,
        f"{sandbox.url}/_sandbox/{address}",
        body=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    assert reply.status == 200
    return reply.json()


# Entries


def test_a_request_is_shown_with_all_that_is_known_of_it(sandbox: Sandbox) -> None:
    """What was sent, what it was answered, and what became of it."""
    payload = {**SALE, "customerName": "Jane", "customerEmail": "jane@example.com"}
    reply = send(sandbox, payload, Idempotency_Key="key-1")
    entry = entries(sandbox)[0]

    expected = {
        "id": entry["id"],
        "received_at": entry["received_at"],
        "kind": "sale",
        "event_name": "purchase",
        "customer_external_id": "user_1",
        "customer_name": "Jane",
        "click_id": "id_1",
        "invoice_id": "inv_1",
        "amount": 4999,
        "currency": "USD",
        "status": 200,
        "type": None,
        "counted": True,
        "duplicate": False,
        "deferred": False,
        "mode": None,
        "replayed": False,
        "fault": None,
        "idempotency_key": "key-1",
        "request_id": reply.headers["X-Request-Id"],
        "method": "POST",
        "path": "/track/sale",
        "request_headers": entry["request_headers"],
        "payload": payload,
        "body": json.dumps(payload),
        "body_complete": True,
        "answer": reply.json(),
        "answer_headers": {
            "Content-Type": "application/json",
            "X-Request-Id": reply.headers["X-Request-Id"],
        },
    }
    assert entry == expected
    assert entry["received_at"].endswith("+00:00")
    assert entry["request_headers"]["Idempotency-Key"] == "key-1"


@pytest.mark.parametrize(
    ("event", "options", "status", "kind"),
    [
        (b"{", {}, 400, "bad_request"),
        (LEAD, {"Authorization": ""}, 401, "unauthorized"),
        (LEAD, {"Host": "evil.example"}, 403, "forbidden"),
        (LEAD, {"path": "/track/refund"}, 404, "not_found"),
        (b" " * 2_000_000, {}, 413, "payload_too_large"),
        ({**LEAD, "eventName": 5}, {}, 422, "unprocessable_entity"),
    ],
)
def test_a_refused_request_is_shown_too(
    sandbox: Sandbox, event: Any, options: dict[str, str], status: int, kind: str
) -> None:
    """With its status and the type of the refusal; it does not count."""
    reply = send(sandbox, event, **options)
    entry = entries(sandbox)[0]

    assert (entry["status"], entry["type"], entry["counted"]) == (status, kind, False)
    assert entry["answer"] == reply.json()
    assert sandbox.events == []


def test_what_became_of_a_request_is_told(sandbox: Sandbox) -> None:
    """Set up, counted through the stored click, repeated, replayed, in conflict."""
    for event, key in [
        (DEFERRED, ""),
        ({"eventName": "trial", "customerExternalId": "user_1"}, ""),
        ({**LEAD, "eventName": "Trial"}, ""),
        (SALE, "key-1"),
        (SALE, "key-1"),
        (SALE, "key-2"),
    ]:
        send(sandbox, event, **({"Idempotency_Key": key} if key else {}))

    flags = ("status", "mode", "counted", "deferred", "duplicate", "replayed", "click_id")
    assert [tuple(entry[flag] for flag in flags) for entry in entries(sandbox)] == [
        (200, "deferred", False, False, False, False, "id_1"),
        (200, None, True, True, False, False, "id_1"),
        (200, None, False, True, True, False, "id_1"),
        (200, None, True, True, False, False, "id_1"),
        (200, None, False, True, False, True, "id_1"),
        (409, None, False, False, True, False, "id_1"),
    ]


def test_the_token_is_nowhere(sandbox: Sandbox, tmp_path: Path) -> None:
    """Masked but for its last four characters, in the answers, the stream and the file."""
    with Sandbox(db=tmp_path / "db") as kept:
        for each in (sandbox, kept):
            send(each, LEAD, X_Also=f"<{TOKEN}>", Cookie=f"a=1; b={TOKEN}")
            shown = entries(each)[0]["request_headers"]
            dots = "\u2022" * 4
            assert shown["Authorization"] == f"Bearer {dots}-see"
            assert (shown["Cookie"], shown["X-Also"]) == (dots, f"<{dots}>")
        files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"signup" in files
    assert TOKEN.encode() not in files


@pytest.mark.parametrize("value", ["Bearer short", "secret-without-a-scheme", "Secret secret-key"])
def test_a_token_that_four_letters_would_give_away_is_masked_whole(
    sandbox: Sandbox, value: str
) -> None:
    """So is one that is sent in another way than it should be."""
    send(sandbox, LEAD, Authorization=value)
    shown = entries(sandbox)[0]["request_headers"]["Authorization"]
    assert shown.removeprefix("Bearer ") == "\u2022" * 4


@pytest.mark.parametrize(
    "body",
    [
        b'{"amount": 1e999}',
        b'{"amount": NaN}',
        b'{"a":' + b"[" * 900 + b"]" * 900 + b"}",
        b"\xff\x00",
        b'{"eventName": "\\ud800"}',
        b'{"amount": ' + b"1" * 4000 + b"}",
        b'{"eventName": ["a"], "amount": "1", "currency": 3}',
        b"[1]",
        b"x" * 100_000,
    ],
    ids=["inf", "nan", "nested", "bytes", "surrogate", "huge", "types", "list", "long"],
)
def test_no_body_breaks_the_list(sandbox: Sandbox, body: bytes) -> None:
    """Whatever is sent, the list stays JSON that a browser can read."""
    send(sandbox, body)
    entry = entries(sandbox)[0]
    assert entry["status"] in (400, 422)
    assert len(entry["body"]) <= 65536


# Finding


@pytest.fixture
def four(sandbox: Sandbox) -> Sandbox:
    """A sandbox with four entries."""
    send(sandbox, {**LEAD, "eventName": "one", "customerEmail": "JANE@example.com"})
    send(sandbox, {**SALE, "eventName": "two", "invoiceId": "INV-7"})
    send(sandbox, {**LEAD, "eventName": "three", "customerName": "Zo\u00cb"})
    send(sandbox, {**SALE, "eventName": "four", "clickId": "cl_9"})
    return sandbox


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["one", "two", "three", "four"]),
        ("kind=lead", ["one", "three"]),
        ("kind=sale&limit=1", ["four"]),
        ("limit=2", ["three", "four"]),
        ("after=0&limit=2", ["one", "two"]),
        ("search=jane@EXAMPLE", ["one"]),
        ("search=inv-7", ["two"]),
        ("search=ZO%C3%AB", ["three"]),
        ("search=CL_9", ["four"]),
        ("search=USER_1&kind=lead", ["one", "three"]),
        ("search=%25", []),
        ("search=", ["one", "two", "three", "four"]),
    ],
)
def test_entries_are_found(four: Sandbox, query: str, expected: list[str]) -> None:
    """By kind and by text, whatever the letter case, oldest first."""
    assert names(four, query) == expected


def test_the_kinds_of_event_can_be_asked_for(sandbox: Sandbox) -> None:
    """Each is what an entry has as its ``kind``, and what a query may ask for."""
    send(sandbox, LEAD)
    send(sandbox, SALE)
    kinds = ask(sandbox, "kinds")

    assert kinds == [entry["kind"] for entry in entries(sandbox)]
    assert [len(entries(sandbox, f"kind={kind}")) for kind in kinds] == [1, 1]


@pytest.mark.parametrize("stored", ["memory", "file"])
def test_entries_are_paged_both_ways(stored: str, tmp_path: Path) -> None:
    """``last_id`` goes on to the newest, ``before`` goes back to the oldest."""
    with Sandbox(db=tmp_path / "db" if stored == "file" else None) as sandbox:
        for number in range(7):
            send(sandbox, {**LEAD, "eventName": f"e{number}"})

        forth, last, back = [], 0, []
        while page := ask(sandbox, f"events?after={last}&limit=3"):
            forth += [entry["event_name"] for entry in page["events"]]
            if page["last_id"] == last:
                break
            last = page["last_id"]
        newest = entries(sandbox, "limit=3")
        while newest:
            back += [entry["event_name"] for entry in reversed(newest)]
            newest = entries(sandbox, f"limit=3&before={newest[0]['id']}")

        assert forth == [f"e{number}" for number in range(7)]
        assert back == forth[::-1]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("kind=refund", "kind"),
        ("after=x", "after"),
        ("after=-1", "after"),
        ("before=1.5", "before"),
        ("before=99999999999999999999", "before"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limt=5", "limt"),
    ],
)
def test_a_wrong_parameter_is_named(sandbox: Sandbox, query: str, field: str) -> None:
    """A mistake in the query is a 400 in the shape of an error, not an empty list."""
    refusal = ask(sandbox, f"events?{query}", status=400)
    assert (refusal["type"], list(refusal["details"])) == ("bad_request", [field])


# Copy as curl

CURL = shutil.which("curl")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"customerName": 'O\'Brien "$(echo no)" `no` \\ $HOME !! %s \n\t#'},
        {"customerName": "Zo\u00eb \U0001f600 \u2028"},
        {"customerExternalId": "@/etc/passwd", "eventName": "''"},
    ],
    ids=["plain", "shell", "unicode", "at"],
)
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_curl_command_sends_the_same_event(
    sandbox: Sandbox, change: dict[str, str], shell: str
) -> None:
    """Pasted into a shell it is the same event in a new request."""
    if CURL is None and not IS_CI:
        pytest.skip("curl is not installed.")
    event = json.dumps({**SALE, **change}, ensure_ascii=False).encode()
    send(sandbox, event, "/track/sale", Idempotency_Key="key-1")
    number = entries(sandbox)[0]["id"]
    reply = POOL.request("GET", f"{sandbox.url}/_sandbox/events/{number}/curl")
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert TOKEN.encode() not in reply.data

    sandbox.reset()
    subprocess.run([shell, "-c", reply.data.decode()], check=True, capture_output=True, timeout=20)

    assert [recorded.payload for recorded in sandbox.events] == [json.loads(event)]
    assert sandbox.events[0].idempotency_key is None
    assert entries(sandbox)[0]["body"] == event.decode()


@pytest.mark.parametrize("number", ["0", "999", "x", "\u0663", "9" * 30, "9" * 5000, "-1"])
def test_there_is_no_curl_command_for_an_unknown_entry(sandbox: Sandbox, number: str) -> None:
    """An id that does not exist is a 404."""
    assert ask(sandbox, f"events/{number}/curl", status=404)["type"] == "not_found"


def test_there_is_no_curl_command_for_half_a_body(sandbox: Sandbox) -> None:
    """Rather none than one that sends something else."""
    send(sandbox, b"x" * 100_000)
    number = entries(sandbox)[0]["id"]
    assert ask(sandbox, f"events/{number}/curl", status=404)["type"] == "not_found"


# Totals


def test_the_totals_add_up(sandbox: Sandbox) -> None:
    """Money is exact and shown with each currency's own digits."""
    send(sandbox, DEFERRED)
    send(sandbox, LEAD)
    send(sandbox, LEAD)
    for number, (amount, currency) in enumerate(
        [
            (9007199254740991, "USD"),
            (9007199254740991, "USD"),
            (5, "USD"),
            (4999, "JPY"),
            (1, "KWD"),
        ]
    ):
        send(sandbox, {**SALE, "invoiceId": str(number), "amount": amount, "currency": currency})
    send(sandbox, {**SALE, "invoiceId": "0"})
    send(sandbox, b"{")
    stats = ask(sandbox, "stats")
    minutes = stats.pop("per_minute")

    assert stats == {
        "leads": 1,
        "sales": 5,
        "refused": 2,
        "duplicates": 2,
        "deferred_clicks": 1,
        "revenue": [
            {"currency": "JPY", "amount": 4999, "exponent": 0, "display": "4999"},
            {"currency": "KWD", "amount": 1, "exponent": 3, "display": "0.001"},
            {
                "currency": "USD",
                "amount": 18014398509481987,
                "exponent": 2,
                "display": "180143985094819.87",
            },
        ],
    }
    assert (len(minutes), sum(minute["count"] for minute in minutes)) == (30, 10)
    assert minutes == sorted(minutes, key=lambda minute: str(minute["minute"]))


def test_minutes_long_past_are_forgotten(sandbox: Sandbox) -> None:
    """A sandbox that runs for weeks does not grow by a counter a minute."""
    send(sandbox, LEAD)
    entry = Entry(**entries(sandbox)[0])
    memory = Memory()
    for hour in range(10, 20):
        memory.add_entry(replace(entry, received_at=f"2026-01-31T{hour}:30:00+00:00"), print)
    assert memory.tallies() == {"leads": 10, "minute 2026-01-31T19:30": 1}


def test_clicks_lead_to_customers_and_their_events(sandbox: Sandbox) -> None:
    """The path from a click over its customers to what they did."""
    send(sandbox, DEFERRED)
    send(sandbox, {**SALE, "clickId": "id_other"})
    send(sandbox, {**LEAD, "customerExternalId": "user_2"})
    send(sandbox, {**LEAD, "customerExternalId": "user_2"})
    send(sandbox, {**DEFERRED, "customerExternalId": "user_3", "clickId": "id_3"})
    ids = [entry["id"] for entry in entries(sandbox)]

    assert ask(sandbox, "clicks") == [
        {
            "click_id": "id_1",
            "customers": [
                {"customer_external_id": "user_1", "deferred": True, "event_ids": [ids[1]]},
                {"customer_external_id": "user_2", "deferred": False, "event_ids": [ids[2]]},
            ],
        },
        {
            "click_id": "id_3",
            "customers": [{"customer_external_id": "user_3", "deferred": True, "event_ids": []}],
        },
    ]


# The stream


class Listener:
    """An open page: reads one message after the other."""

    def __init__(self, sandbox: Sandbox, query: str = "", **headers: str) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(sandbox.url).netloc, timeout=10)
        wanted = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request("GET", f"/_sandbox/stream{query}", headers=wanted)
        self.response = self.connection.getresponse()

    def next(self) -> dict[str, str]:
        """The fields of the next message; of a comment, none."""
        lines = iter(lambda: self.response.readline().decode().rstrip("\n"), "")
        return dict(line.split(": ", 1) for line in lines if not line.startswith(":"))

    def wait_for(self, event: str) -> dict[str, str]:
        """The next message of this kind."""
        while (message := self.next()).get("event") != event:
            pass
        return message

    def after_greeting(self) -> Listener:
        """Past what every page gets first, of which the faults come last."""
        self.wait_for("faults")
        return self

    def close(self) -> None:
        self.response.close()
        self.connection.close()


@contextmanager
def listening(sandbox: Sandbox, query: str = "", **headers: str) -> Iterator[Listener]:
    with closing(Listener(sandbox, query, **headers)) as listener:
        yield listener


def connections() -> list[threading.Thread]:
    """The threads of the sandboxes' connections."""
    return [each for each in threading.enumerate() if each.name == "cms-sandbox-connection"]


def wait_until_only(expected: set[threading.Thread]) -> None:
    deadline = time.monotonic() + 10
    while set(connections()) - expected and time.monotonic() < deadline:
        for thread in set(connections()) - expected:
            thread.join(0.1)
    assert set(connections()) - expected == set()


def test_the_stream_tells_what_happens(sandbox: Sandbox) -> None:
    """Every entry under its id, as the list shows it; a reset; the faults."""
    with listening(sandbox) as listener:
        assert listener.response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert listener.next() == {"retry": "1000"}
        assert listener.next() == {"event": "faults", "data": '{"faults": []}'}
        send(sandbox, LEAD)
        told, shown = listener.next(), entries(sandbox)[0]
        assert (told["event"], told["id"]) == ("event", str(shown["id"]))
        assert json.loads(told["data"]) == shown
        sandbox.drop_next()
        assert json.loads(listener.next()["data"]) == ask(sandbox, "faults")
        sandbox.reset()
        assert listener.next() == {"event": "faults", "data": '{"faults": []}'}
        reset = listener.next()
        assert (reset["event"], int(reset["id"]) > shown["id"]) == ("reset", True)


def test_the_stream_goes_on_where_it_broke_off(sandbox: Sandbox) -> None:
    """A page that was away gets what it missed, once and in order, then what comes."""
    for number in range(4):
        send(sandbox, {**LEAD, "eventName": f"e{number}"})
    second = entries(sandbox)[1]["id"]
    for query, headers in [
        (f"?after={second}", {}),
        ("", {"Last_Event_ID": str(second)}),
        ("?after=1", {"Last_Event_ID": str(second)}),
    ]:
        with listening(sandbox, query, **headers) as listener:
            listener.next()
            told = [listener.next() for _ in range(2)]
            assert [json.loads(each["data"])["event_name"] for each in told] == ["e2", "e3"]


@pytest.mark.parametrize("ahead", [False, True], ids=["reset", "restarted"])
def test_a_page_that_missed_a_reset_is_told(ahead: bool) -> None:
    """It starts anew instead of showing what is gone; also if the sandbox is another one."""
    with Sandbox() as sandbox:
        send(sandbox, LEAD)
        seen = entries(sandbox)[0]["id"] + (10 if ahead else 0)
        if not ahead:
            sandbox.reset()
            send(sandbox, {**LEAD, "eventName": "after"})
        with listening(sandbox, Last_Event_ID=str(seen)) as listener:
            listener.next()
            assert listener.next()["event"] == "reset"
            assert json.loads(listener.next()["data"]) == entries(sandbox)[0]


def test_a_page_that_saw_the_reset_is_not_told_again(sandbox: Sandbox) -> None:
    """Coming back after a reset, with nothing new, it gets nothing but the faults."""
    with listening(sandbox) as listener:
        listener.after_greeting()
        send(sandbox, LEAD)
        listener.next()
        sandbox.reset()
        seen = listener.wait_for("reset")["id"]
    with listening(sandbox, Last_Event_ID=seen) as listener:
        assert [listener.next(), listener.next()["event"]] == [{"retry": "1000"}, "faults"]
    assert ask(sandbox, "events") == {"events": [], "last_id": int(seen)}


def test_a_quiet_stream_shows_that_it_lives(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comment now and then keeps proxies from closing it."""
    monkeypatch.setattr("cms_python.sandbox.stream.HEARTBEAT_SECONDS", 0.01)
    with listening(sandbox) as listener:
        listener.after_greeting()
        assert listener.response.readline() == b": still here\n"


def test_a_wrong_place_to_resume_from_is_refused(sandbox: Sandbox) -> None:
    """As everywhere, a parameter that is no number is a 400."""
    assert ask(sandbox, "stream?after=x", status=400)["details"].keys() == {"after"}


def test_closed_tabs_leave_nothing_behind(sandbox: Sandbox) -> None:
    """Fifty pages opened and closed: no thread is left, though nothing was told meanwhile."""
    before = set(connections())
    tabs = [Listener(sandbox).after_greeting() for _ in range(50)]
    assert len(set(connections()) - before) == 50
    for tab in tabs:
        tab.close()
    wait_until_only(before)


def test_a_stop_does_not_wait_for_open_pages() -> None:
    """It ends the streams; the pages see the end."""
    before = set(connections())
    sandbox = Sandbox()
    sandbox.start()
    tabs = [Listener(sandbox).after_greeting() for _ in range(20)]
    began = time.monotonic()
    sandbox.stop()
    took = time.monotonic() - began
    assert set(connections()) == before
    assert [tab.response.read() for tab in tabs] == [b""] * 20
    for tab in tabs:
        tab.close()
    assert took < 10


def test_a_page_that_reads_too_slowly_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can't fill the memory, nor hold anybody else up; it may come back for the rest."""
    monkeypatch.setattr("cms_python.sandbox.stream._BACKLOG", 20)
    monkeypatch.setattr("cms_python.sandbox.stream._WRITE_SECONDS", 0.5)
    with Sandbox() as sandbox:
        before = set(connections())
        slow = Listener(sandbox).after_greeting()
        (thread,) = set(connections()) - before
        # More than the buffers of both ends can hold while nobody reads.
        for _ in range(300):
            send(sandbox, b"x" * 60_000)
        thread.join(10)
        assert not thread.is_alive()
        assert len(entries(sandbox)) == 300
        slow.close()


# Changing things


def test_a_reset_forgets_all_but_the_ids(sandbox: Sandbox) -> None:
    """Entries, events, clicks, totals and faults are gone; ids go on, so nobody mixes them up."""
    send(sandbox, DEFERRED)
    send(sandbox, LEAD)
    last_id = ask(sandbox, "events")["last_id"]
    sandbox.fail_next(503)

    assert change(sandbox, "POST", "reset") == {}
    assert (sandbox.events, sandbox.deferred_clicks) == ([], {})
    assert (entries(sandbox), ask(sandbox, "clicks")) == ([], [])
    assert ask(sandbox, "faults") == {"faults": []}
    stats = ask(sandbox, "stats")
    assert (stats["leads"], sum(minute["count"] for minute in stats["per_minute"])) == (0, 0)
    send(sandbox, LEAD)
    assert entries(sandbox)[0]["id"] > last_id
    assert sandbox.events[0].id == 1


@pytest.mark.parametrize(
    ("method", "address"),
    [("POST", "reset"), ("PUT", "faults"), ("DELETE", "faults")],
)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"Content-Type": "text/plain"}, 400),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 400),
        ({"Content-Type": "application/json", "Origin": "http://evil.example"}, 403),
        ({"Content-Type": "application/json", "Origin": "null"}, 403),
        ({"Content-Type": "application/json", "Host": "evil.example"}, 403),
    ],
)
def test_a_foreign_page_can_change_nothing(
    sandbox: Sandbox, method: str, address: str, headers: dict[str, str], status: int
) -> None:
    """A form or a script of another site reaches the sandbox, but is refused."""
    send(sandbox, LEAD)
    sandbox.fail_next(503)
    url = f"{sandbox.url}/_sandbox/{address}"
    reply = POOL.request(method, url, body=b'{"faults": []}', headers=headers)
    assert reply.status == status
    assert (len(sandbox.events), len(ask(sandbox, "faults")["faults"])) == (1, 1)


@pytest.mark.parametrize(
    ("method", "address", "allowed"),
    [
        ("POST", "/", "GET"),
        ("POST", "/_sandbox/events", "GET"),
        ("GET", "/_sandbox/reset", "POST"),
        ("OPTIONS", "/_sandbox/faults", "GET, PUT, DELETE"),
        ("PUT", "/_sandbox/page/page.js", "GET"),
    ],
)
def test_another_method_is_told_the_right_one(
    sandbox: Sandbox, method: str, address: str, allowed: str
) -> None:
    """405, and the methods that are allowed."""
    reply = POOL.request(method, sandbox.url + address)
    assert (reply.status, reply.headers["Allow"]) == (405, allowed)


def test_a_container_may_be_called_by_its_name() -> None:
    """Listening on every address, IP addresses and names without a dot are welcome, others not."""
    with Sandbox(host="0.0.0.0") as sandbox:
        hosts = ["192.168.1.5:80", "sandbox:4010", "[fe80::1]", "localhost", "evil.example", ""]
        statuses = [
            POOL.request(
                "GET", f"http://127.0.0.1:{urlsplit(sandbox.url).port}/", headers={"Host": host}
            ).status
            for host in hosts
        ]
        same, other = (
            POOL.request(
                "POST",
                f"http://127.0.0.1:{urlsplit(sandbox.url).port}/_sandbox/reset",
                headers={"Host": "box:1", "Origin": origin, "Content-Type": "application/json"},
            ).status
            for origin in ("http://box:1", "http://192.168.1.5")
        )
    assert statuses == [200, 200, 200, 200, 403, 403]
    assert (same, other) == (200, 403)


# The page, and HTTP


@pytest.mark.parametrize(
    ("address", "media_type"),
    [
        ("/", "text/html"),
        ("/_sandbox/page/index.html", "text/html"),
        ("/_sandbox/page/page.css", "text/css"),
        ("/_sandbox/page/page.js", "text/javascript"),
    ],
)
def test_the_page_is_served_and_can_run_nothing_foreign(
    sandbox: Sandbox, address: str, media_type: str
) -> None:
    """Under a policy by which what strangers sent can't become code."""
    reply = POOL.request("GET", sandbox.url + address)
    headers = {name: reply.headers[name] for name in list(reply.headers)[2:]}
    assert reply.status == 200
    assert headers == {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
            "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "Content-Type": f"{media_type}; charset=utf-8",
        "Content-Length": str(len(reply.data)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }


@pytest.mark.parametrize("name", ["", "x.js", "../server.py", "..%2Fserver.py", "%2Fetc%2Fpasswd"])
def test_no_other_file_is_served(sandbox: Sandbox, name: str) -> None:
    """Only the files of the page, by name."""
    host = urlsplit(sandbox.url).netloc
    with closing(http.client.HTTPConnection(host, timeout=10)) as connection:
        connection.request("GET", f"/_sandbox/page/{name}")
        assert connection.getresponse().status == 404


def test_it_says_that_it_is_well(sandbox: Sandbox) -> None:
    """For a container's health check; never from a cache."""
    reply = POOL.request("GET", f"{sandbox.url}/_sandbox/healthz")
    assert (reply.status, reply.json()) == (200, {"status": "ok"})
    assert reply.headers["Cache-Control"] == "no-store"


def test_a_head_request_keeps_the_connection_in_step(sandbox: Sandbox) -> None:
    """A HEAD is answered without a body, and the next answer is the next."""
    host = urlsplit(sandbox.url).netloc
    with closing(http.client.HTTPConnection(host, timeout=10)) as connection:
        statuses = []
        for method, path in [("HEAD", "/"), ("HEAD", "/track/lead"), ("GET", "/_sandbox/healthz")]:
            connection.request(method, path)
            response = connection.getresponse()
            statuses.append((response.status, response.read()[:1]))
    assert statuses == [(200, b""), (405, b""), (200, b"{")]


def test_an_enormous_body_is_refused_and_not_kept(sandbox: Sandbox) -> None:
    """The sender of 100 MB sees a 413, and the sandbox's memory never holds them."""
    piece = b" " * 1024 * 1024
    tracemalloc.start()
    try:
        reply = POOL.request(
            "POST",
            f"{sandbox.url}/track/lead",
            body=(piece for _ in range(100)),
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (reply.status, reply.json()["type"]) == (413, "payload_too_large")
    assert peak < 10 * len(piece)


# Many


def test_many_threads_lose_nothing() -> None:
    """2,000 events from sixteen threads all count, in memory; the newest 1,000 can be read."""
    with Sandbox() as sandbox:
        events = [{**LEAD, "customerExternalId": f"user_{number}"} for number in range(2000)]
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda event: send(sandbox, event), events))
        shown = entries(sandbox)

        assert ask(sandbox, "stats")["leads"] == 2000
        assert [event.id for event in sandbox.events] == list(range(1001, 2001))
        assert [entry["id"] for entry in shown] == list(range(1001, 2001))
        # What counts once is known for longer than it is shown.
        assert send(sandbox, events[0]).json()["data"]["duplicate"] is True


# A file


def test_a_file_keeps_everything_for_the_next_start(tmp_path: Path) -> None:
    """Entries, events, clicks, invoices, keys and totals outlive a restart."""
    path = tmp_path / "sandbox.db"
    with Sandbox(db=path) as sandbox:
        send(sandbox, DEFERRED)
        send(sandbox, {**LEAD, "eventName": "trial"})
        first = send(sandbox, SALE, Idempotency_Key="key-1")
        before = (ask(sandbox, "events"), ask(sandbox, "clicks"), ask(sandbox, "stats")["revenue"])
        events = sandbox.events

    with Sandbox(db=str(path)) as sandbox:
        assert before == (
            ask(sandbox, "events"),
            ask(sandbox, "clicks"),
            ask(sandbox, "stats")["revenue"],
        )
        assert (sandbox.events, sandbox.deferred_clicks) == (events, {"user_1": "id_1"})
        assert send(sandbox, SALE, Idempotency_Key="key-1").data == first.data
        assert send(sandbox, SALE, Idempotency_Key="key-2").status == 409
        assert send(sandbox, {**LEAD, "eventName": "trial"}).json()["data"]["duplicate"] is True
        assert entries(sandbox)[-1]["id"] == before[0]["last_id"] + 3


def test_a_file_is_read_without_a_running_sandbox(tmp_path: Path) -> None:
    """Before a start and after a stop; nothing stays open."""
    path = tmp_path / "sandbox.db"
    sandbox = Sandbox(db=path)
    assert not path.exists()
    with sandbox:
        send(sandbox, LEAD)
        assert [event.event_name for event in sandbox.events] == ["signup"]
    assert [event.event_name for event in sandbox.events] == ["signup"]
    assert [event.event_name for event in Sandbox(db=path).events] == ["signup"]
    assert [each.name for each in tmp_path.iterdir()] == ["sandbox.db"]


def test_a_file_works_as_memory_does(tmp_path: Path) -> None:
    """Sixteen threads, searches, the stream and a reset: no difference but that it stays."""
    with Sandbox(db=tmp_path / "sandbox.db") as sandbox:
        events = [{**SALE, "invoiceId": f"INV-{number}"} for number in range(160)]
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda event: send(sandbox, event), events * 2))
        assert ask(sandbox, "stats")["sales"] == 160
        assert ask(sandbox, "stats")["duplicates"] == 160
        assert [event.id for event in sandbox.events] == list(range(1, 161))
        assert {entry["invoice_id"] for entry in entries(sandbox, "search=inv-15&kind=sale")} == {
            "INV-15",
            *(f"INV-15{digit}" for digit in range(10)),
        }
        assert entries(sandbox, "kind=lead") == []
        with listening(sandbox, "?after=319") as listener:
            listener.next()
            assert listener.next()["id"] == "320"
            sandbox.reset()
            assert listener.wait_for("reset")["id"] == "321"
        assert (entries(sandbox), sandbox.events, ask(sandbox, "clicks")) == ([], [], [])
        assert ask(sandbox, "events")["last_id"] == 321
        send(sandbox, SALE)
        assert (entries(sandbox)[0]["id"], sandbox.events[0].id) == (322, 1)


def test_a_file_takes_every_text_that_json_has(tmp_path: Path) -> None:
    """Half a surrogate pair, a zero character: whatever the contract lets pass."""
    strange = "a\ud800\x00'%_"
    with Sandbox(db=tmp_path / "sandbox.db") as sandbox:
        fields = ("clickId", "eventName", "customerExternalId", "invoiceId")
        assert send(sandbox, {**SALE, **dict.fromkeys(fields, strange)}).status == 200
        assert send(sandbox, {**DEFERRED, "customerExternalId": strange}).status == 200
        assert [event.invoice_id for event in sandbox.events] == [strange]
        assert entries(sandbox)[0]["event_name"] == strange
        assert sandbox.deferred_clicks == {strange: "id_1"}


def test_sandboxes_may_share_a_file(tmp_path: Path) -> None:
    """Two processes, or two sandboxes in one, keep to one truth: an invoice counts once."""
    path = tmp_path / "sandbox.db"
    with Sandbox(db=path) as first, Sandbox(db=path) as second:
        with ThreadPoolExecutor(8) as threads:
            replies = threads.map(lambda n: send((first, second)[n % 2], SALE), range(20))
        assert sorted(reply.status for reply in replies) == [200] + [409] * 19
        assert first.events == second.events


def test_a_second_sandbox_leaves_the_first_its_hold_on_their_file(tmp_path: Path) -> None:
    """Another process that looks into the file meanwhile takes nothing away, and sees it all."""
    path = tmp_path / "sandbox.db"
    program = (
        "import sys; from cms_python.sandbox import Sandbox\n"
        "print([event.customer_external_id for event in Sandbox(db=sys.argv[1]).events])"
    )

    def seen_by_another_process() -> str:
        line = [sys.executable, "-c", program, str(path)]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    with Sandbox(db=path) as first:
        send(first, LEAD)
        assert 1 == len(Sandbox(db=path).events)
        assert "['user_1']\n" == seen_by_another_process()
        send(first, {**LEAD, "customerExternalId": "user_2"})
        assert "['user_1', 'user_2']\n" == seen_by_another_process()
    assert "['user_1', 'user_2']\n" == seen_by_another_process()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions.")
def test_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """It holds what customers are called."""
    with Sandbox(db=tmp_path / "sandbox.db") as sandbox:
        send(sandbox, LEAD)
        modes = {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    assert modes == {0o600}


def _newer(path: Path) -> None:
    with Sandbox(db=path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (id)")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_newer, "a newer version of cms-python-client has written it"),
        (_foreign, "it is the file of another program"),
        (lambda path: path.write_text("no database" * 100), "file is not a database"),
        (lambda path: path.mkdir(), "Is a directory"),
    ],
    ids=["newer", "foreign", "text", "folder"],
)
def test_a_file_that_is_not_its_own_is_refused(tmp_path: Path, make: Any, reason: str) -> None:
    """One clear error, and the file stays as it was."""
    path = tmp_path / "file"
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(OSError, match=f"The sandbox cannot use .*: .*{reason}"):
        Sandbox(db=path).start()
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_port_in_use_lets_go_of_the_file(tmp_path: Path) -> None:
    """A start that fails leaves nothing open."""
    with Sandbox() as running:
        port = urlsplit(running.url).port or 0
        with pytest.raises(OSError, match="cannot listen"):
            Sandbox(port, db=tmp_path / "db").start()
    assert [each.name for each in tmp_path.iterdir()] == ["db"]


def test_sqlite_is_for_those_who_ask() -> None:
    """Without a file the sandbox does not even import it."""
    program = (
        "import sys; from cms_python.sandbox import Sandbox\n"
        "with Sandbox(): print('sqlite3' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=20
    )
    assert (ran.stdout, ran.stderr) == ("False\n", "")


# Switches


@pytest.mark.parametrize("stored", ["memory", "file"])
def test_a_known_invoice_may_get_its_answer_again(stored: str, tmp_path: Path) -> None:
    """``duplicates="replay"``: the first answer to the letter, and one sale."""
    path = tmp_path / "db" if stored == "file" else None
    with Sandbox(duplicates="replay", db=path) as sandbox:
        first = send(sandbox, SALE, Idempotency_Key="key-1")
        again = send(sandbox, {**SALE, "amount": 1}, Idempotency_Key="key-2")
        assert (again.status, again.data) == (200, first.data)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert [event.amount for event in sandbox.events] == [4999]
        last = entries(sandbox)[-1]
        assert (last["duplicate"], last["replayed"], last["counted"]) == (True, True, False)


def test_a_switch_that_does_not_exist_is_refused() -> None:
    """At once, by name."""
    with pytest.raises(ValueError, match="duplicates must be"):
        Sandbox(duplicates="ignore")  # type: ignore[arg-type] # the point
