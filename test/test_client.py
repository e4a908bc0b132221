"""How a client is made, shown, copied and closed."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from typing import Any

import pytest

from cms_python import CMSClient, Configuration, Delivery, Event, TrackResult
from cms_python.events import InvalidEvent
from cms_python.results import success
from cms_python.sandbox import Sandbox


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "token is missing: pass CMSClient(token=...) or set CMS_BEARER_TOKEN"),
        ("", "token is blank: pass CMSClient(token=...) or set CMS_BEARER_TOKEN"),
        (" \t", "token is blank: pass CMSClient(token=...) or set CMS_BEARER_TOKEN"),
        (b"s3cret", "token must be text, not bytes"),
        (5, "token must be text, not int"),
        ("s3crét", "token holds a character that is not ASCII: copy it again"),
        ("s3cret\n", "token holds a control character, such as a newline: strip it"),
        ("s3cret\r\nX-Injected: 1", "token holds a control character, such as a newline: strip it"),
        ("s3cret\x7f", "token holds a control character, such as a newline: strip it"),
    ],
)
def test_a_token_that_cannot_be_sent_is_refused_when_the_client_is_made(
    token: Any, message: str
) -> None:
    """The program fails where it starts, not at a customer's checkout; the token is not shown."""
    with pytest.raises(ValueError, match="token") as caught:
        CMSClient(token=token)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "host",
    [
        "",
        "app.cutmeshort.com",
        "//app.cutmeshort.com",
        "ftp://app.cutmeshort.com",
        "file:///etc/passwd",
        "https://",
        "https:///track",
        "https://:443",
        "https://app.cutmeshort.com:port",
        "https://app.cutmeshort.com:99999",
        "https://[::1",
        "https://app.cutme short.com",
        " https://app.cutmeshort.com",
        "https://app.cutmeshort.com\n",
        "https://app.cutmeshort.com\\@evil.example",
        "https://käse.example",
        "https://me:s3cret@app.cutmeshort.com",
        "https://app.cutmeshort.com?x=s3cret",
        "https://app.cutmeshort.com?",
        "https://app.cutmeshort.com/#s3cret",
        "http://[::1]x:1",
        "http://[v1.a]",
        "http://a%zz",
        b"https://app.cutmeshort.com",
        5,
    ],
)
def test_a_host_that_is_no_absolute_url_is_refused(host: Any) -> None:
    """Again where the program starts; what may be a password is not shown."""
    with pytest.raises(ValueError, match=r"^host ") as caught:
        CMSClient(token="a-token", host=host)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        (None, "https://app.cutmeshort.com"),
        ("https://custom.com", "https://custom.com"),
        ("https://custom.com/", "https://custom.com"),
        ("https://custom.com:8443/api/", "https://custom.com:8443/api"),
        ("HTTPS://Custom.com", "https://Custom.com"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://localhost", "http://localhost"),
    ],
)
def test_a_repr_shows_the_host_and_nothing_else(host: str | None, shown: str) -> None:
    """A client may be logged."""
    assert repr(CMSClient(token="a-token", host=host)) == f"CMSClient(host={shown!r})"


def test_token_and_host_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    """CMS_BEARER_TOKEN and CMS_HOST set up a client that was given nothing."""
    monkeypatch.setenv("CMS_BEARER_TOKEN", "a-token")
    monkeypatch.setenv("CMS_HOST", sandbox.url)
    with CMSClient() as client:
        assert client.track_lead("signup", "user_1", "id_1")["success"] is True


def test_an_argument_comes_before_the_configuration_and_that_before_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is nearer to the call wins."""
    monkeypatch.setenv("CMS_HOST", "https://environment.example")
    configuration = Configuration(host="https://configuration.example", access_token="a-token")
    assert "//environment." in repr(CMSClient("a-token"))
    assert "//configuration." in repr(CMSClient(configuration=configuration))
    assert "//argument." in repr(CMSClient(None, "https://argument.example",
                                           configuration=configuration))  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"connection_pool_maxsize": 0}, "connection_pool_maxsize must be an int from 1 to 10000"),
        ({"connection_pool_maxsize": "64"}, "connection_pool_maxsize must be"),
        ({"connection_pool_maxsize": True}, "connection_pool_maxsize must be"),
        ({"connection_pool_maxsize": 50_000_000}, "connection_pool_maxsize must be"),
        ({"user_agent": None}, "user_agent must be printable ASCII text"),
        ({"user_agent": "a\nInjected: yes"}, "user_agent must be printable ASCII text"),
        ({"user_agent": "€"}, "user_agent must be printable ASCII text"),
        ({"ssl_ca_cert": 5}, "ssl_ca_cert must be the path of a PEM file, as text"),
        ({"ssl_ca_cert": "a\0b"}, "ssl_ca_cert must be the path of a PEM file, as text"),
        ({"cert_file": ""}, "cert_file must be the path of a PEM file, as text"),
        ({"key_file": "client.key"}, "key_file needs cert_file"),
        ({"proxy": "http://a%zz:1"}, "proxy is no URL"),
        ({"proxy": 5}, "proxy must be text, not int"),
        ({"host": 5}, "host must be text, not int"),
        ({"access_token": 5}, "token must be text, not int"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_when_the_client_is_made(
    changes: dict[str, Any], message: str
) -> None:
    """Where the program starts, by the name of the setting."""
    configuration = Configuration(**{"access_token": "a-token", **changes})
    with pytest.raises(ValueError, match=f"^{message}"):
        CMSClient(configuration=configuration)


def test_what_is_no_configuration_or_delivery_is_refused() -> None:
    """Also where it is empty, or looks much like one."""
    with pytest.raises(ValueError, match="configuration must be a Configuration, not dict"):
        CMSClient("a-token", configuration={})  # type: ignore[arg-type]  # the mistake
    with pytest.raises(TypeError, match="delivery must be a Delivery, not list"):
        CMSClient("a-token", delivery=[])  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 86401, True, "10", None])
def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    """Nothing that would wait for ever, or not at all, is accepted."""
    with pytest.raises(ValueError, match=r"^timeout must be"):
        CMSClient("a-token", timeout=timeout)


@pytest.mark.parametrize("max_retries", [-1, 1.5, True, "3", None])
def test_the_number_of_retries_is_a_whole_number(max_retries: Any) -> None:
    """Nothing that cannot be counted down is accepted."""
    with pytest.raises(ValueError, match=r"^max_retries must be"):
        CMSClient("a-token", max_retries=max_retries)


@pytest.mark.parametrize("host", ["http://api.example.com", "http://10.0.0.7:8000"])
def test_plain_http_to_another_machine_warns(host: str) -> None:
    """The token would be readable on the way; the warning names the line that made the client."""
    with pytest.warns(UserWarning, match="plain http") as caught:
        CMSClient("a-token", host)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "host", ["https://api.example.com", "http://localhost:1", "http://127.9.9.9", "http://[::1]:1"]
)
def test_https_and_this_machine_do_not_warn(host: str) -> None:
    """Nobody can listen there."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CMSClient("a-token", host)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy, copy.copy])
def test_a_client_is_not_pickled(copied: Any) -> None:
    """It holds a token; each process makes its own."""
    with pytest.raises(TypeError, match="holds a token"):
        copied(CMSClient("a-token"))


def test_closing_twice_is_fine_and_a_later_call_still_works(sandbox: Sandbox) -> None:
    """A sale that comes after close() is not lost."""
    with CMSClient("a-token", sandbox.url) as client:
        client.track_lead("signup", "user_1", "id_1")
    client.close()
    client.close()
    assert client.track_lead("trial", "user_1", "id_1")["success"] is True
    assert [event.event_name for event in sandbox.events] == ["signup", "trial"]


def test_a_result_pickles_and_is_json(client: CMSClient) -> None:
    """It can go into a log, a cache or a queue."""
    for result in (client.track_lead("signup", "user_1", "id_1"), client.track_lead("", "")):
        assert pickle.loads(pickle.dumps(result)) == result
        assert json.loads(json.dumps(result)) == result


class Collecting(Delivery):
    """A delivery of one's own."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def deliver(self, event: Event) -> TrackResult:
        self.events.append(event)
        return success("Collected")


def test_a_delivery_of_ones_own_takes_the_events() -> None:
    """It needs no token, sees checked events only, and its result is what comes back."""
    delivery = Collecting()
    with CMSClient(delivery=delivery) as client:
        assert client.track_lead("signup", "user_1", idempotency_key="key-1") == {
            "success": True,
            "message": "Collected",
            "data": None,
        }
        assert client.track_lead("", "user_1")["success"] is False
        assert client.flush(timeout=1.0) is True
        with pytest.raises(TypeError, match="with_options"):
            client.with_options(timeout=1.0)
    (event,) = delivery.events
    assert (event.kind, event.idempotency_key) == ("lead", "key-1")


def test_an_event_shows_no_person() -> None:
    """A delivery may log what it delivers."""
    event = Event.create("lead", {"event_name": "a", "customer_external_id": "b",
                                  "customer_email": "jane@example.com"})  # fmt: skip
    assert "jane" not in repr(event)


@pytest.mark.parametrize(
    ("kind", "fields", "details"),
    [
        ("refund", {"event_name": "a"}, {"kind": "must be lead or sale"}),
        ("lead", {"event_name": "a", "customer_external_id": "b", "invoice_id": "c"},
         {"invoice_id": "is no field of this kind of event: leave it out"}),
    ],
)  # fmt: skip
def test_an_event_that_is_made_by_hand_says_what_is_wrong(
    kind: Any, fields: dict[str, Any], details: dict[str, str]
) -> None:
    """A field of another kind, and a kind that there is not."""
    with pytest.raises(InvalidEvent) as caught:
        Event.create(kind, fields)
    assert caught.value.details == details


def test_other_limits_share_the_connections(sandbox: Sandbox) -> None:
    """with_options() is cheap enough for a single call, and leaves the client as it was."""
    with CMSClient("a-token", sandbox.url) as client:
        client.track_lead("signup", "user_1", "id_1")
        hasty = client.with_options(timeout=5.0)
        assert repr(hasty) == repr(client)
        assert hasty.track_lead("trial", "user_1", "id_1")["success"] is True
        with pytest.raises(ValueError, match=r"^timeout"):
            client.with_options(timeout=0)
        with pytest.raises(ValueError, match=r"^max_retries"):
            client.with_options(max_retries=-1)
