"""Token, e-mail address, name and avatar stay where they belong."""

from __future__ import annotations

import logging
import pickle
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from fault_server import (
    FaultServer,
    answer,
    close_after_answer,
    garbage,
    in_turn,
    nobody_listens,
    redirect,
    reset_after_reading,
    short_body,
    silent,
)

from cms_python import (
    ApiClient,
    ApiException,
    CMSClient,
    Configuration,
    Event,
    LeadPayload,
    TrackingApi,
)
from cms_python.delivery import jobs

TOKEN = "s3cret.t0ken"
PROXY = "http://me:pr0xy-s3cret@127.0.0.1:9"
PERSON = {
    "customer_name": "Jane Q. Doe",
    "customer_email": "jane.q@example.com",
    "customer_avatar": "https://cdn.example.com/jane.png",
}
SECRETS = [TOKEN, "pr0xy-s3cret", *PERSON.values()]
SENT = [TOKEN, *PERSON.values()]
QUOTING = {"error": f"bad: {SENT}", "details": {"input": SENT, SENT[1]: SENT[2]}}

BEHAVIOURS = {
    "success": answer(200),
    "refusal that quotes": answer(422, QUOTING),
    "2xx that says no and quotes": answer(200, {"success": False, **QUOTING}),
    "2xx that quotes without JSON": answer(200, str(SENT)),
    "headers that quote": answer(500, "", {"X-Echo": str(SENT), "Retry-After": str(SENT)}),
    "redirect": redirect(302, "https://elsewhere.example.com/?email=jane.q@example.com"),
    "reset": reset_after_reading,
    "short body": short_body,
    "garbage": garbage,
    "silent": silent,
    "try again": in_turn(answer(503, QUOTING), close_after_answer, answer(200)),
}


@pytest.fixture
def emitted(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """All that any logger says, formatted with its arguments and tracebacks, and all warnings."""
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield texts
        formatter = logging.Formatter("%(name)s %(message)s")
        texts += [formatter.format(record) for record in caplog.records]
        texts += [repr(record.args) for record in caplog.records]
        texts += [str(each.message) for each in warned]
    assert leaked(texts) == []


def leaked(texts: list[str]) -> list[str]:
    return [secret for secret in SECRETS if any(secret.lower() in each.lower() for each in texts)]


def shown(thing: Any) -> list[str]:
    return [repr(thing), str(thing), pickle.dumps(thing).decode("latin-1")]


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_a_call_shows_no_secret(name: str, emitted: list[str]) -> None:
    """Whatever the server does: not in a log at DEBUG, a result, a repr, a pickle or a warning."""
    with (
        FaultServer(BEHAVIOURS[name]) as server,
        CMSClient(TOKEN, server.url, timeout=0.5) as client,
    ):
        result = client.track_lead("signup", "user_1", "id_1", **PERSON)  # type: ignore[arg-type]  # only texts
        emitted += shown(result)
        emitted += [repr(client), repr(client.with_options(timeout=1.0))]


def test_a_call_that_finds_nobody_shows_no_secret(emitted: list[str]) -> None:
    """Neither a refused connection nor a dead proxy with a password shows anything."""
    for configuration in (Configuration(), Configuration(proxy=PROXY)):
        with (
            nobody_listens() as url,
            CMSClient(
                TOKEN, url, timeout=0.5, max_retries=1, configuration=configuration
            ) as client,
        ):
            result = client.track_lead("signup", "user_1", "id_1", **PERSON)  # type: ignore[arg-type]  # only texts
            emitted += [*shown(result), repr(configuration)]


def test_a_refused_call_shows_no_secret(emitted: list[str]) -> None:
    """A field that is too long is named, not shown."""
    long = {name: value * 100 for name, value in PERSON.items()}
    client = CMSClient(TOKEN)
    emitted += shown(client.track_lead("", "user_1", **long))  # type: ignore[arg-type]  # only texts


@pytest.mark.parametrize("quoting", [QUOTING, {"success": True, "data": SENT}])
@pytest.mark.parametrize("status", [200, 422, 503])
def test_an_outcome_shows_no_secret(
    status: int, quoting: dict[str, Any], emitted: list[str]
) -> None:
    """A worker may log what became of a job: neither the job nor the server's words show."""
    fields = {"event_name": "signup", "customer_external_id": "user_1", "click_id": "id_1"}
    job = Event.create("lead", {**fields, **PERSON}).to_dict()
    with FaultServer(answer(status, quoting)) as server, CMSClient(TOKEN, server.url) as client:
        outcome = jobs.deliver(job, client)
    emitted += [repr(outcome), str(outcome)]
    assert outcome.verdict in repr(outcome)


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_the_generated_layers_exceptions_show_no_secret(name: str, emitted: list[str]) -> None:
    """Not in the text, the repr, the pickle, nor the traceback that an error page prints."""
    payload = LeadPayload(event_name="signup", customer_external_id="user_1", **PERSON)  # type: ignore[arg-type]  # only texts
    emitted += [repr(payload), str(payload)]
    with FaultServer(BEHAVIOURS[name]) as server:
        api = TrackingApi(ApiClient(Configuration(host=server.url, access_token=TOKEN)))
        try:
            api.track_lead_with_http_info(payload, _request_timeout=0.5)
        except ApiException as error:
            emitted += shown(error)
            emitted += traceback.format_exception(type(error), error, error.__traceback__)


def test_an_attempt_is_logged_with_what_helps(caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG: method, path, status, attempt, milliseconds, key; at WARNING: the call given up."""
    caplog.set_level(logging.DEBUG, logger="cms_python")
    behaviour = in_turn(answer(503, "", {"Retry-After": "0"}), answer(422, {"type": "odd"}))
    with FaultServer(behaviour) as server, CMSClient(TOKEN, server.url) as client:
        client.track_sale("id_1", "bought", "user_1", "inv_1", 5, "EUR", idempotency_key="key-1")
    lines = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "cms_python"
    ]
    assert [level for level, _ in lines] == ["DEBUG", "DEBUG", "WARNING"]
    assert lines[0][1].startswith("POST /track/sale: status 503, attempt 1, ")
    assert lines[0][1].endswith(" ms, key key-1")
    assert lines[1][1].startswith("POST /track/sale: status 422, attempt 2, ")
    assert lines[2][1] == "Gave up on a sale: odd, status 422, attempt 2, key key-1"


def test_an_application_without_logging_hears_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """The library prints nothing of its own accord."""
    with nobody_listens() as url, CMSClient(TOKEN, url, max_retries=0) as client:
        assert client.track_lead("signup", "user_1", "id_1")["success"] is False
    assert capfd.readouterr() == ("", "")
