"""The generated layer, used alone: it raises where CMSClient returns a failure."""

from __future__ import annotations

import copy
import pickle
from datetime import datetime, timezone
from typing import Any

import pydantic
import pytest

from cms_python import (
    ApiClient,
    ApiException,
    BadRequestException,
    Configuration,
    ConflictException,
    ConnectionException,
    ErrorResponse,
    ForbiddenException,
    InvalidResponseException,
    LeadPayload,
    NotFoundException,
    OpenApiException,
    SalePayload,
    ServiceException,
    TimeoutException,
    TlsException,
    TooManyRequestsException,
    TrackingApi,
    TrackResponse,
    TransportException,
    UnauthorizedException,
    UnprocessableEntityException,
    exceptions,
)
from cms_python.sandbox import Sandbox

LEAD = LeadPayload(event_name="signup", customer_external_id="user_1", click_id="id_1")
SALE = SalePayload(
    event_name="bought",
    customer_external_id="user_1",
    click_id="id_1",
    invoice_id="inv_1",
    amount=5,
    currency="EUR",
)


@pytest.fixture
def api(sandbox: Sandbox) -> TrackingApi:
    return TrackingApi(ApiClient(Configuration(host=sandbox.url, access_token="a-token")))


def test_an_event_is_tracked_and_answered_by_a_model(api: TrackingApi) -> None:
    """The short form returns the answer's model."""
    answer = api.track_lead(LEAD)
    assert isinstance(answer, TrackResponse)
    assert (answer.success, answer.message) == (True, "The lead has been recorded.")


def test_the_long_form_has_status_headers_and_bytes(api: TrackingApi) -> None:
    """Whoever needs the whole answer has it."""
    answer = api.track_sale_with_http_info(SALE, idempotency_key="order-7")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.data == TrackResponse.from_json(answer.raw_data.decode())
    assert answer.content["data"]["invoiceId"] == "inv_1"


def test_a_refusal_raises_the_class_of_its_status(sandbox: Sandbox, api: TrackingApi) -> None:
    """Each documented status has a class, and the exception has the answer."""
    api.track_sale(SALE)
    with pytest.raises(ConflictException) as caught:
        api.track_sale(SALE)
    assert caught.value.status == 409
    assert ErrorResponse.from_dict(caught.value.data).type == "conflict"
    assert str(caught.value) == "409 Conflict"
    nobody = TrackingApi(ApiClient(Configuration(host=sandbox.url)))
    with pytest.raises(UnauthorizedException):
        nobody.track_lead(LEAD)
    with pytest.raises(UnprocessableEntityException):
        api.track_lead(LeadPayload(event_name="kyc", customer_external_id="stranger"))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (302, ApiException),
        (400, BadRequestException),
        (401, UnauthorizedException),
        (403, ForbiddenException),
        (404, NotFoundException),
        (405, ApiException),
        (409, ConflictException),
        (422, UnprocessableEntityException),
        (429, TooManyRequestsException),
        (500, ServiceException),
        (502, ServiceException),
        (503, ServiceException),
        (504, ServiceException),
        (599, ServiceException),
    ],
)
def test_each_status_has_its_class(status: int, expected: type[ApiException]) -> None:
    """The names are those that users of OpenAPI Generator know."""
    assert exceptions.exception_type(status) is expected
    assert issubclass(expected, ApiException)
    assert issubclass(ApiException, OpenApiException)


@pytest.mark.parametrize(
    "error",
    [
        ApiException(418, "Teapot", {"x-request-id": "req_1"}, b"jane@example.com", {"a": 1}),
        ConflictException(409, "Conflict"),
        InvalidResponseException(200, "The answer is not a JSON object."),
        TransportException("It broke.", sent=False),
        ConnectionException("No connection could be made: Connection refused.", sent=False),
        TimeoutException("The server did not answer in time."),
        TlsException("No trusted connection could be made: expired."),
    ],
)
def test_an_exception_pickles_without_what_it_was_answered(error: ApiException) -> None:
    """It can cross to another process, and carries no customer there."""
    pickled = pickle.dumps(error)
    again = pickle.loads(pickled)
    assert (type(again), str(again), again.status) == (type(error), str(error), error.status)
    assert getattr(again, "sent", None) == getattr(error, "sent", None)
    assert b"jane@example.com" not in pickled
    assert "jane@example.com" not in repr(error)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("event_name", 5),
        ("event_name", b"signup"),
        ("customer_external_id", True),
        ("amount", "5"),
        ("amount", 5.0),
        ("amount", True),
        ("timestamp", "2026-01-31T09:30:00Z"),
        ("timestamp", 1767225600),
        ("timestamp", datetime(2026, 1, 31)),
        ("currency", "usd"),
        ("unknown", "x"),
    ],
)
def test_a_model_coerces_nothing(field: str, value: object) -> None:
    """A wrong type is refused, and the refusal does not repeat it."""
    with pytest.raises(pydantic.ValidationError) as caught:
        SalePayload(**{**SALE.__dict__, field: value})
    assert f"input_value={value!r}" not in str(caught.value)


def test_an_answer_coerces_nothing() -> None:
    """`"yes"` is no success."""
    with pytest.raises(pydantic.ValidationError):
        TrackResponse.from_dict({"success": "yes"})


def test_a_model_goes_to_the_wire_and_back() -> None:
    """As dict and as JSON, with a moment in it, by the names of the wire or of Python."""
    sale = SALE.model_copy(update={"timestamp": datetime(2026, 1, 31, tzinfo=timezone.utc)})
    wire = {
        "clickId": "id_1",
        "eventName": "bought",
        "customerExternalId": "user_1",
        "invoiceId": "inv_1",
        "amount": 5,
        "currency": "EUR",
        "timestamp": "2026-01-31T00:00:00Z",
    }
    assert sale.to_dict() == wire
    assert SalePayload.from_dict(wire) == sale
    assert SalePayload.from_json(sale.to_json()) == sale
    assert SalePayload.from_dict(dict(sale.__dict__)) == sale


def test_an_answer_keeps_fields_that_it_does_not_know() -> None:
    """A server may say more than the contract."""
    answer = TrackResponse.from_dict({"success": True, "shard": 7})
    assert answer.to_dict() == {"success": True, "shard": 7}


def test_no_repr_shows_a_secret_or_a_person() -> None:
    """Token, proxy and the customer's name, e-mail address and avatar stay out of logs."""
    configuration = Configuration(access_token="s3cret", proxy="http://me:s3cret@proxy:1")
    lead = LEAD.model_copy(
        update=dict.fromkeys(["customer_name", "customer_email", "customer_avatar"], "s3cret")
    )
    shown = [repr(configuration), repr(lead), str(lead), repr(ApiClient(configuration))]
    assert "s3cret" not in "".join(shown)
    assert "host=None" in shown[0]


@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
def test_what_holds_a_token_is_not_pickled(copied: Any) -> None:
    """A token does not end in a queue or a cache by mistake."""
    configuration = Configuration(access_token="s3cret")
    for holder in (configuration, ApiClient(configuration)):
        with pytest.raises(TypeError, match="holds a token"):
            copied(holder)


def test_a_client_that_was_closed_connects_again(sandbox: Sandbox) -> None:
    """close() lets go of connections and may be called twice; nothing is lost by it."""
    configuration = Configuration(host=sandbox.url, access_token="a-token")
    with ApiClient(configuration) as api_client:
        TrackingApi(api_client).track_lead(LEAD)
    api_client.close()
    assert TrackingApi(api_client).track_lead(LEAD).success is True
