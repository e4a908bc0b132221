"""Whatever a server does and whatever a caller passes, the promises of a call hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, NamedTuple, get_type_hints

import pytest
from fault_server import (
    Behaviour,
    FaultServer,
    answer,
    close_after_answer,
    close_after_reading,
    cut_off,
    deep_json,
    drip_body,
    drip_header,
    echo,
    endless_body,
    endless_headers,
    garbage,
    gzip_bomb,
    in_turn,
    raw,
    redirect,
    reset_after_reading,
    reset_before_reading,
    short_body,
    silent,
    stall_in_body,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cms_python import CMSClient, TrackFailure, TrackResult, TrackSuccess
from cms_python.delivery import retries

# Over a deadline, for a busy machine.
SLACK = 2.0
KINDS: dict[str, Any] = {
    "success": bool,
    "message": str,
    "data": object,
    "error": str,
    "status_code": int,
    "type": str,
    "details": object,
    "retryable": bool,
    "ambiguous": bool,
    "attempts": int,
    "idempotency_key": (str, type(None)),
    "retry_after": (float, type(None)),
}

# A run is the same each time, and a failing example is told as it is: each takes its time.
thorough = settings(
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
error_bodies = st.dictionaries(
    st.sampled_from(["success", "status", "error", "type", "details", "message", "data"]),
    json_values,
)
header_text = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40)
answers = st.builds(
    answer,
    st.integers(100, 999) | st.sampled_from([200, 201, 204, 302, 401, 409, 422, 429, 500, 503]),
    error_bodies | st.binary(max_size=40),
    st.fixed_dictionaries({}, optional={"Retry-After": header_text, "Location": header_text}),
)
faults = st.sampled_from(
    [
        echo,
        answer(409, "{}"),
        answer(429, "{}", {"Retry-After": "0.01"}),
        answer(503, "{}"),
        close_after_answer,
        close_after_reading,
        cut_off,
        deep_json,
        drip_body(),
        drip_header,
        endless_body(),
        endless_headers,
        garbage,
        gzip_bomb,
        redirect(307, "https://other.example/"),
        reset_after_reading,
        reset_before_reading,
        short_body,
        silent,
        stall_in_body,
    ]
)
behaviours: st.SearchStrategy[Behaviour] = faults | answers | st.builds(raw, st.binary())

any_text = st.text(st.characters(), max_size=300)
anything: st.SearchStrategy[Any] = (
    any_text | st.none() | st.integers() | st.floats() | st.booleans() | st.binary()
)
anything |= (
    st.lists(st.none()) | st.datetimes() | st.sampled_from(["deferred", "2026-01-31T09:30Z"])
)
keys = st.none() | st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)
CUSTOMER = ["customer_name", "customer_email", "customer_avatar", "timestamp"]
IDS = ["click_id", "event_name", "customer_external_id", "invoice_id"]
leads = st.fixed_dictionaries(
    {"event_name": anything, "customer_external_id": anything},
    optional=dict.fromkeys(["click_id", "mode", *CUSTOMER], anything),
)
sales = st.fixed_dictionaries(
    dict.fromkeys([*IDS, "amount", "currency"], anything),
    optional=dict.fromkeys(CUSTOMER, anything),
)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=255)
good_ids: st.SearchStrategy[str] = texts.filter(lambda text: bool(text.strip()))
good_sales = st.fixed_dictionaries(
    {
        **dict.fromkeys(IDS, good_ids),
        "amount": st.integers(0, 2**53 - 1),
        "currency": st.text("ABCXYZabcxyz", min_size=3, max_size=3),
    },
    optional={"customer_name": st.text(max_size=255), "timestamp": st.datetimes()},
)


class Call(NamedTuple):
    """What a call came to."""

    result: TrackResult
    seconds: float


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    # The waits are policy and tested as such; short ones make room for more attempts here.
    with pytest.MonkeyPatch.context() as patch, FaultServer() as server:
        patch.setattr(retries, "FIRST_BACKOFF", 0.01)
        yield server


def timed(call: Callable[..., TrackResult], arguments: dict[str, Any]) -> Call:
    start = monotonic()
    result = call(**arguments)
    return Call(result, monotonic() - start)


def check(call: Call, timeout: float) -> None:
    """The result has exactly the documented keys and types, and came in time."""
    result, seconds = call
    assert seconds < timeout + SLACK
    expected = TrackSuccess if result["success"] else TrackFailure
    assert set(get_type_hints(expected)) == set(result)
    wrong = {name: value for name, value in result.items() if not isinstance(value, KINDS[name])}
    assert {} == wrong
    if result["success"] is False:
        assert result["error"]
        assert result["type"]
        assert result["attempts"] >= 0
        assert 0 <= result["status_code"] <= 999
        assert result["retry_after"] is None or 0 <= result["retry_after"] <= 86400


@settings(thorough, max_examples=80)
@given(
    script=st.lists(behaviours, min_size=1, max_size=4),
    timeout=st.sampled_from([0.05, 0.1, 0.2]),
    max_retries=st.integers(0, 3),
    key=keys,
)
def test_any_server(
    script: list[Behaviour], timeout: float, max_retries: int, key: str | None
) -> None:
    """A result in time, and at most one request an attempt, all of the same bytes and key."""
    # A server of its own each: one may come to a connection after the call has given it up.
    with FaultServer(in_turn(*script)) as server:
        with CMSClient("token", server.url, timeout=timeout, max_retries=max_retries) as client:
            arguments = {"event_name": "e", "customer_external_id": "c", "idempotency_key": key}
            call = timed(client.track_lead, arguments)
        check(call, timeout)
        server.wait_until_idle()
    result, requests = call.result, server.requests
    assert len(requests) <= max_retries + 1
    assert len({(each.method, each.path, each.body, each.key) for each in requests}) <= 1
    if result["success"] is False:
        assert len(requests) <= result["attempts"] <= max_retries + 1
        assert {result["idempotency_key"]} >= {each.key for each in requests}
        assert key in {None, result["idempotency_key"]}


@settings(thorough, max_examples=150)
@given(arguments=leads | sales, key=anything)
def test_any_arguments(server: FaultServer, arguments: dict[str, Any], key: Any) -> None:
    """A call never raises for a value: it sends the event, or says what is wrong and sends none."""
    server.forget()
    server.behaviour = echo
    with CMSClient("token", server.url, max_retries=0) as client:
        track = client.track_sale if "invoice_id" in arguments else client.track_lead
        call = timed(track, {**arguments, "idempotency_key": key})
    check(call, 10)
    result = call.result
    assert int(result["success"]) == len(server.requests)
    if result["success"] is False:
        assert ("validation_error", 422, 0) == (
            result["type"],
            result["status_code"],
            result["attempts"],
        )
        assert set(result["details"]) <= {*arguments, "idempotency_key", "click_id"}


@settings(thorough, max_examples=100)
@given(arguments=good_sales)
def test_any_good_sale(server: FaultServer, arguments: dict[str, Any]) -> None:
    """A sale within the documented bounds is sent, each value as it was given."""
    server.forget()
    server.behaviour = echo
    with CMSClient("token", server.url, max_retries=0) as client:
        result = client.track_sale(**arguments)
    assert result["success"] is True, result
    sent = server.requests[0].json
    assert arguments["event_name"] == result["data"] == sent["eventName"]
    assert (arguments["amount"], arguments["currency"].upper()) == (
        sent["amount"],
        sent["currency"],
    )
    assert arguments.get("customer_name") == sent.get("customerName")
