"""What a call makes of an answer, however odd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fault_server import FaultServer, answer, redirect

from cms_python import CMSClient

DEFAULT = "Event tracked successfully"
NOT_JSON = "The answer is not a JSON object."
HTML = "<!doctype html><title>502</title><h1>Bad Gateway</h1>"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def call(server: FaultServer, status: int, body: Any, **headers: str) -> dict[str, Any]:
    server.behaviour = answer(status, body, {**JSON, **headers})
    with CMSClient("a-token", server.url, max_retries=0) as client:
        return dict(client.track_lead("signup", "user_1", "id_1", idempotency_key="key-1"))


SUCCESSES: list[tuple[int, Any, str, Any]] = [
    (200, {"success": True, "message": "Done", "data": {"id": 1}}, "Done", {"id": 1}),
    (201, {"success": True, "message": "Done", "data": {}}, "Done", {}),
    (202, {"success": True, "data": None}, DEFAULT, None),
    (200, {"success": True}, DEFAULT, None),
    (200, {}, DEFAULT, None),
    (200, "", DEFAULT, None),
    (200, " \r\n", DEFAULT, None),
    (202, "", DEFAULT, None),
    (204, "", DEFAULT, None),
    (200, {"status": True, "data": "text"}, DEFAULT, "text"),
    (200, {"status": "ok"}, DEFAULT, None),
    (200, {"message": "Recorded", "requestId": "req_1"}, "Recorded", None),
    (200, {"success": True, "message": 7, "data": [1]}, DEFAULT, [1]),
    (200, {"success": True, "message": "", "data": 0}, DEFAULT, 0),
    (200, {"success": None, "message": None}, DEFAULT, None),
    (200, {"success": 1, "status": 200, "error": None, "statusCode": 200}, DEFAULT, None),
    (200, '{"success": true, "data": NaN}', DEFAULT, None),
    (200, {"success": "yes", "unknown": {"deep": [True]}}, DEFAULT, None),
    (200, b'\xef\xbb\xbf{"message": "With a mark"}', "With a mark", None),
    (299, {"data": {"success": False}}, DEFAULT, {"success": False}),
]


@pytest.mark.parametrize(("status", "body", "message", "data"), SUCCESSES)
def test_a_2xx_is_a_success(
    server: FaultServer, status: int, body: Any, message: str, data: Any
) -> None:
    """Empty, short of fields, or of another deployment's shape: the event is recorded."""
    expected = {"success": True, "message": message, "data": data}
    assert call(server, status, body) == expected


REFUSED = "The server refused the event."
# status, body → error, type, details
FAILURES: list[tuple[int, Any, str, str, Any]] = [
    # A 2xx that says no
    (200, {"success": False}, REFUSED, "unprocessable_entity", None),
    (200, {"success": False, "error": "No such click"}, "No such click",
     "unprocessable_entity", None),
    (200, {"status": False, "message": "Not today"}, "Not today", "unprocessable_entity", None),
    (200, {"status": "error", "type": "quota", "details": [1]}, REFUSED, "quota", [1]),
    (200, {"success": "false"}, REFUSED, "unprocessable_entity", None),
    (200, {"success": 0, "error": "Zero"}, "Zero", "unprocessable_entity", None),
    (200, {"success": "no"}, REFUSED, "unprocessable_entity", None),
    (200, {"success": None, "error": "Null"}, "Null", "unprocessable_entity", None),
    (200, {"success": False, "statusCode": 200}, REFUSED, "unprocessable_entity", None),
    (200, {"statusCode": 9999}, REFUSED, "unprocessable_entity", None),
    (200, {"status": "rejected"}, REFUSED, "unprocessable_entity", None),
    # A 2xx that is no JSON object: what became of the event is not known
    (200, HTML, NOT_JSON, "invalid_response", None),
    (200, "OK", NOT_JSON, "invalid_response", None),
    (200, "[]", NOT_JSON, "invalid_response", None),
    (200, "null", NOT_JSON, "invalid_response", None),
    (200, "true", NOT_JSON, "invalid_response", None),
    (200, '"text"', NOT_JSON, "invalid_response", None),
    (200, '{"success": true', NOT_JSON, "invalid_response", None),
    (200, b'{"message": "\xff\xfe"}', NOT_JSON, "invalid_response", None),
    (200, "[" * 100_000, NOT_JSON, "invalid_response", None),
    (200, '{"a":' * 500 + "1" + "}" * 500, NOT_JSON, "invalid_response", None),
    (200, '{"a": ' + "9" * 5000 + "x}", NOT_JSON, "invalid_response", None),
    # Errors of the documented shape
    (422, {"success": False, "error": "Validation failed", "type": "unprocessable_entity",
           "statusCode": 422, "details": {"amount": "too small"}},
     "Validation failed", "unprocessable_entity", {"amount": "too small"}),
    (401, {"success": False, "error": "Token expired"}, "Token expired", "unauthorized", None),
    (429, {"error": "Slow down", "type": "rate_limit_exceeded"}, "Slow down",
     "rate_limit_exceeded", None),
    # Errors of other shapes
    (400, {"message": "Bad field"}, "Bad field", "bad_request", None),
    (400, {"error": {"message": "Nested", "code": 7}}, "Nested", "bad_request", None),
    (400, {"error": {"code": 7}}, "The server answered 400 Bad Request.", "bad_request", None),
    (400, {"error": ["a", "b"]}, "The server answered 400 Bad Request.", "bad_request", None),
    (403, {"error": 7, "type": 7, "details": "text"}, "The server answered 403 Forbidden.",
     "forbidden", "text"),
    (404, {"error": None}, "The server answered 404 Not Found.", "not_found", None),
    (409, {"error": "  "}, "The server answered 409 Conflict.", "conflict", None),
    (422, '[{"error": "in a list"}]', "The server answered 422 Unprocessable Entity.",
     "unprocessable_entity", None),
    (500, '"text"', "The server answered 500 Internal Server Error.", "internal_server_error",
     None),
    (400, {"error": "x", "type": "validation_error"}, "x", "bad_request", None),
    (400, {"error": "x" * 100_000}, "The server answered 400 Bad Request.", "bad_request", None),
    # Errors without JSON
    (502, HTML, "The server answered 502 Bad Gateway.", "bad_gateway", None),
    (503, "", "The server answered 503 Service Unavailable.", "service_unavailable", None),
    (504, b"\xff\xfe\x00", "The server answered 504 Gateway Timeout.", "gateway_timeout", None),
    (500, "[" * 100_000, "The server answered 500 Internal Server Error.",
     "internal_server_error", None),
    # Statuses that the API does not document
    (402, {"error": "Pay first"}, "Pay first", "bad_request", None),
    (405, "", "The server answered 405.", "bad_request", None),
    (418, "", "The server answered 418.", "bad_request", None),
    (499, "", "The server answered 499.", "bad_request", None),
    (520, HTML, "The server answered 520.", "internal_server_error", None),
    (599, {}, "The server answered 599.", "internal_server_error", None),
    (999, "", "The server answered 999.", "internal_server_error", None),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "error", "kind", "details"), FAILURES)
def test_anything_else_is_a_failure(
    server: FaultServer, status: int, body: Any, error: str, kind: str, details: Any
) -> None:
    """With the status, a sentence that is the server's own where it has one, and a type."""
    assert call(server, status, body) == {
        "success": False,
        "error": error,
        "status_code": status,
        "type": kind,
        "details": details,
        "retryable": status in {429, 500, 502, 503, 504},
        "ambiguous": status >= 500 or kind == "invalid_response",
        "attempts": 1,
        "idempotency_key": "key-1",
        "retry_after": None,
    }


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"success": False, "statusCode": 422, "error": "No such click"}, 422,
         "unprocessable_entity"),
        ({"error": "Busy", "type": "service_unavailable", "statusCode": 503}, 503,
         "service_unavailable"),
        ({"statusCode": 500}, 500, "internal_server_error"),
        ({"status": 429}, 429, "rate_limit_exceeded"),
        ({"status": 400, "statusCode": 401}, 401, "unauthorized"),
        ({"success": False, "statusCode": 409}, 409, "conflict"),
    ],
)  # fmt: skip
def test_a_2xx_that_states_an_error_is_that_error(
    server: FaultServer, body: Any, status: int, kind: str
) -> None:
    """What a gateway turned into a 200 is tried again, or not, as what the API meant."""
    result = call(server, 200, body, **{"Retry-After": "7"})
    assert (False, status, kind) == (result["success"], result["status_code"], result["type"])
    assert (status in {429, 500, 503}, status >= 500) == (result["retryable"], result["ambiguous"])
    assert 7.0 == result["retry_after"]


def test_a_servers_sentence_does_not_steer_the_terminal(server: FaultServer) -> None:
    """Colours, bells and turned writing in an error reach neither a terminal nor a log."""
    result = call(server, 400, {"error": "No\x1b[31mne\x07 of \u202ethis", "type": "a\x1b]0;b"})
    assert ("No [31mne of this", "a ]0;b") == (result["error"], result["type"])


def test_a_servers_sentence_is_cut_off_where_it_becomes_a_text(server: FaultServer) -> None:
    """A log line stays a line."""
    result = call(server, 400, {"error": " very\n" * 1000})
    assert result["error"] == ("very " * 100).strip()


def test_a_failure_does_not_repeat_the_customer_that_the_server_repeats(
    server: FaultServer,
) -> None:
    """A server that quotes its input does not bring token or person into our failure."""
    quoted = ["tok.en-1", "Jane Doe", "JANE@example.com", "https://x.org/jane.png"]
    body = {"error": f"No good: {quoted}", "details": {"got": quoted, quoted[2]: quoted[1]}}
    server.behaviour = answer(422, body, JSON)
    with CMSClient("tok.en-1", server.url) as client:
        result = client.track_lead(
            "signup", "user_1", "id_1", "Jane Doe", "jane@example.com", "https://x.org/jane.png"
        )
    assert "error" in result
    text = json.dumps(result).lower()
    assert [each for each in quoted if each.lower() in text] == []
    assert result["error"] == "No good: ['[hidden]', '[hidden]', '[hidden]', '[hidden]']"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (" Jane Doe ", "no Jane Doe here"),
        ("Jane Doe", "no Jane\n\t Doe here"),
        ("Jane Doe", "no JANE DOE here"),
        ("O'Brien & Sons", "no O&#x27;Brien &amp; Sons here"),
        ("jane@example.com", "no jane%40example.com here"),
        ("jane@example.com", "no\\njane@example.com_customer here"),
        ("Jo", "no Jo here"),
    ],
)
def test_a_person_is_found_in_other_forms(server: FaultServer, name: str, said: str) -> None:
    """In other spacing, in other case, escaped, or glued to other text."""
    server.behaviour = answer(400, {"error": said})
    with CMSClient("a-token", server.url) as client:
        result = client.track_lead("signup", "user_1", "id_1", customer_name=name)
    assert "error" in result
    assert "[hidden]" in result["error"]
    assert result["error"].startswith("no")


def test_a_short_name_is_not_taken_out_of_other_words(server: FaultServer) -> None:
    """A sentence stays readable where a customer is called Al."""
    server.behaviour = answer(400, {"error": "Validation of Al failed; not also allowed"})
    with CMSClient("a-token", server.url) as client:
        result = client.track_lead("signup", "user_1", "id_1", customer_name="Al")
    assert "error" in result
    assert result["error"] == "Validation of [hidden] failed; not also allowed"


def test_a_redirect_that_repeats_the_token_does_not_show_it(server: FaultServer) -> None:
    """The new host is named without it."""
    server.behaviour = redirect(302, "https://secrettoken.evil.example/")
    with CMSClient("secrettoken", server.url) as client:
        result = client.track_lead("signup", "user_1", "id_1")
    assert "error" in result
    assert result["error"].startswith("The server redirects to https://[hidden].evil.example:")


def test_an_answer_costs_no_more_than_it_has_to(server: FaultServer) -> None:
    """The request says what is sent and asks for an answer as it is, not compressed."""
    call(server, 200, {})
    request = server.requests[-1]
    headers = {name.lower(): value for name, value in request.headers.items()}
    assert (request.method, request.path) == ("POST", "/track/lead")
    assert headers["authorization"] == "Bearer a-token"
    assert headers["content-type"] == "application/json"
    assert headers["accept"] == "application/json"
    assert headers["accept-encoding"] == "identity"
    assert headers["idempotency-key"] == "key-1"
    assert headers["user-agent"].startswith("cms-python-client/2.")
    assert request.json == {
        "clickId": "id_1", "customerExternalId": "user_1", "eventName": "signup"
    }  # fmt: skip
