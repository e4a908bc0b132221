"""An event as a job of a task queue: one attempt, and what to do with the job then."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from fault_server import (
    RECORDED,
    Behaviour,
    FaultServer,
    answer,
    echo,
    nobody_listens,
    redirect,
    reset_after_reading,
)
from forking import exit_status, fork, threads_beside_fork

from cms_python import CMSClient, Event
from cms_python.delivery import jobs
from cms_python.delivery.jobs import MOST_UNKNOWN, Outcome, SharedClient, deliver

SALE = {
    "click_id": "id_123",
    "event_name": "purchase",
    "customer_external_id": "user_42",
    "invoice_id": "inv_1",
    "amount": 4999,
    "currency": "usd",
    "customer_email": "jane@example.com",
    "timestamp": "2026-01-31T09:30:00.123456+01:00",
}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture
def client(server: FaultServer) -> Iterator[CMSClient]:
    with CMSClient("a-token", server.url) as made:
        yield made


def job() -> dict[str, Any]:
    """A sale as a queue hands it over: through JSON."""
    made: dict[str, Any] = json.loads(json.dumps(Event.create("sale", SALE, "key-1").to_dict()))
    return made


def next_try(outcome: Outcome) -> dict[str, Any]:
    """The job of an outcome, as if its wait were over."""
    made: dict[str, Any] = json.loads(json.dumps({**outcome.job, "not_before": 0.0}))
    return made


def test_an_event_comes_out_of_a_queue_as_it_went_in() -> None:
    """Equal, and the same bytes when it is sent."""
    event = Event.create("sale", SALE)
    again = Event.from_dict(json.loads(json.dumps(event.to_dict())))
    assert event == again
    assert event.payload.to_json() == again.payload.to_json()


def test_a_job_is_delivered(server: FaultServer, client: CMSClient) -> None:
    """The outcome has the event and the result of the call."""
    outcome = deliver(job(), client)
    assert ("delivered", 0.0) == (outcome.verdict, outcome.wait)
    assert outcome.result == {"success": True, "message": "Recorded", "data": "purchase"}
    assert outcome.event is not None
    assert "key-1" == outcome.event.idempotency_key == server.requests[0].key


def test_what_was_recorded_before_is_delivered(server: FaultServer, client: CMSClient) -> None:
    """A 409 says so; the result is a success."""
    server.behaviour = answer(409, {"success": False, "error": "Known"})
    outcome = deliver(job(), client)
    assert "delivered" == outcome.verdict
    assert outcome.result is not None
    assert outcome.result["success"] is True


@pytest.mark.parametrize(
    "behaviour",
    [
        answer(503, {"error": "Busy"}),
        answer(429, {"error": "Slow down"}),
        answer(200, "<html>A hotel's page</html>"),
        reset_after_reading,
        answer(401, {"error": "Expired"}),
        answer(403, {"error": "Not yours"}),
        redirect(302, "https://example.com/"),
    ],
)
def test_what_may_get_through_later_is_tried_again(
    behaviour: Behaviour, server: FaultServer, client: CMSClient
) -> None:
    """The same bytes under the same key, after one request at a time."""
    server.behaviour = behaviour
    first = deliver(job(), client)
    second = deliver(next_try(first), client)
    assert ("again", "again") == (first.verdict, second.verdict)
    assert (1, 2) == (first.job["attempts"], second.job["attempts"])
    one, two = server.requests
    assert (one.key, one.body) == (two.key, two.body)


def test_no_server_at_all_is_for_later() -> None:
    """A connection that is refused says nothing of the event."""
    with nobody_listens() as url, CMSClient("a-token", url) as client:
        assert "again" == deliver(job(), client).verdict


def test_the_wait_grows(
    server: FaultServer, client: CMSClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is random, up to 1 second at first, then 2, then 4."""
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    server.behaviour = answer(503, {"error": "Busy"})
    outcome, waits = deliver(job(), client), []
    for _ in range(3):
        waits.append(outcome.wait)
        outcome = deliver(next_try(outcome), client)
    assert [1.0, 2.0, 4.0] == waits


def test_the_server_is_not_asked_before_the_time_that_it_named(
    server: FaultServer, client: CMSClient
) -> None:
    """A queue that comes too early, since it cannot wait for so long, makes no request."""
    server.behaviour = answer(429, {"error": "Slow down"}, {"Retry-After": "7200"})
    outcome = deliver(job(), client)
    assert 7200.0 == outcome.wait
    early = deliver(outcome.job, client)
    assert "again" == early.verdict
    assert 7190.0 < early.wait <= 7200.0
    assert (outcome.job, None) == (early.job, early.result)
    assert 1 == len(server.requests)


@pytest.mark.parametrize(
    "behaviour",
    [
        answer(400, {"success": False, "error": "No"}),
        answer(422, {"success": False, "error": "No", "details": {"amount": "too high"}}),
        answer(200, {"success": False, "error": "No"}),
    ],
)
def test_what_the_api_refuses_is_dead(
    behaviour: Behaviour, server: FaultServer, client: CMSClient
) -> None:
    """Its job, for a dead letter queue, tells why, and can be delivered once that is mended."""
    server.behaviour = behaviour
    outcome = deliver(job(), client)
    assert ("dead", "No") == (outcome.verdict, outcome.job["error"])
    assert "attempts" not in outcome.job
    server.behaviour = echo
    assert "delivered" == deliver(outcome.job, client).verdict


@pytest.mark.parametrize(
    "behaviour",
    [
        answer(404, {"success": False, "error": "No such click"}),
        answer(422, {"success": False, "error": "No", "details": {"clickId": "is required"}}),
    ],
)
def test_a_click_that_is_not_known_is_asked_for_some_times(
    behaviour: Behaviour, server: FaultServer, client: CMSClient
) -> None:
    """The deferred lead that brings it may be behind in the queue; in the end the event is dead."""
    server.behaviour = behaviour
    outcome = deliver(job(), client)
    while outcome.verdict == "again":
        outcome = deliver(next_try(outcome), client)
    assert ("dead", MOST_UNKNOWN) == (outcome.verdict, len(server.requests))


def test_an_event_that_is_too_old_is_dead_at_its_next_failure(
    server: FaultServer, client: CMSClient
) -> None:
    """After 7 days, or as many seconds as `max_age` says; but one more attempt is made."""
    old = job()
    old["created_at"] = (datetime.now(timezone.utc) - timedelta(days=8)).timestamp()
    server.behaviour = answer(503, {"error": "Busy"})
    assert "dead" == deliver(old, client).verdict
    assert "again" == deliver(old, client, max_age=9 * 24 * 3600).verdict
    server.behaviour = echo
    assert "delivered" == deliver(old, client).verdict


def test_a_wrong_token_makes_no_event_dead(server: FaultServer, client: CMSClient) -> None:
    """However old it is: the token is wrong, not the event."""
    old = {**job(), "created_at": time.time() - 30 * 24 * 3600}
    server.behaviour = answer(401, {"error": "Expired"})
    outcome = deliver(old, client)
    assert "again" == outcome.verdict
    assert outcome.wait >= 5.0


def test_a_wrong_token_is_told_of_once(
    server: FaultServer, client: CMSClient, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, not one an event, and again after it was right in between."""
    wrong, right = answer(401, {"error": "Expired"}), answer(200, RECORDED)
    for behaviour in (right, wrong, wrong, right, wrong):
        server.behaviour = behaviour
        deliver(job(), client)
    lines = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert 2 * ["Events wait in the queue: status 401, Expired"] == lines
    server.behaviour = right
    deliver(job(), client)


@pytest.mark.parametrize(
    "junk",
    [
        {},
        [],
        None,
        "a text",
        {"kind": "lead"},
        {**job(), "kind": "refund"},
        {**job(), "idempotency_key": "a key"},
        {**job(), "payload": {"eventName": "a"}},
        {**job(), "payload": None},
        {**job(), "created_at": float("nan")},
        {**job(), "created_at": "yesterday"},
    ],
)
def test_what_is_no_job_is_dead(
    junk: Any, server: FaultServer, client: CMSClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is sent and nothing raised; log and result say what is wrong, without the data."""
    outcome = deliver(junk, client)
    assert ("dead", None) == (outcome.verdict, outcome.event)
    assert outcome.result is not None
    assert outcome.result["success"] is False
    assert "can read no event" in caplog.text
    assert outcome.result["details"] == {
        "job": "This is no event: Event.to_dict() makes one that can be read again"
    }
    assert [] == server.requests


@pytest.mark.parametrize("count", [None, "many", [], float("inf"), float("nan"), -(10**400)])
def test_counts_that_make_no_sense_do_not_lose_an_event(
    count: Any, server: FaultServer, client: CMSClient
) -> None:
    """The event is what matters."""
    assert "delivered" == deliver({**job(), "attempts": count}, client).verdict
    server.behaviour = answer(503, {"error": "Busy"})
    assert "again" == deliver({**job(), "attempts": count}, client).verdict


def test_a_time_that_no_server_asks_for_is_not_waited_for(client: CMSClient) -> None:
    """The clock of the machine that wrote it was wrong."""
    assert "delivered" == deliver({**job(), "not_before": 1e300}, client).verdict


def test_a_pause_is_as_long_as_the_server_asks(server: FaultServer, client: CMSClient) -> None:
    """A 403 may have a Retry-After too."""
    server.behaviour = answer(403, {"error": "Not yet"}, {"Retry-After": "3600"})
    assert 3600.0 == deliver(job(), client).wait


@pytest.mark.parametrize("max_age", [None, "7", -1, True, float("nan")])
def test_an_age_that_cannot_be_used_is_refused(
    max_age: Any, server: FaultServer, client: CMSClient
) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match="max_age must be a number of seconds"):
        deliver(job(), client, max_age=max_age)
    assert [] == server.requests


def test_the_client_comes_from_the_environment(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a process, made at the first job; without a token it raises."""
    own = SharedClient(CMSClient)
    monkeypatch.setattr(jobs, "_own_client", own)
    with pytest.raises(ValueError, match="token is missing"):
        deliver(job())
    monkeypatch.setenv("CMS_BEARER_TOKEN", "a-token")
    monkeypatch.setenv("CMS_HOST", server.url)
    assert ["delivered", "delivered"] == [deliver(job()).verdict for _ in range(2)]
    assert 1 == server.connections
    own.get().close()


def test_threads_that_begin_at_once_share_a_client() -> None:
    """It is made once, however long that takes."""
    both_are_making, made = threading.Barrier(2), []

    def make() -> CMSClient:
        with suppress(threading.BrokenBarrierError):
            both_are_making.wait(timeout=1)
        made.append(CMSClient("a-token"))
        return made[-1]

    shared = SharedClient(make)
    with ThreadPoolExecutor(2) as pool:
        got = [each.result() for each in [pool.submit(shared.get) for _ in range(2)]]
    assert 2 * made == got


@threads_beside_fork
def test_a_child_does_not_wait_for_the_client_that_its_parent_is_making() -> None:
    """It makes one of its own; the thread that makes the other is not there any more."""
    parent, is_making, may_end = os.getpid(), threading.Event(), threading.Event()

    def make() -> CMSClient:
        if os.getpid() == parent:
            is_making.set()
            may_end.wait(30)
        return CMSClient("a-token")

    shared = SharedClient(make)
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(shared.get)
        assert is_making.wait(30)
        child = fork(shared.get)
        may_end.set()
        assert 0 == exit_status(child)
        assert got.result() is shared.get()


def test_a_client_with_an_outbox_takes_charge_of_the_job(
    server: FaultServer, tmp_path: Any
) -> None:
    """What its own delivery promises is enough."""
    from cms_python import Outbox

    with CMSClient("a-token", server.url, delivery=Outbox(tmp_path / "events.db")) as client:
        assert "delivered" == deliver(job(), client).verdict
        assert client.flush(timeout=10)
    assert 1 == len(server.requests)
