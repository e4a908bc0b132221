"""The sandbox fails when it is told to, and a client copes."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit

import pytest
import urllib3
from test_sandbox_api import listening

from cms_python import CMSClient, TrackFailure, TrackSuccess
from cms_python.sandbox import Sandbox
from cms_python.sandbox.__main__ import main
from cms_python.sandbox.faults import KINDS

ROOT = Path(__file__).parent.parent
POOL = urllib3.PoolManager(maxsize=16, retries=False, timeout=10)


@pytest.fixture(autouse=True, scope="module")
def _no_connection_stays_open() -> Iterator[None]:
    yield
    POOL.clear()


@pytest.fixture
def once(client: CMSClient) -> CMSClient:
    """The client, when it shall not try again."""
    return client.with_options(max_retries=0)


def lead(client: CMSClient, number: int = 1) -> TrackSuccess | TrackFailure:
    return client.track_lead(
        click_id="id_1", event_name="signup", customer_external_id=f"user_{number}"
    )


def failed(client: CMSClient, number: int = 1) -> TrackFailure:
    result = lead(client, number)
    assert result["success"] is False
    return result


def ask(sandbox: Sandbox, address: str) -> Any:
    return POOL.request("GET", f"{sandbox.url}/_sandbox/{address}").json()


def entries(sandbox: Sandbox) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(sandbox, "events")["events"]
    return found


def put_faults(sandbox: Sandbox, body: Any) -> urllib3.BaseHTTPResponse:
    return POOL.request("PUT", f"{sandbox.url}/_sandbox/faults", json=body)


# From code, through a real client


def test_the_next_requests_fail_and_the_client_tries_again(
    sandbox: Sandbox, client: CMSClient
) -> None:
    """Two failures, then success: three requests under one key, one event."""
    sandbox.fail_next(503, times=2)

    assert lead(client)["success"] is True
    assert [(entry["status"], entry["fault"]) for entry in entries(sandbox)] == [
        (503, "status"),
        (503, "status"),
        (200, None),
    ]
    assert len({entry["idempotency_key"] for entry in entries(sandbox)}) == 1
    assert len(sandbox.events) == 1
    assert ask(sandbox, "faults") == {"faults": []}


def test_a_lost_answer_does_not_double_the_event(sandbox: Sandbox, client: CMSClient) -> None:
    """The event was recorded, the answer lost: the same key gets the success, and one event."""
    sandbox.lose_next_answer()

    assert lead(client)["success"] is True
    assert len(sandbox.events) == 1
    shown = ("status", "fault", "counted", "replayed", "click_id")
    assert [tuple(entry[name] for name in shown) for entry in entries(sandbox)] == [
        (0, "drop_after", True, False, "id_1"),
        (200, None, False, True, "id_1"),
    ]
    lost, answered = entries(sandbox)
    assert (lost["answer"], lost["answer_headers"]) == (None, {})
    assert lost["idempotency_key"] == answered["idempotency_key"]


def test_a_dropped_request_is_not_carried_out(sandbox: Sandbox, once: CMSClient) -> None:
    """The connection closes before anything is recorded."""
    sandbox.drop_next()

    assert failed(once)["type"] == "connection_error"
    assert sandbox.events == []
    assert [(e["status"], e["fault"], e["counted"]) for e in entries(sandbox)] == [
        (0, "drop_before", False)
    ]
    assert lead(once)["success"] is True


def test_a_delayed_answer_comes_too_late(sandbox: Sandbox, client: CMSClient) -> None:
    """The event counts at once, the client gives up, and can't know: it is ambiguous."""
    sandbox.delay_next(5, times=None)

    result = failed(client.with_options(timeout=1.0, max_retries=0))
    assert (result["type"], result["ambiguous"]) == ("timeout_error", True)
    assert [(e["status"], e["fault"], e["counted"]) for e in entries(sandbox)] == [
        (200, "delay", True)
    ]
    sandbox.clear_faults()
    assert lead(client)["success"] is True


def test_a_silent_server_answers_nobody(sandbox: Sandbox, client: CMSClient) -> None:
    """No answer at all, and nothing recorded; the client's own deadline ends it."""
    sandbox.silence_next()

    result = failed(client.with_options(timeout=1.0, max_retries=0))
    assert (result["type"], result["status_code"]) == ("timeout_error", 0)
    assert (sandbox.events, entries(sandbox)[0]["fault"]) == ([], "silence")


def test_silence_ends_with_the_sandbox() -> None:
    """A stop waits neither for those that are kept waiting for ever nor for a delay."""
    with Sandbox() as sandbox, listening(sandbox) as page, ThreadPoolExecutor(2) as threads:
        page.after_greeting()
        sandbox.silence_next()
        sandbox.delay_next(3600, times=None)
        with CMSClient("any-token", sandbox.url, timeout=30, max_retries=0) as client:
            silent = threads.submit(failed, client)
            page.wait_for("event")
            late = threads.submit(lead, client, 2)
            page.wait_for("event")
            began = time.monotonic()
            sandbox.stop()
            assert time.monotonic() - began < 10
            assert silent.result()["type"] == "connection_error"
            assert late.result()["success"] is True


def test_a_fault_needs_no_token(sandbox: Sandbox) -> None:
    """A gateway fails before anyone has looked at the request."""
    sandbox.fail_next(502)
    reply = POOL.request("POST", f"{sandbox.url}/track/lead")
    assert (reply.status, reply.json()["type"]) == (502, "bad_gateway")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "bad_request"),
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "not_found"),
        (409, "conflict"),
        (418, "bad_request"),
        (422, "unprocessable_entity"),
        (429, "rate_limit_exceeded"),
        (500, "internal_server_error"),
        (503, "service_unavailable"),
        (504, "gateway_timeout"),
        (599, "internal_server_error"),
    ],
)
def test_a_failure_has_the_documented_shape(
    sandbox: Sandbox, once: CMSClient, status: int, kind: str
) -> None:
    """With the type that belongs to the status."""
    sandbox.fail_next(status)
    result = failed(once)
    assert (result["status_code"], result["type"]) == (status, kind)
    assert result["error"] == "The sandbox was told to fail."
    assert entries(sandbox)[0]["type"] == kind


@pytest.mark.parametrize("wait", ["7", 7])
def test_a_failure_may_ask_to_wait(sandbox: Sandbox, once: CMSClient, wait: str | int) -> None:
    """As seconds or any other text in Retry-After."""
    sandbox.fail_next(429, retry_after=wait)
    assert failed(once)["retry_after"] == 7.0
    assert entries(sandbox)[0]["answer_headers"]["Retry-After"] == "7"


def test_a_gateways_page_is_no_answer(sandbox: Sandbox, once: CMSClient) -> None:
    """HTML, as proxies send it."""
    put_faults(sandbox, {"faults": [{"kind": "html_502"}]})
    result = failed(once)
    assert result["status_code"] == 502
    entry = entries(sandbox)[0]
    assert (entry["answer_headers"]["Content-Type"], entry["type"]) == ("text/html", None)
    assert "<title>502 Bad Gateway</title>" in entry["answer"]


def test_failing_by_chance_hits_its_share(sandbox: Sandbox, once: CMSClient) -> None:
    """Of 200 requests about half; never all and never none."""
    sandbox.fail_randomly(0.5, status=500)
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda number: lead(once, number), range(200)))
    assert 50 < sum(result["success"] for result in results) < 150
    assert len(sandbox.events) == sum(result["success"] for result in results)


@pytest.mark.parametrize(("probability", "expected"), [(0, True), (1, False)])
def test_chance_has_two_ends(
    sandbox: Sandbox, once: CMSClient, probability: int, expected: bool
) -> None:
    """0 is never, 1 is always."""
    sandbox.fail_randomly(probability)
    assert {lead(once, number)["success"] for number in range(5)} == {expected}


def test_a_delay_adds_to_what_else_happens(sandbox: Sandbox, once: CMSClient) -> None:
    """All delays, one after the other, and of the other faults the first."""
    sandbox.delay_next(0.1)
    sandbox.fail_next(500)
    sandbox.delay_next(0.1)
    sandbox.fail_next(503)
    began = time.monotonic()
    assert failed(once)["status_code"] == 500
    assert time.monotonic() - began >= 0.2
    assert [fault["status"] for fault in ask(sandbox, "faults")["faults"]] == [503]


def test_faults_are_taken_once_each_however_many_ask(sandbox: Sandbox, once: CMSClient) -> None:
    """Sixteen threads meet exactly as many failures as there are."""
    sandbox.fail_next(500, times=10)
    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(lambda number: lead(once, number), range(40)))
    assert sum(result["success"] for result in results) == 30


def test_the_sandboxs_own_pages_never_fail(sandbox: Sandbox) -> None:
    """Faults are for /track alone: who set them can take them back."""
    sandbox.fail_randomly(1)
    addresses = ["/", "/_sandbox/healthz", "/_sandbox/events", "/_sandbox/faults"]
    replies = [POOL.request("GET", sandbox.url + address) for address in addresses]
    assert [reply.status for reply in replies] == [200] * 4


def test_a_foreign_request_uses_up_no_fault(sandbox: Sandbox) -> None:
    """What is refused for its Host was not the application's request."""
    sandbox.fail_next(500)
    url = f"{sandbox.url}/track/lead"
    assert POOL.request("POST", url, headers={"Host": "evil.example"}).status == 403
    assert POOL.request("POST", url).status == 500


def test_a_reset_clears_the_faults(sandbox: Sandbox, once: CMSClient) -> None:
    """The next test begins with a sandbox that behaves."""
    sandbox.fail_next(500, times=None)
    sandbox.reset()
    assert lead(once)["success"] is True


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda sandbox: sandbox.fail_next(200), "status must be"),
        (lambda sandbox: sandbox.fail_next(503, times=0), "times must be"),
        (lambda sandbox: sandbox.fail_next(503, retry_after="1\r\nX: y"), "retry_after must be"),
        (lambda sandbox: sandbox.fail_randomly(1.5), "probability must be"),
        (lambda sandbox: sandbox.delay_next(-1), "seconds must be"),
        (lambda sandbox: sandbox.delay_next(float("nan")), "seconds must be"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(
    sandbox: Sandbox, attempt: Callable[[Sandbox], None], message: str
) -> None:
    """At once, where it is written, and not by a test that passes for no reason."""
    with pytest.raises(ValueError, match=message):
        attempt(sandbox)
    assert ask(sandbox, "faults") == {"faults": []}


# Over the JSON API


def test_faults_are_set_shown_and_cleared(sandbox: Sandbox, once: CMSClient) -> None:
    """PUT replaces them, GET shows what remains, DELETE takes them back."""
    sandbox.fail_next(500)
    given = [
        {"kind": "status", "status": 503, "retry_after": "2", "times": 2},
        {"kind": "delay", "seconds": 0.01, "times": None, "probability": None},
        {"kind": "drop_after", "probability": 0.0},
    ]
    unset = dict.fromkeys(("status", "retry_after", "seconds", "times", "probability"))
    expected = [{**unset, **fault} for fault in given]

    reply = put_faults(sandbox, {"faults": given})
    assert (reply.status, reply.json()) == (200, {"faults": expected})
    failed(once)
    expected[0]["times"] = 1
    assert ask(sandbox, "faults") == {"faults": expected}
    assert put_faults(sandbox, ask(sandbox, "faults")).json() == {"faults": expected}
    cleared = POOL.request(
        "DELETE", f"{sandbox.url}/_sandbox/faults", headers={"Content-Type": "application/json"}
    )
    assert (cleared.status, cleared.json()) == (200, {"faults": []})
    assert lead(once)["success"] is True


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_has_defaults(sandbox: Sandbox, kind: str) -> None:
    """Its kind alone is enough."""
    reply = put_faults(sandbox, {"faults": [{"kind": kind, "times": 1}]})
    assert (reply.status, reply.json()["faults"][0]["kind"]) == (200, kind)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "faults"),
        ({}, "faults"),
        ({"faults": {}}, "faults"),
        ({"faults": [], "more": 1}, "faults"),
        ({"faults": [5]}, "kind"),
        ({"faults": [{}]}, "kind"),
        ({"faults": [{"kind": "flood"}]}, "kind"),
        ({"faults": [{"kind": ["status"]}]}, "kind"),
        ({"faults": [{"kind": "status", "status": 302}]}, "status"),
        ({"faults": [{"kind": "status", "status": True}]}, "status"),
        ({"faults": [{"kind": "status", "status": "503"}]}, "status"),
        ({"faults": [{"kind": "status", "retry_after": "\n"}]}, "retry_after"),
        ({"faults": [{"kind": "status", "retry_after": 2}]}, "retry_after"),
        ({"faults": [{"kind": "delay", "seconds": 1e9}]}, "seconds"),
        ({"faults": [{"kind": "delay", "times": 1.5}]}, "times"),
        ({"faults": [{"kind": "delay", "probability": "1"}]}, "probability"),
        ({"faults": [{"kind": "delay", "colour": 1}]}, "colour"),
    ],
)
def test_a_fault_that_is_none_changes_nothing(sandbox: Sandbox, body: Any, field: str) -> None:
    """The mistake is named, and the faults stay as they were."""
    sandbox.fail_next(500)
    before = ask(sandbox, "faults")
    reply = put_faults(sandbox, body)
    assert (reply.status, list(reply.json()["details"])) == (400, [field])
    assert ask(sandbox, "faults") == before


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff"])
def test_faults_that_are_no_json_are_refused(sandbox: Sandbox, body: bytes) -> None:
    """With 400, as every body that can't be read."""
    reply = POOL.request(
        "PUT",
        f"{sandbox.url}/_sandbox/faults",
        body=body,
        headers={"Content-Type": "application/json"},
    )
    assert (reply.status, reply.json()["type"]) == (400, "bad_request")


# From the command line


@contextmanager
def command(*arguments: str) -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-m", "cms_python.sandbox", *arguments],
        cwd=ROOT,
        env={**os.environ},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().rstrip("\n")
        finally:
            process.send_signal(signal.SIGTERM)


def test_the_command_fails_on_purpose(tmp_path: Path) -> None:
    """Failures in their order, answers delayed, everything kept in a file."""
    path = tmp_path / "sandbox.db"
    options = ["--fail", "503:2", "--fail", "429", "--delay", "0.01"]
    with command("--db", str(path), "--duplicates", "replay", *options) as url:
        reply = POOL.request("GET", f"{url}/_sandbox/faults")
        assert [
            (fault["kind"], fault["status"], fault["seconds"], fault["times"])
            for fault in reply.json()["faults"]
        ] == [("delay", None, 0.01, None), ("status", 503, None, 2), ("status", 429, None, 1)]
        with CMSClient("any-token", url, max_retries=0) as client:
            statuses = [lead(client).get("status_code") for _ in range(4)]
            sales = [
                client.track_sale("id_1", "bought", "user_1", "inv_1", 1, "USD")["success"]
                for _ in range(2)
            ]
        assert (statuses, sales) == ([503, 503, 429, None], [True, True])
    assert [event.event_name for event in Sandbox(db=path).events] == ["signup", "bought"]


def test_the_command_fails_by_chance_and_listens_elsewhere() -> None:
    """A share of 1 is every request; the host is the one that was asked for."""
    with command("--fail-rate", "1", "--host", "127.0.0.2") as url:
        assert url.startswith("http://127.0.0.2:")
        with CMSClient("any-token", url, max_retries=0) as client:
            assert {failed(client, number)["status_code"] for number in range(5)} == {503}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fail", "200"], "status from 400 to 599"),
        (["--fail", "503:0"], "a number from 1 on"),
        (["--fail", "503:x"], "a number from 1 on"),
        (["--fail-rate", "2"], "a number from 0 to 1"),
        (["--delay", "-1"], "a number from 0 to 3600"),
        (["--delay", "nan"], "a number from 0 to 3600"),
        (["--duplicates", "ignore"], "invalid choice"),
    ],
)
def test_the_command_refuses_what_cannot_be(
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line says what is possible."""
    monkeypatch.setattr(sys, "argv", ["sandbox", *options])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in capsys.readouterr().err


def test_the_command_tells_when_its_file_cannot_be_used(tmp_path: Path) -> None:
    """One line and no traceback."""
    ran = subprocess.run(
        [sys.executable, "-m", "cms_python.sandbox", "--db", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (1, "", 1)


# Connections


def test_a_failure_keeps_the_connection_and_a_drop_ends_it(sandbox: Sandbox) -> None:
    """As real gateways do; the next request on a new connection is well."""
    connection = http.client.HTTPConnection(urlsplit(sandbox.url).netloc, timeout=10)
    sandbox.fail_next(503)
    connection.request("POST", "/track/lead")
    response = connection.getresponse()
    response.read()
    kept = connection.sock
    sandbox.drop_next()
    connection.request("POST", "/track/lead")
    assert connection.sock is kept
    with pytest.raises(http.client.RemoteDisconnected):
        connection.getresponse()
    connection.close()
    assert response.status == 503
    assert ask(sandbox, "healthz") == {"status": "ok"}
