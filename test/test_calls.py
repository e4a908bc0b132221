"""What a call does with its arguments, before anything is sent."""

from __future__ import annotations

import enum
import pickle
from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from cms_python import CMSClient
from cms_python.sandbox import Sandbox

LEAD: dict[str, Any] = {
    "click_id": "id_123",
    "event_name": "signup_started",
    "customer_external_id": "user_42",
}
SALE: dict[str, Any] = {
    "click_id": "id_123",
    "event_name": "purchase_completed",
    "customer_external_id": "user_42",
    "invoice_id": "inv_987",
    "amount": 4999,
    "currency": "USD",
}
REQUIRED = "is required"
BLANK = "must not be blank"
TOO_LONG = "must be at most 255 characters long"
SURROGATE = "must be text that UTF-8 can hold, without lone surrogates"
CENTS = "must be whole cents as an int, at least 0 (cents: 4999 means 49.99)"
CODE = "must be a three-letter code such as USD"
DEFERRED = 'must be "deferred" or left out'
ISO = "must be ISO 8601, such as 2026-01-31T09:30:00Z"
KEY = "must be 1 to 255 visible ASCII characters, no spaces"
NO_CLICK = "is required in a deferred lead: it is what the lead stores"


class Colour(enum.Enum):
    RED = "red"


class Word(str, enum.Enum):
    SIGNUP = "signup_started"
    DEFERRED = "deferred"
    EURO = "eur"


class Cents(enum.IntEnum):
    BASIC = 4999


class Hostile(str):
    """A text that fails at whatever is done with it."""

    __slots__ = ()


def _fail(*_: object) -> Any:
    raise RuntimeError("s3cret")


for method in ("__eq__", "__len__", "__str__", "__repr__", "upper", "isascii", "strip"):
    setattr(Hostile, method, _fail)


class Liar:
    """An object that claims to be a text."""

    __class__ = str  # type: ignore[assignment]  # as mocks and proxies do


class FailingZone(tzinfo):
    def utcoffset(self, _moment: datetime | None) -> timedelta:
        raise RuntimeError("s3cret")

    tzname = dst = utcoffset  # type: ignore[assignment]  # none of them is any good


class BrokenZone(tzinfo):
    def utcoffset(self, _moment: datetime | None) -> timedelta:
        return timedelta(days=2)

    def tzname(self, _moment: datetime | None) -> str:
        return "broken"

    def dst(self, _moment: datetime | None) -> timedelta:
        return timedelta(0)


LEAD_MISTAKES: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"event_name": None}, {"event_name": REQUIRED}),
    ({"event_name": ""}, {"event_name": BLANK}),
    ({"event_name": "   "}, {"event_name": BLANK}),
    ({"event_name": "\t\n"}, {"event_name": BLANK}),
    ({"event_name": "\u2003"}, {"event_name": BLANK}),
    ({"event_name": "\x1c\x1f\ufeff"}, {"event_name": BLANK}),
    ({"event_name": "e" * 256}, {"event_name": TOO_LONG}),
    ({"event_name": 7}, {"event_name": "must be text, not int"}),
    ({"event_name": b"signup"}, {"event_name": "must be text, not bytes"}),
    ({"event_name": ["signup"]}, {"event_name": "must be text, not list"}),
    ({"event_name": Colour.RED}, {"event_name": "must be text, not Colour"}),
    ({"event_name": "\ud800"}, {"event_name": SURROGATE}),
    ({"customer_external_id": None}, {"customer_external_id": REQUIRED}),
    ({"customer_external_id": ""}, {"customer_external_id": BLANK}),
    ({"customer_external_id": " "}, {"customer_external_id": BLANK}),
    ({"customer_external_id": 42}, {"customer_external_id": "must be text, not int"}),
    ({"customer_external_id": True}, {"customer_external_id": "must be text, not bool"}),
    ({"customer_external_id": 1.5}, {"customer_external_id": "must be text, not float"}),
    ({"customer_external_id": "u" * 256}, {"customer_external_id": TOO_LONG}),
    ({"customer_external_id": "a\udfffb"}, {"customer_external_id": SURROGATE}),
    ({"click_id": ""}, {"click_id": BLANK}),
    ({"click_id": "  "}, {"click_id": BLANK}),
    ({"click_id": 5}, {"click_id": "must be text, not int"}),
    ({"click_id": "c" * 256}, {"click_id": TOO_LONG}),
    ({"click_id": "\udc00"}, {"click_id": SURROGATE}),
    ({"click_id": None, "mode": "deferred"}, {"click_id": NO_CLICK}),
    ({"customer_name": "n" * 256}, {"customer_name": TOO_LONG}),
    ({"customer_name": 1}, {"customer_name": "must be text, not int"}),
    ({"customer_name": "\ud83d"}, {"customer_name": SURROGATE}),
    ({"customer_email": "e" * 256}, {"customer_email": TOO_LONG}),
    ({"customer_email": {"at": "x"}}, {"customer_email": "must be text, not dict"}),
    (
        {"customer_avatar": "a" * 2049},
        {"customer_avatar": "must be at most 2048 characters long"},
    ),
    ({"customer_avatar": object}, {"customer_avatar": "must be text, not type"}),
    ({"timestamp": "yesterday"}, {"timestamp": ISO}),
    ({"timestamp": ""}, {"timestamp": ISO}),
    ({"timestamp": "31.01.2026"}, {"timestamp": ISO}),
    ({"timestamp": "2026-13-01"}, {"timestamp": ISO}),
    ({"timestamp": "2026"}, {"timestamp": ISO}),
    ({"timestamp": "0930"}, {"timestamp": ISO}),
    ({"timestamp": "1712110212345"}, {"timestamp": ISO}),  # milliseconds, no year 1712
    ({"timestamp": "2026-01-31x09:30:00Z"}, {"timestamp": ISO}),
    ({"timestamp": "2026-01-31T25:00:00Z"}, {"timestamp": ISO}),
    ({"timestamp": "\ud800"}, {"timestamp": ISO}),
    ({"timestamp": 1767225600}, {"timestamp": "must be a datetime or ISO 8601 text, not int"}),
    ({"timestamp": 1.5}, {"timestamp": "must be a datetime or ISO 8601 text, not float"}),
    (
        {"timestamp": date(2026, 1, 31)},
        {"timestamp": "must be a datetime or ISO 8601 text, not date"},
    ),
    (
        {"timestamp": datetime(2026, 1, 31, tzinfo=BrokenZone())},
        {"timestamp": "must lie in the years, and in a zone, that this system's clock knows"},
    ),
    ({"mode": "Deferred"}, {"mode": DEFERRED}),
    ({"mode": ""}, {"mode": DEFERRED}),
    ({"mode": "standard"}, {"mode": DEFERRED}),
    ({"mode": True}, {"mode": DEFERRED}),
    ({"idempotency_key": ""}, {"idempotency_key": KEY}),
    ({"idempotency_key": "two words"}, {"idempotency_key": KEY}),
    ({"idempotency_key": "line\r\nInjected: yes"}, {"idempotency_key": KEY}),
    ({"idempotency_key": "schlüssel"}, {"idempotency_key": KEY}),
    ({"idempotency_key": "k" * 256}, {"idempotency_key": KEY}),
    ({"idempotency_key": 7}, {"idempotency_key": KEY}),
]
SALE_MISTAKES: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"click_id": None}, {"click_id": REQUIRED}),
    ({"click_id": " "}, {"click_id": BLANK}),
    ({"invoice_id": None}, {"invoice_id": REQUIRED}),
    ({"invoice_id": ""}, {"invoice_id": BLANK}),
    ({"invoice_id": 987}, {"invoice_id": "must be text, not int"}),
    ({"invoice_id": "i" * 256}, {"invoice_id": TOO_LONG}),
    ({"amount": None}, {"amount": REQUIRED}),
    ({"amount": 49.99}, {"amount": CENTS}),
    ({"amount": 4999.0}, {"amount": CENTS}),
    ({"amount": 7.77}, {"amount": CENTS}),
    ({"amount": float("nan")}, {"amount": CENTS}),
    ({"amount": float("inf")}, {"amount": CENTS}),
    ({"amount": Decimal("49.99")}, {"amount": CENTS}),
    ({"amount": Decimal("4999")}, {"amount": CENTS}),
    ({"amount": Decimal("NaN")}, {"amount": CENTS}),
    ({"amount": Fraction(4999, 100)}, {"amount": CENTS}),
    ({"amount": "4999"}, {"amount": CENTS}),
    ({"amount": "49.99"}, {"amount": CENTS}),
    ({"amount": True}, {"amount": CENTS}),
    ({"amount": False}, {"amount": CENTS}),
    ({"amount": -1}, {"amount": CENTS}),
    ({"amount": [4999]}, {"amount": CENTS}),
    ({"amount": 2**53}, {"amount": "must be at most 9007199254740991 cents"}),
    ({"amount": 10**5000}, {"amount": "must be at most 9007199254740991 cents"}),
    ({"currency": None}, {"currency": REQUIRED}),
    ({"currency": ""}, {"currency": CODE}),
    ({"currency": "US"}, {"currency": CODE}),
    ({"currency": "USDT"}, {"currency": CODE}),
    ({"currency": "$"}, {"currency": CODE}),
    ({"currency": "U5D"}, {"currency": CODE}),
    ({"currency": "USD\n"}, {"currency": CODE}),
    ({"currency": "usß"}, {"currency": CODE}),
    ({"currency": 840}, {"currency": CODE}),
    (
        {"amount": 1.5, "currency": "dollars", "invoice_id": "", "timestamp": "soon"},
        {"invoice_id": BLANK, "amount": CENTS, "currency": CODE, "timestamp": ISO},
    ),
]


def refused(details: dict[str, str], key: str | None = None) -> dict[str, Any]:
    return {
        "success": False,
        "error": "; ".join(f"{name} {problem}" for name, problem in details.items()),
        "status_code": 422,
        "type": "validation_error",
        "details": details,
        "retryable": False,
        "ambiguous": False,
        "attempts": 0,
        "idempotency_key": key,
        "retry_after": None,
    }


def sent(sandbox: Sandbox) -> list[dict[str, Any]]:
    return [event.payload for event in sandbox.events]


@pytest.mark.parametrize(("changes", "details"), LEAD_MISTAKES)
def test_a_malformed_lead_comes_back_as_a_failure_by_argument(
    client: CMSClient, sandbox: Sandbox, changes: dict[str, Any], details: dict[str, str]
) -> None:
    """Nothing is sent, and the failure names each wrong argument and how to mend it."""
    assert client.track_lead(**{**LEAD, **changes}) == refused(details)
    assert sent(sandbox) == []


@pytest.mark.parametrize(("changes", "details"), SALE_MISTAKES)
def test_a_malformed_sale_comes_back_as_a_failure_by_argument(
    client: CMSClient, sandbox: Sandbox, changes: dict[str, Any], details: dict[str, str]
) -> None:
    """Nothing is sent, and the failure names each wrong argument and how to mend it."""
    assert client.track_sale(**{**SALE, **changes}) == refused(details)
    assert sent(sandbox) == []


def test_all_wrong_arguments_are_named_at_once(client: CMSClient) -> None:
    """Who mends a call mends it once."""
    result = client.track_lead(None, 3, mode="x", timestamp="x", idempotency_key=" ")  # type: ignore[arg-type]  # the mistakes
    assert "error" in result
    assert set(result["details"]) == {
        "event_name", "customer_external_id", "mode", "timestamp", "idempotency_key"
    }  # fmt: skip


def test_a_refusal_repeats_no_argument(client: CMSClient) -> None:
    """What a customer typed does not end in a log by way of our failure."""
    result = client.track_sale(**{**SALE, "amount": "secret-1", "customer_email": "secret-2" * 99})
    assert "secret" not in str(result)


def test_a_usable_key_is_kept_in_a_refusal(client: CMSClient) -> None:
    """The caller's own key comes back, so that the mended call can be sent under it."""
    result = client.track_lead("", "user_42", idempotency_key="order-7")
    assert result == refused({"event_name": BLANK}, key="order-7")


@pytest.mark.parametrize("method", ["track_lead", "track_sale"])
def test_a_mistyped_keyword_is_a_type_error(client: CMSClient, method: str) -> None:
    """A mistake in the program itself is Python's own error, at the line that made it."""
    with pytest.raises(TypeError, match="customer_mail"):
        getattr(client, method)(**LEAD, customer_mail="jane@example.com")


def test_every_field_travels_under_its_name_on_the_wire(
    client: CMSClient, sandbox: Sandbox
) -> None:
    """Nothing is dropped, renamed or changed on the way."""
    moment = datetime(2026, 1, 31, 9, 30, tzinfo=timezone(timedelta(hours=2)))
    person: dict[str, Any] = {
        "customer_name": "Jané 🦊",
        "customer_email": "j@x.org",
        "customer_avatar": "https://x",
    }
    assert client.track_lead(**LEAD, **person, timestamp=moment)["success"] is True
    assert client.track_sale(**SALE, **person, timestamp=moment)["success"] is True
    shared = {
        "clickId": "id_123",
        "customerExternalId": "user_42",
        "customerName": "Jané 🦊",
        "customerEmail": "j@x.org",
        "customerAvatar": "https://x",
        "timestamp": "2026-01-31T09:30:00+02:00",
    }
    assert sent(sandbox) == [
        {**shared, "eventName": "signup_started"},
        {
            **shared,
            "eventName": "purchase_completed",
            "invoiceId": "inv_987",
            "amount": 4999,
            "currency": "USD",
        },
    ]


def test_what_is_left_out_does_not_travel(client: CMSClient, sandbox: Sandbox) -> None:
    """None and nothing are the same, and neither becomes a null on the wire."""
    assert client.track_lead(**LEAD, customer_name=None, timestamp=None)["success"] is True
    assert sent(sandbox) == [
        {"clickId": "id_123", "eventName": "signup_started", "customerExternalId": "user_42"}
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": 0},
        {"amount": 2**53 - 1},
        {"event_name": "e" * 255},
        {"event_name": " padded "},
        {"customer_external_id": "\x00"},
        {"customer_external_id": "名前"},
        {"customer_name": ""},
        {"customer_avatar": "a" * 2048},
        {"idempotency_key": "k" * 255},
    ],
)
def test_the_bounds_themselves_are_within(client: CMSClient, changes: dict[str, Any]) -> None:
    """The longest, the shortest and the smallest are accepted, by us and by the contract."""
    assert client.track_sale(**{**SALE, **changes})["success"] is True


def test_a_currency_is_upper_cased(client: CMSClient, sandbox: Sandbox) -> None:
    """`usd` means USD."""
    client.track_sale(**{**SALE, "currency": "usd"})
    assert [event.currency for event in sandbox.events] == ["USD"]


@pytest.mark.parametrize(
    ("given", "travels"),
    [
        ("2026-01-31T09:30:00Z", "2026-01-31T09:30:00Z"),
        ("2026-01-31T09:30:00+05:30", "2026-01-31T09:30:00+05:30"),
        ("20260131T093000Z", "2026-01-31T09:30:00Z"),
        ("2026-01-31 09:30:00.123456Z", "2026-01-31T09:30:00.123456Z"),
        (datetime(2026, 1, 31, tzinfo=timezone.utc), "2026-01-31T00:00:00Z"),
    ],
)
def test_a_timestamp_travels_with_its_zone(
    client: CMSClient, sandbox: Sandbox, given: datetime | str, travels: str
) -> None:
    """A datetime or ISO 8601 text with a zone keeps it."""
    assert client.track_lead(**LEAD, timestamp=given)["success"] is True
    assert [payload["timestamp"] for payload in sent(sandbox)] == [travels]


@pytest.mark.parametrize("given", [datetime(2026, 1, 31, 9, 30), "2026-01-31T09:30:00"])
def test_a_timestamp_without_a_zone_is_local_time(
    client: CMSClient, sandbox: Sandbox, given: datetime | str
) -> None:
    """What the caller's own clock shows is what is meant."""
    client.track_lead(**LEAD, timestamp=given)
    moment = datetime.fromisoformat(sent(sandbox)[0]["timestamp"].replace("Z", "+00:00"))
    assert moment == datetime(2026, 1, 31, 9, 30).astimezone()


def test_a_subclass_counts_as_what_it_is_a_subclass_of(client: CMSClient, sandbox: Sandbox) -> None:
    """Members of an enumeration, and texts that fail at their own methods, are read as they are."""
    result = client.track_sale(
        "id_1", Word.SIGNUP, Hostile("user_1"), "inv_1", Cents.BASIC, Word.EURO,
        idempotency_key=Hostile("key-1"),
    )  # fmt: skip
    assert result["success"] is True
    assert client.track_lead(Word.SIGNUP, "user_2", "id_2", mode=Word.DEFERRED)["success"] is True  # type: ignore[arg-type]  # a text all the same
    (event,) = sandbox.events
    assert (event.event_name, event.customer_external_id) == ("signup_started", "user_1")
    assert (event.amount, event.currency, event.idempotency_key) == (4999, "EUR", "key-1")


@pytest.mark.parametrize("argument", [*LEAD, "mode", "timestamp", "customer_email"])
@pytest.mark.parametrize(
    "value",
    [Liar(), object(), Liar, [Hostile("x")], range(3), 1j],
    ids=["liar", "object", "class", "list", "range", "complex"],
)
def test_an_object_of_any_class_is_refused(client: CMSClient, argument: str, value: Any) -> None:
    """What is neither text nor number nor moment comes back as a failure that names it."""
    result = client.track_lead(**{**LEAD, argument: value})
    assert "error" in result
    assert list(result["details"]) == [argument]
    assert pickle.loads(pickle.dumps(result)) == result


@pytest.mark.parametrize(
    "moment",
    [datetime(2026, 1, 31, tzinfo=FailingZone()), datetime.min, datetime(1, 1, 1), datetime.max],
)
def test_a_moment_that_cannot_be_told_is_refused_or_sent(
    client: CMSClient, moment: datetime
) -> None:
    """A zone that fails and the ends of time do not raise."""
    result = client.track_lead(**LEAD, timestamp=moment)
    assert "s3cret" not in str(result)


def test_an_offset_with_seconds_keeps_the_moment(client: CMSClient, sandbox: Sandbox) -> None:
    """The wire knows no seconds in an offset: such a moment travels in UTC."""
    zone = timezone(timedelta(hours=5, seconds=59))
    client.track_lead(**LEAD, timestamp=datetime(2026, 1, 31, 12, tzinfo=zone))
    assert [payload["timestamp"] for payload in sent(sandbox)] == ["2026-01-31T06:59:01Z"]


def test_arguments_can_be_given_by_position(client: CMSClient, sandbox: Sandbox) -> None:
    """In the order of the documentation."""
    assert client.track_lead("signup", "user_1", "id_1")["success"] is True
    assert client.track_sale("id_1", "bought", "user_1", "inv_1", 5, "EUR")["success"] is True
    assert [(event.kind, event.click_id, event.event_name) for event in sandbox.events] == [
        ("lead", "id_1", "signup"),
        ("sale", "id_1", "bought"),
    ]


def test_a_follow_up_needs_no_click_id_after_a_deferred_lead(
    client: CMSClient, sandbox: Sandbox
) -> None:
    """The deferred flow, from storing the click to the lead that is credited to it."""
    assert client.track_lead(**LEAD, mode="deferred")["success"] is True
    assert sandbox.events == []
    assert client.track_lead("kyc_completed", "user_42")["success"] is True
    assert [event.click_id for event in sandbox.events] == ["id_123"]


def test_the_same_key_is_the_same_event(client: CMSClient, sandbox: Sandbox) -> None:
    """A call that is made again under its key is recorded once."""
    first = client.track_sale(**SALE, idempotency_key="order-7")
    assert client.track_sale(**SALE, idempotency_key="order-7") == first
    assert [event.idempotency_key for event in sandbox.events] == ["order-7"]


def test_each_call_has_a_key_of_its_own(client: CMSClient, sandbox: Sandbox) -> None:
    """Two calls are two events unless the caller says otherwise."""
    client.track_lead(**LEAD)
    client.track_lead(**{**LEAD, "event_name": "another"})
    keys = [event.idempotency_key for event in sandbox.events]
    assert len(set(keys)) == 2


def test_the_servers_refusal_comes_back_in_its_own_words(client: CMSClient) -> None:
    """A second sale under one invoice id is a conflict, told as the server tells it."""
    client.track_sale(**SALE)
    result = client.track_sale(**SALE)
    assert "error" in result
    assert (409, "conflict") == (result["status_code"], result["type"])
    assert result["error"] == "A sale with this invoice id has been recorded before."
    assert (result["retryable"], result["ambiguous"], result["attempts"]) == (False, False, 1)
