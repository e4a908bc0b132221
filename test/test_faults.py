"""A call keeps its promises on a bad network: one real misbehaving server a row.

The rows of a table run side by side, once for the module, since some of them have to wait.
"""

from __future__ import annotations

import ast
import re
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from fault_server import (
    MEBIBYTE,
    WRAPPING,
    Behaviour,
    FaultServer,
    Request,
    Visit,
    answer,
    answer_late,
    answer_then_more,
    close_after_answer,
    close_after_reading,
    cut_off,
    deep_json,
    drip_body,
    drip_header,
    echo,
    endless_body,
    endless_chunk,
    endless_headers,
    endless_informational,
    flood_of_informational,
    full_queue,
    garbage,
    gzip_bomb,
    huge,
    in_turn,
    informational,
    nobody_listens,
    plain_http,
    raw,
    redirect,
    reset_after_reading,
    reset_before_reading,
    short_body,
    silent,
    silent_before_reading,
    slow_tunnel,
    stall_in_body,
    trickle_body,
    tunnel,
)

from cms_python import (
    ApiClient,
    CMSClient,
    Configuration,
    LeadPayload,
    TimeoutException,
    TrackingApi,
    TrackResult,
)
from cms_python.delivery import retries

# Over a deadline, for a busy machine.
SLACK = 2.0
ROOT = Path(__file__).parent.parent
# Dates as a server sends them; its own clock need not be ours.
SERVER_CLOCK = datetime(2031, 5, 4, 3, 2, 1, tzinfo=timezone.utc)


def date(**after: float) -> str:
    return format_datetime(SERVER_CLOCK + timedelta(**after), usegmt=True)


class Outcome(NamedTuple):
    result: TrackResult
    seconds: float
    requests: list[Request]


class Row(NamedTuple):
    """What a server does, and what a call makes of it."""

    promise: str
    behaviour: Behaviour
    expected: Mapping[str, Any]
    arrived: int = 1
    timeout: float = 10.0
    max_retries: int = 1


def failed(
    kind: str,
    status_code: int = 0,
    *,
    retryable: bool = False,
    ambiguous: bool = False,
    attempts: int = 1,
    retry_after: float | None = None,
) -> dict[str, Any]:
    """The facts of a failure: all of it but its sentence, details and key."""
    return {
        "success": False,
        "status_code": status_code,
        "type": kind,
        "retryable": retryable,
        "ambiguous": ambiguous,
        "attempts": attempts,
        "retry_after": retry_after,
    }


def recorded(message: str = "Recorded", data: Any = "signup") -> dict[str, Any]:
    return {"success": True, "message": message, "data": data}


def lead(client: CMSClient, name: str = "signup", key: str | None = None) -> TrackResult:
    return client.track_lead(name, "user_42", click_id="id_123", idempotency_key=key)


def client_of(url: str, *, timeout: float = 10.0, max_retries: int = 0, **how: Any) -> CMSClient:
    configuration = Configuration(host=url, **how)
    return CMSClient("token", timeout=timeout, max_retries=max_retries, configuration=configuration)


@contextmanager
def calling(
    behaviour: Behaviour, *, tls: ssl.SSLContext | None = None, **options: Any
) -> Iterator[tuple[FaultServer, CMSClient]]:
    """A server, and a client of it."""
    with FaultServer(behaviour, tls=tls) as server, client_of(server.url, **options) as client:
        yield server, client


def call(url: str, *, timeout: float = 10.0, **options: Any) -> TrackResult:
    """One call by a client of its own, which must keep its deadline."""
    with client_of(url, timeout=timeout, **options) as client:
        start = monotonic()
        result = lead(client)
        assert monotonic() - start < timeout + SLACK
    return result


def facts(result: TrackResult) -> dict[str, Any]:
    return {
        name: value
        for name, value in result.items()
        if result["success"] or name not in {"error", "details", "idempotency_key"}
    }


def error_of(result: TrackResult) -> str:
    assert result["success"] is False, result
    return result["error"]


def run(row: Row) -> Outcome:
    options: dict[str, Any] = {"timeout": row.timeout, "max_retries": row.max_retries}
    with calling(row.behaviour, **options) as (server, client):
        start = monotonic()
        result = lead(client)
        seconds = monotonic() - start
    return Outcome(result, seconds, server.requests)


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[str, Outcome]]:
    """The outcomes of all rows that are asked for, which run side by side."""
    parameters = [getattr(item, "callspec", None) for item in request.session.items]
    values = [each.params.get("row") for each in parameters if each]
    rows = [row for row in values if isinstance(row, Row)]
    with ThreadPoolExecutor(16) as pool:
        yield dict(zip([row.promise for row in rows], pool.map(run, rows)))


@pytest.fixture
def outcome(row: Row, outcomes: dict[str, Outcome]) -> Outcome:
    return outcomes[row.promise]


def check(row: Row, outcome: Outcome) -> None:
    """What is so for every row, and then what the row says."""
    result, seconds, requests = outcome
    assert seconds < row.timeout + SLACK
    assert len({(each.method, each.path, each.key, each.body) for each in requests}) <= 1
    if result["success"] is False:
        assert {result["idempotency_key"]} >= {each.key for each in requests}
        assert result["error"].endswith((".", "server"))
    assert row.expected == facts(result)
    assert row.arrived == len(requests)


def table(*rows: Row) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", rows, ids=[row.promise for row in rows])


BROKEN = failed("connection_error", retryable=True, ambiguous=True, attempts=2)
LATE = failed("timeout_error", retryable=True, ambiguous=True)
UNREADABLE = failed("invalid_response", ambiguous=True)
UNREADABLE_200 = failed("invalid_response", 200, ambiguous=True)

BROKEN_CONNECTIONS = table(
    Row("a reset before the request is read", reset_before_reading, BROKEN, arrived=0),
    Row("a reset after the request is read", reset_after_reading, BROKEN, arrived=2),
    Row("a connection closed without an answer", close_after_reading, BROKEN, arrived=2),
    Row("an answer cut off in its header", cut_off, BROKEN, arrived=2),
    Row("an answer cut off after its status", raw(b"HTTP/1.1 200 OK\r\n"), BROKEN, arrived=2),
    Row("an answer cut off in its body", short_body, BROKEN, arrived=2),
    Row(
        "an answer cut off in a chunk",
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}"),
        BROKEN,
        arrived=2,
    ),
    Row(
        "an answer cut off between chunks",
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"),
        BROKEN,
        arrived=2,
    ),
    Row(
        "a chunk without a size",
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"),
        BROKEN,
        arrived=2,
    ),
    Row("one reset, then an answer", in_turn(reset_after_reading, echo), recorded(), arrived=2),
    Row(
        "three resets, then an answer",
        in_turn(*[reset_after_reading] * 3, echo),
        recorded(),
        arrived=4,
        max_retries=3,
    ),
    Row(
        "resets beyond the retries",
        in_turn(*[reset_after_reading] * 3, echo),
        {**BROKEN, "attempts": 3},
        arrived=3,
        max_retries=2,
    ),
    Row(
        "no retries wanted",
        in_turn(reset_after_reading, echo),
        {**BROKEN, "attempts": 1},
        max_retries=0,
    ),
)


@BROKEN_CONNECTIONS
def test_a_broken_connection(row: Row, outcome: Outcome) -> None:
    """What breaks off is tried again, under the same key, and is ambiguous if it stays broken."""
    check(row, outcome)


SLOW_SERVERS = table(
    Row("silence", silent, LATE, timeout=1.0, max_retries=0),
    Row("silence before the request is read", silent_before_reading, LATE, 0, 1.0),
    Row("a header that drips", drip_header, LATE, timeout=1.0),
    Row("a body that drips", drip_body(), LATE, timeout=1.0),
    Row("a chunked body that drips", drip_body(chunked=True), LATE, timeout=1.0),
    Row("a body that stalls", stall_in_body, LATE, timeout=1.0),
    Row("100 Continue for ever", endless_informational(100), LATE, timeout=1.0),
    Row("103 Early Hints for ever", endless_informational(103), LATE, timeout=1.0),
    Row("100 Continue in a flood", flood_of_informational(100), LATE, timeout=1.0),
    Row("103 Early Hints in a flood", flood_of_informational(103), LATE, timeout=1.0),
    Row("a body that trickles without a pause", trickle_body, LATE, timeout=1.0),
    Row(
        "an error whose body drips keeps its status",
        drip_body(503),
        failed("service_unavailable", 503, retryable=True, ambiguous=True),
        timeout=1.0,
    ),
    Row("an answer that is slow and in time", answer_late(0.3), recorded(), max_retries=0),
    Row(
        "silence, then an answer",
        in_turn(silent, echo),
        recorded(),
        arrived=2,
        timeout=3.0,
    ),
    Row("silence on every attempt", silent, {**LATE, "attempts": 2}, arrived=2, timeout=3.0),
    # Half of 1.1 seconds would be too short for it.
    Row("an attempt gets a second where there is one", answer_late(0.6), recorded(), 1, 1.1, 3),
)


@SLOW_SERVERS
def test_a_slow_server(row: Row, outcome: Outcome) -> None:
    """Whatever drips, stalls or stays silent, the call returns when its time is over."""
    check(row, outcome)


def status_row(status: int, kind: str, *, again: bool) -> Row:
    expected = failed(kind, status, retryable=again, ambiguous=status >= 500, attempts=1 + again)
    behaviour = answer(status, "<html>a gateway's page</html>")
    return Row(f"{status} is {'' if again else 'not '}tried again", behaviour, expected, 1 + again)


UNAVAILABLE = failed("service_unavailable", 503, retryable=True, ambiguous=True)
STATUSES = table(
    status_row(408, "bad_request", again=True),
    status_row(425, "bad_request", again=True),
    status_row(429, "rate_limit_exceeded", again=True),
    status_row(500, "internal_server_error", again=True),
    status_row(502, "bad_gateway", again=True),
    status_row(503, "service_unavailable", again=True),
    status_row(504, "gateway_timeout", again=True),
    status_row(400, "bad_request", again=False),
    status_row(401, "unauthorized", again=False),
    status_row(403, "forbidden", again=False),
    status_row(404, "not_found", again=False),
    status_row(405, "bad_request", again=False),
    status_row(409, "conflict", again=False),
    status_row(410, "bad_request", again=False),
    status_row(413, "bad_request", again=False),
    status_row(422, "unprocessable_entity", again=False),
    status_row(501, "internal_server_error", again=False),
    status_row(505, "internal_server_error", again=False),
    status_row(599, "internal_server_error", again=False),
    Row("503, then an answer", in_turn(answer(503), echo), recorded(), arrived=2),
    Row(
        "429, 500 and 502, then an answer",
        in_turn(answer(429), answer(500), answer(502), echo),
        recorded(),
        arrived=4,
        max_retries=3,
    ),
    Row(
        "503, then 401",
        in_turn(answer(503), answer(401, "{}")),
        failed("unauthorized", 401, ambiguous=True, attempts=2),
        arrived=2,
    ),
    Row("an error with an endless body", endless_body(503), {**UNAVAILABLE, "attempts": 2}, 2),
    Row(
        "an error cut off in its body",
        raw(b"HTTP/1.1 422 No\r\nContent-Length: 99\r\n\r\n{"),
        failed("unprocessable_entity", 422),
    ),
    Row(
        "an error in the API's own words",
        answer(404, {"success": False, "error": "No such click.", "type": "click_not_found"}),
        failed("click_not_found", 404),
    ),
    Row(
        "an error with deep JSON",
        answer(400, '{"error": ' + "[" * 200_000),
        failed("bad_request", 400),
    ),
    Row(
        "200 that says no",
        answer(200, {"success": False, "error": "The click has expired."}),
        failed("unprocessable_entity", 200),
    ),
)


@STATUSES
def test_a_status(row: Row, outcome: Outcome) -> None:
    """What a wait may mend is tried again, what it cannot is not; a 5xx is ambiguous."""
    check(row, outcome)


def limited(retry_after: str | None, **headers: str) -> Behaviour:
    given = {"Retry-After": retry_after} if retry_after is not None else {}
    return answer(429, "{}", {**given, **headers})


def limit_row(promise: str, behaviour: Behaviour, asked: float | None, attempts: int) -> Row:
    expected = failed(
        "rate_limit_exceeded", 429, retryable=True, attempts=attempts, retry_after=asked
    )
    return Row(promise, behaviour, expected, arrived=attempts)


DAY = 86400.0
RETRY_AFTERS = table(
    limit_row("seconds", limited("0.7"), 0.7, attempts=2),
    limit_row("a date", limited(date(seconds=1), Date=date()), 1.0, attempts=2),
    limit_row("zero", limited("0"), 0.0, attempts=2),
    limit_row("a date that has passed", limited(date(days=-9), Date=date()), 0.0, attempts=2),
    limit_row("more than the time left", limited("30"), 30.0, attempts=1),
    limit_row("a date beyond the time left", limited(date(hours=1), Date=date()), 3600.0, 1),
    limit_row("more than a day", limited("604800"), DAY, attempts=1),
    limit_row("an epoch in place of seconds", limited("1789999999"), DAY, attempts=1),
    limit_row("400 digits", limited("9" * 400), DAY, attempts=1),
    limit_row("the end of the calendar", limited("Fri, 31 Dec 9999 23:59:59 GMT"), DAY, 1),
    limit_row("none", limited(None), None, attempts=2),
    limit_row("nothing", limited(""), None, attempts=2),
    limit_row("a word", limited("soon"), None, attempts=2),
    limit_row("a negative number", limited("-5"), None, attempts=2),
    limit_row("NaN", limited("nan"), None, attempts=2),
    limit_row("infinity", limited("inf"), None, attempts=2),
    limit_row("digits of another script", limited("\xb2\xb3"), None, attempts=2),
    limit_row("two values", limited("1, 2"), None, attempts=2),
    limit_row("a date with an impossible zone", limited("Mon, 01 Jan 2035 00:00 +9999"), None, 2),
)


@RETRY_AFTERS
def test_a_retry_after(row: Row, outcome: Outcome) -> None:
    """It is the least wait; beyond the deadline the call returns at once; junk is passed over."""
    check(row, outcome)
    asked = row.expected["retry_after"]
    if row.arrived == 1:
        assert outcome.seconds < row.timeout / 2
    elif asked:
        first, second = outcome.requests
        assert second.at - first.at >= asked


CONFLICT = answer(409, {"success": False, "error": "It has been recorded.", "type": "conflict"})
EARLIER = recorded("Event tracked successfully by an earlier attempt", None)
CONFLICTS = table(
    Row("409 after a reset", in_turn(reset_after_reading, CONFLICT), EARLIER, arrived=2),
    Row("409 after a reset before reading", in_turn(reset_before_reading, CONFLICT), EARLIER),
    Row("409 after silence", in_turn(silent, CONFLICT), EARLIER, arrived=2, timeout=3.0),
    Row("409 after 500", in_turn(answer(500), CONFLICT), EARLIER, arrived=2),
    Row("409 after half an answer", in_turn(short_body, CONFLICT), EARLIER, arrived=2),
    Row(
        "409 after 503 and 429",
        in_turn(answer(503), answer(429), CONFLICT),
        EARLIER,
        arrived=3,
        max_retries=2,
    ),
    Row(
        "409 after 429 alone",
        in_turn(answer(429), CONFLICT),
        failed("conflict", 409, attempts=2),
        arrived=2,
    ),
)


@CONFLICTS
def test_a_conflict(row: Row, outcome: Outcome) -> None:
    """409 on an attempt after one that may have arrived says that this one did: a success."""
    check(row, outcome)


UNREADABLE_ANSWERS = table(
    Row("no HTTP", garbage, UNREADABLE),
    Row("a page without a header", raw(b"<html>Welcome to the hotel</html>"), UNREADABLE),
    Row("a status that is no number", raw(b"HTTP/1.1 abc OK\r\n\r\n"), UNREADABLE),
    Row("a status of two digits", raw(b"HTTP/1.1 99 OK\r\n\r\n"), UNREADABLE),
    Row("a status line without an end", raw(b"HTTP/1.1 200 " + b"x" * 70_000), UNREADABLE),
    Row(
        "a header line without an end",
        raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000),
        UNREADABLE,
    ),
    Row("headers without an end", endless_headers, UNREADABLE),
    Row(
        "two lengths that differ",
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\n{}"),
        UNREADABLE,
    ),
    Row("101, to another protocol", answer(101, b""), failed("invalid_response", 101)),
    Row("an HTML page", answer(200, "<html>Welcome to the hotel</html>"), UNREADABLE_200),
    Row("a JSON list", answer(200, "[]"), UNREADABLE_200),
    Row("JSON null", answer(200, "null"), UNREADABLE_200),
    Row("half of the JSON", answer(200, '{"success": true'), UNREADABLE_200),
    Row("bad UTF-8", answer(200, b'{"message": "\xff\xfe"}'), UNREADABLE_200),
    Row("deep JSON", deep_json, UNREADABLE_200),
    Row("a number of 10,000 digits", answer(200, '{"data": ' + "1" * 10_000 + "}"), UNREADABLE_200),
    Row("a gzip bomb", gzip_bomb, UNREADABLE_200),
    Row("more than 1 MiB", huge(MEBIBYTE + 1), UNREADABLE_200),
    Row("a body without an end", endless_body(), UNREADABLE_200),
    Row("a chunk without an end", endless_chunk, UNREADABLE),
)


@UNREADABLE_ANSWERS
def test_an_unreadable_answer(row: Row, outcome: Outcome) -> None:
    """What cannot be read is a failure, ambiguous, and is not asked for again."""
    check(row, outcome)


TRACKED = recorded("Event tracked successfully", None)
MEBIBYTE_TRACKED = {**TRACKED, "data": "x" * (MEBIBYTE - len(WRAPPING % ""))}
GOOD_ANSWERS = table(
    Row("a full answer", echo, recorded()),
    Row("201", answer(201, {"success": True}), TRACKED),
    Row("202 without a body", answer(202, b""), TRACKED),
    Row("204", raw(b"HTTP/1.1 204 No Content\r\n\r\n"), TRACKED),
    Row("a body that ends with the connection", raw(b"HTTP/1.0 200 OK\r\n\r\n{}"), TRACKED),
    Row("no reason after the status", raw(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}"), TRACKED),
    Row(
        "a header without a colon",
        raw(b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 2\r\n\r\n{}"),
        TRACKED,
    ),
    Row(
        "a length that is no number", raw(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), TRACKED
    ),
    Row(
        "a byte order mark",
        answer(200, b'\xef\xbb\xbf{"message": "Recorded"}'),
        recorded(data=None),
    ),
    Row("100 Continue ahead of it", informational(100), recorded()),
    Row("102 Processing ahead of it", informational(102, 0.2), recorded()),
    Row("103 Early Hints ahead of it", informational(103), recorded()),
    Row(
        "more than was asked for",
        answer_then_more(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
        recorded(data={"id": "evt_1"}),
    ),
    Row(
        "exactly 1 MiB",
        huge(MEBIBYTE),
        MEBIBYTE_TRACKED,
    ),
)


@GOOD_ANSWERS
def test_a_good_answer(row: Row, outcome: Outcome) -> None:
    """2xx with a JSON object, or with nothing, is a success, however odd the rest."""
    check(row, outcome)


# Time


def test_an_attempt_gets_half_of_the_time_left_and_the_last_one_all_of_it() -> None:
    """A server that hangs once costs half of the time, so a second attempt is made; it may hang."""
    with FaultServer(silent) as server, client_of(server.url, timeout=3, max_retries=1) as client:
        start = monotonic()
        lead(client)
        seconds = monotonic() - start
    first, second = server.requests
    # 1.5 seconds, less what kept the first one on its way.
    assert 1.0 < second.at - first.at < 1.5 + retries.FIRST_BACKOFF + SLACK
    assert 2.9 < seconds < 3.0 + SLACK


@pytest.mark.parametrize("attempts", range(1, 12))
def test_the_wait_doubles_up_to_8_seconds_with_full_jitter(attempts: int) -> None:
    """The wait is anything from 0 to 0.5, 1, 2, 4, 8, 8 ... seconds."""
    longest = min(0.5 * 2 ** (attempts - 1), 8.0)
    waits = [retries.backoff(attempts) for _ in range(2000)]
    assert 0.0 <= min(waits) < longest * 0.1
    assert longest * 0.9 < max(waits) <= longest


def test_a_machine_that_sleeps_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """No attempt is made or counted once the time is over; what failed last is what is told."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds + 0.5))
    behaviour = answer(503, "{}", {"Retry-After": "0.3"})
    with FaultServer(behaviour) as server:
        result = call(server.url, timeout=0.7, max_retries=3)
    assert {**UNAVAILABLE, "retry_after": 0.3} == facts(result)
    assert 1 == len(server.requests)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal to one thread here")
def test_keyboard_interrupt_passes_through_an_attempt() -> None:
    """Ctrl-C while the server is silent ends the call, and the client serves the next one."""

    def interrupt(visit: Visit) -> None:
        visit.request()
        _interrupt_main_thread()
        visit.wait_for_leave()

    with FaultServer(interrupt) as server, client_of(server.url, max_retries=3) as client:
        with pytest.raises(KeyboardInterrupt):
            lead(client, "interrupted")
        server.wait_until_idle()
        server.behaviour = echo
        assert recorded() == lead(client)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal to one thread here")
def test_keyboard_interrupt_passes_through_a_wait() -> None:
    """Ctrl-C between two attempts ends the call, and the client serves the next one."""

    def limit_and_interrupt(visit: Visit) -> None:
        limited("8")(visit)
        _interrupt_main_thread()

    with FaultServer(limit_and_interrupt) as server, client_of(server.url, max_retries=3) as client:
        with pytest.raises(KeyboardInterrupt):
            lead(client, "interrupted")
        server.behaviour = echo
        assert recorded() == lead(client)


def _interrupt_main_thread() -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


# Connecting


def test_nobody_listens() -> None:
    """A refused connection is tried again, and is not ambiguous: nothing has left."""
    with nobody_listens() as url:
        result = call(url, max_retries=1)
    assert failed("connection_error", retryable=True, attempts=2) == facts(result)
    assert "refused" in error_of(result)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux drops what its queue cannot hold")
def test_a_connection_that_is_never_accepted() -> None:
    """A server too busy to accept is a timeout within the call's time, and is not ambiguous."""
    with full_queue() as url:
        result = call(url, timeout=0.5)
    assert failed("timeout_error", retryable=True) == facts(result)


def test_a_name_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed name look-up is a connection error, tried again, and is not ambiguous."""

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    result = call("https://api.invalid", max_retries=1)
    assert failed("connection_error", retryable=True, attempts=2) == facts(result)
    assert "Name or service not known" in error_of(result)


# Doubling


def test_the_caller_may_give_the_key() -> None:
    """A key of the caller's own travels as it is on each attempt, and comes back."""
    with FaultServer(answer(503)) as server, client_of(server.url, max_retries=1) as client:
        result = lead(client, key="order-1001")
    assert result["success"] is False
    assert ["order-1001"] * 2 == server.keys
    assert "order-1001" == result["idempotency_key"]


def test_each_call_has_a_key_of_its_own() -> None:
    """Two calls with the same arguments are two events."""
    with FaultServer() as server, client_of(server.url) as client:
        lead(client)
        lead(client)
    assert 2 == len(set(server.keys))


def test_wrong_arguments_send_nothing() -> None:
    """A call that is refused here reaches no server, and is not ambiguous."""
    with FaultServer() as server, client_of(server.url) as client:
        result = client.track_sale("", "bought", "user_42", "inv_1", -1, "euros")
    assert failed("validation_error", 422, attempts=0) == facts(result)
    assert [] == server.requests
    assert 0 == server.connections


# Connections that are kept


def test_a_connection_is_kept_between_calls() -> None:
    """Calls one after the other share a connection."""
    with FaultServer() as server, client_of(server.url) as client:
        for _ in range(5):
            assert recorded() == lead(client)
    assert [1] * 5 == [request.connection for request in server.requests]


@pytest.mark.parametrize(
    "behaviour",
    [
        close_after_answer,
        answer_then_more(b"HTTP/1.1 408 Too late\r\nContent-Length: 0\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"),
    ],
    ids=["closed in silence", "closed with parting words", "closed as announced"],
)
def test_a_kept_connection_that_the_server_closed(behaviour: Behaviour) -> None:
    """It is noticed before the next call uses it, so no attempt fails and nothing is sent twice."""

    def behave_and_close(visit: Visit) -> None:
        behaviour(visit)
        visit.close()

    with FaultServer(behave_and_close) as server, client_of(server.url, max_retries=0) as client:
        assert lead(client, "one")["success"]
        # In the order of a real pause: by the next call, the end of the connection is there.
        server.wait_until_idle()
        server.behaviour = echo
        assert recorded(data="two") == lead(client, "two")
    assert [1, 2] == [request.connection for request in server.requests]


@pytest.mark.parametrize("status", [102, 103])
def test_a_late_answer_never_goes_to_the_next_call(status: int) -> None:
    """After a 1xx the real answer is still to come: it is its own call's, or nobody's."""
    with calling(informational(status, 0.2)) as (server, client):
        lead(client, "one")
        server.behaviour = answer_late(0.3)
        assert recorded(data="two") == lead(client, "two")


def test_a_closed_client_may_call_again() -> None:
    """close() may be called twice, and a later call opens a new connection."""
    with FaultServer() as server, client_of(server.url) as client:
        lead(client)
        client.close()
        client.close()
        assert recorded() == lead(client)
    assert [1, 2] == [request.connection for request in server.requests]


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host(status: int) -> None:
    """It is not followed: the failure names the host, and the other host receives nothing."""
    with FaultServer() as other:
        location = other.url + "/track/lead?t=secret"
        with calling(redirect(status, location), max_retries=3) as (server, client):
            result = lead(client)
    assert failed("redirect", status) == facts(result)
    assert f"127.0.0.1:{other.port}" in error_of(result)
    assert "secret" not in error_of(result)
    assert (1, 0) == (len(server.requests), other.connections)


@pytest.mark.parametrize(
    "location",
    ["/elsewhere", "https://[half-an-address", "https://a.example:99999/", "", None, "?\xa0\xff"],
    ids=["same host", "half an address", "a port too high", "empty", "none", "no text"],
)
def test_a_redirect_to_anywhere(location: str | None) -> None:
    """Wherever it points, it is not followed, and the sentence can be read."""
    with FaultServer(redirect(302, location)) as server:
        result = call(server.url, max_retries=3)
    assert failed("redirect", 302) == facts(result)
    expected = "The server answered 302." if location is None else "The server redirects to a"
    assert error_of(result).startswith(expected)
    assert 1 == len(server.requests)


def test_a_redirect_in_a_circle() -> None:
    """A server that points to itself gets one request."""

    def point_here(visit: Visit) -> None:
        redirect(308, visit.server.url + "/track/lead")(visit)

    with FaultServer(point_here) as server:
        result = call(server.url, max_retries=3)
    assert failed("redirect", 308) == facts(result)
    assert 1 == len(server.requests)


# TLS


class Files(NamedTuple):
    """A certificate authority, with its files on disk."""

    authority: trustme.CA
    authority_file: str
    cert_file: str
    key_file: str

    def context(self, identity: str = "127.0.0.1", **options: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(identity, **options).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    names = [str(folder / name) for name in ("authority.pem", "client.pem", "client.key")]
    authority = trustme.CA()
    client = authority.issue_cert("client@example.com")
    authority.cert_pem.write_to_path(names[0])
    client.cert_chain_pems[0].write_to_path(names[1])
    client.private_key_pem.write_to_path(names[2])
    return Files(authority, *names)


UNTRUSTED = failed("tls_error")


def test_tls_with_a_trusted_authority(files: Files) -> None:
    """A server whose authority ssl_ca_cert names is called, and its connection is kept."""
    trusting: dict[str, Any] = {"ssl_ca_cert": files.authority_file}
    with calling(echo, tls=files.context(), **trusting) as (server, client):
        assert [recorded()] * 2 == [lead(client), lead(client)]
    assert (1, 0) == (server.connections, server.tls_failures)


def test_tls_with_an_unknown_authority(files: Files) -> None:
    """A certificate of an unknown authority is refused: one attempt, and no request leaves."""
    with FaultServer(tls=files.context()) as server:
        result = call(server.url, max_retries=3)
    assert UNTRUSTED == facts(result)
    assert (1, []) == (server.connections, server.requests)


def test_tls_with_a_self_signed_certificate(files: Files, tmp_path: Path) -> None:
    """A self-signed certificate is refused."""
    other, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = tmp_path / "self-signed.pem"
    pem.write_bytes(other.private_key_pem.bytes() + other.cert_pem.bytes())
    context.load_cert_chain(pem)
    with FaultServer(tls=context) as server:
        result = call(server.url, max_retries=3, ssl_ca_cert=files.authority_file)
    assert UNTRUSTED == facts(result)
    assert "self-signed" in error_of(result).replace("self signed", "self-signed")
    assert (1, []) == (server.connections, server.requests)


@pytest.mark.parametrize(
    ("identity", "options"),
    [
        ("other.example", {}),
        ("127.0.0.1", {"not_after": datetime(2021, 1, 1, tzinfo=timezone.utc)}),
        ("127.0.0.1", {"not_before": datetime(2090, 1, 1, tzinfo=timezone.utc)}),
    ],
    ids=["for another host", "expired", "not valid yet"],
)
def test_tls_with_a_bad_certificate(files: Files, identity: str, options: dict[str, Any]) -> None:
    """A trusted authority's certificate is refused all the same: one attempt, no request."""
    with FaultServer(tls=files.context(identity, **options)) as server:
        result = call(server.url, max_retries=3, ssl_ca_cert=files.authority_file)
    assert UNTRUSTED == facts(result)
    assert (1, []) == (server.connections, server.requests)


def _context_for_known_clients(files: Files) -> ssl.SSLContext:
    context = files.context()
    context.verify_mode = ssl.CERT_REQUIRED
    files.authority.configure_trust(context)
    return context


def test_tls_with_a_client_certificate(files: Files) -> None:
    """cert_file and key_file prove who calls."""
    how: dict[str, Any] = {"cert_file": files.cert_file, "key_file": files.key_file}
    with FaultServer(tls=_context_for_known_clients(files)) as server:
        assert recorded() == call(server.url, ssl_ca_cert=files.authority_file, **how)


def test_tls_without_the_client_certificate_that_is_asked_for(files: Files) -> None:
    """A server that asks for a client certificate refuses the call: one attempt."""
    with FaultServer(tls=_context_for_known_clients(files)) as server:
        result = call(server.url, max_retries=3, ssl_ca_cert=files.authority_file)
    # The server says so after TLS 1.3's handshake, when the request may be on its way.
    assert UNTRUSTED == {**facts(result), "ambiguous": False}
    assert [] == server.requests


def test_tls_files_that_cannot_be_used(files: Files) -> None:
    """A missing CA file is a tls_error, not an exception, and nothing is sent."""
    with FaultServer(tls=files.context()) as server:
        result = call(server.url, max_retries=3, ssl_ca_cert="/no/such/file.pem")
    assert UNTRUSTED == facts(result)
    assert 0 == server.connections


def test_a_key_with_a_password_is_not_asked_for_it(files: Files, tmp_path: Path) -> None:
    """A client key that is encrypted is a tls_error; nobody sits at a terminal to unlock it."""
    locked = tmp_path / "locked.key"
    key = serialization.load_pem_private_key(Path(files.key_file).read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"s3cret"),
        )
    )
    how: dict[str, Any] = {"cert_file": files.cert_file, "key_file": str(locked)}
    assert UNTRUSTED == facts(call("https://127.0.0.1:9", **how))


def test_https_to_a_server_that_speaks_http(files: Files) -> None:
    """It is a tls_error: one attempt, and no request leaves."""
    with FaultServer(plain_http) as server:
        url = server.url.replace("http:", "https:")
        result = call(url, max_retries=3, ssl_ca_cert=files.authority_file)
    assert UNTRUSTED == facts(result)
    assert 1 == server.connections


def test_http_to_a_server_that_speaks_https(files: Files) -> None:
    """It is a failure, and no request is read."""
    with FaultServer(tls=files.context()) as server:
        result = call(server.url.replace("https:", "http:"))
    assert result["success"] is False
    assert result["type"] in {"connection_error", "invalid_response"}
    assert [] == server.requests


def test_a_tls_handshake_that_is_never_answered(files: Files) -> None:
    """Silence in the handshake is a timeout in time, and is not ambiguous."""
    with FaultServer(silent_before_reading) as server:
        url = server.url.replace("http:", "https:")
        result = call(url, timeout=0.5, ssl_ca_cert=files.authority_file)
    assert failed("timeout_error", retryable=True) == facts(result)


def test_a_tls_handshake_that_breaks_off(files: Files) -> None:
    """A reset in the handshake is a connection error, tried again, and is not ambiguous."""
    with FaultServer(reset_before_reading) as server:
        url = server.url.replace("http:", "https:")
        result = call(url, max_retries=1, ssl_ca_cert=files.authority_file)
    assert failed("connection_error", retryable=True, attempts=2) == facts(result)
    assert 2 == server.connections


# Proxies


def call_by(url: str, proxy: str, files: Files, **options: Any) -> TrackResult:
    return call(url, proxy=proxy, ssl_ca_cert=files.authority_file, **options)


def test_plain_http_through_a_proxy(files: Files) -> None:
    """The proxy gets the whole URL, to forward it."""
    with nobody_listens() as url, FaultServer() as proxy:
        assert recorded() == call_by(url + "/base", proxy.url, files)
    (request,) = proxy.requests
    assert ("POST", url + "/base/track/lead") == (request.method, request.path)
    assert urlsplit(url).netloc == request.headers["host"]


def test_https_through_a_proxy(files: Files) -> None:
    """The proxy is asked for a tunnel and sees neither path nor token nor event."""
    with FaultServer(tls=files.context()) as server, FaultServer(tunnel) as proxy:
        trusting: dict[str, Any] = {"proxy": proxy.url, "ssl_ca_cert": files.authority_file}
        client = client_of(server.url, **trusting)
        assert [recorded()] * 2 == [lead(client), lead(client)]
        client.close()
    (request,) = proxy.requests
    assert ("CONNECT", f"127.0.0.1:{server.port}") == (request.method, request.path)
    assert "authorization" not in request.headers
    assert ["/track/lead"] * 2 == [each.path for each in server.requests]


def test_https_through_an_https_proxy(files: Files) -> None:
    """The way to the proxy may be TLS too."""
    context = files.context()
    with FaultServer(tls=context) as server, FaultServer(tunnel, tls=context) as proxy:
        assert recorded() == call_by(server.url, proxy.url, files)
    assert (1, 1) == (len(proxy.requests), len(server.requests))


def test_the_credentials_of_a_proxy_go_to_the_proxy_alone(files: Files) -> None:
    """User and password reach the proxy, decoded, and never the server."""
    with FaultServer(tls=files.context()) as server, FaultServer(tunnel) as proxy:
        url = proxy.url.replace("//", "//us%40er:pa%3Ass@")
        assert recorded() == call_by(server.url, url, files)
    # base64 of us@er:pa:ss
    assert "Basic dXNAZXI6cGE6c3M=" == proxy.requests[0].headers["proxy-authorization"]
    assert "proxy-authorization" not in server.requests[0].headers
    assert "Bearer token" == server.requests[0].headers["authorization"]


def test_a_proxy_that_refuses_connections(files: Files) -> None:
    """It is a connection error, tried again, and is not ambiguous."""
    with nobody_listens() as proxy:
        result = call_by("https://127.0.0.1:9", proxy, files, max_retries=1)
    assert failed("connection_error", retryable=True, attempts=2) == facts(result)


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (answer(407, "who?", {"Proxy-Authenticate": "Basic"}), "connection_error"),
        (answer(502, "no"), "connection_error"),
        (redirect(302, "https://a.example/"), "connection_error"),
        (close_after_reading, "connection_error"),
        (reset_after_reading, "connection_error"),
        (garbage, "connection_error"),
        (silent, "timeout_error"),
        (drip_header, "timeout_error"),
        (raw(b"HTTP/1.1 200 Connected\r\n\r\n"), "connection_error"),
        (in_turn(answer(200, "<html>Welcome to the hotel</html>")), "timeout_error"),
    ],
    ids=[
        "407",
        "502",
        "redirect",
        "hang-up",
        "reset",
        "garbage",
        "silence",
        "a dripping header",
        "a tunnel that ends at once",
        "a page in place of a tunnel",
    ],
)
def test_a_proxy_that_makes_no_tunnel(files: Files, behaviour: Behaviour, kind: str) -> None:
    """The failure comes in time and is not ambiguous: the event has not left."""
    with FaultServer(behaviour) as proxy:
        result = call_by("https://127.0.0.1:9", proxy.url, files, timeout=0.8)
    assert failed(kind, retryable=True) == facts(result)
    assert ["CONNECT"] == [request.method for request in proxy.requests]


def test_a_proxy_with_an_ipv6_address(files: Files) -> None:
    """It is found by its address in brackets."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with FaultServer(tls=files.context()) as server, FaultServer(tunnel, host="::1") as proxy:
        assert recorded() == facts(call_by(server.url, proxy.url, files))


def test_407_to_plain_http(files: Files) -> None:
    """A proxy's own answer to a forwarded request is told by its status: one attempt."""
    with nobody_listens() as url, FaultServer(answer(407, "who?")) as proxy:
        result = call_by(url, proxy.url, files, max_retries=3)
    assert failed("bad_request", 407) == facts(result)
    assert 1 == len(proxy.requests)


def test_a_slow_tunnel_to_a_silent_server(files: Files) -> None:
    """The time that the tunnel took is counted: the call still returns when its time is over."""
    with FaultServer(silent, tls=files.context()) as server, FaultServer(slow_tunnel(0.6)) as proxy:
        result = call_by(server.url, proxy.url, files, timeout=3.0)
    assert LATE == facts(result)


def test_no_time_left_is_a_timeout() -> None:
    """A request that cannot be sent in time is not sent, and says so."""
    with FaultServer() as server:
        api = TrackingApi(ApiClient(Configuration(host=server.url)))
        payload = LeadPayload(event_name="signup", customer_external_id="user_1")
        with pytest.raises(TimeoutException) as caught:
            api.track_lead(payload, _request_timeout=-1.0)
    assert caught.value.sent is False
    assert [] == server.requests


def test_waits_grow_to_a_limit_however_often() -> None:
    """The thousandth retry waits no longer than the tenth."""
    assert all(0 <= retries.backoff(attempts) <= 8 for attempts in (1, 5, 10, 100, 10_000))


# The page about it


def test_each_test_that_the_page_names_exists() -> None:
    """docs/reliability.md promises nothing that no test shows, and shows 45 faults or more."""
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+(?:\[[^]`]+\])?)` \|$", page, re.MULTILINE)
    ids = _test_ids()
    assert [] == [name for name in named if name not in ids]
    assert len(set(named)) >= 45


def _test_ids() -> set[str]:
    """The tests of this module with their rows, and those of its neighbours."""
    names: set[str] = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for name in [each for each in globals() if each.startswith("test_")]:
        for mark in getattr(globals()[name], "pytestmark", []):
            if mark.name == "parametrize":
                ids = mark.kwargs.get("ids") or mark.args[1]
                names |= {f"{name}[{each}]" for each in ids}
    return names
