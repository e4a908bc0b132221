"""The proxies that the environment names."""

from __future__ import annotations

import base64

import pytest
from fault_server import FaultServer, echo

from cms_python import CMSClient, Configuration
from cms_python.settings import with_connection

API = "https://api.example.com"


def chosen(host: str = API, proxy: str | None = None) -> str | None:
    return with_connection(Configuration(host=host, proxy=proxy), None).proxy


@pytest.mark.parametrize(
    ("variables", "host", "expected"),
    [
        ({"HTTPS_PROXY": "http://p:1"}, API, "http://p:1"),
        ({"https_proxy": "http://p:1"}, API, "http://p:1"),
        ({"https_proxy": "http://low:1", "HTTPS_PROXY": "http://up:1"}, API, "http://low:1"),
        ({"HTTPS_PROXY": "p:3128"}, API, "http://p:3128"),
        ({"HTTPS_PROXY": "https://me:pw@p:1"}, API, "https://me:pw@p:1"),
        ({"HTTPS_PROXY": ""}, API, None),
        ({"HTTP_PROXY": "http://p:1"}, API, None),
        ({"HTTP_PROXY": "http://p:1"}, "http://api.example.com", "http://p:1"),
        ({"http_proxy": "http://p:1"}, "http://api.example.com", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, "http://api.example.com", None),
        (
            {"http_proxy": "http://p:1", "REQUEST_METHOD": "GET"},
            "http://api.example.com",
            "http://p:1",
        ),
        ({"ALL_PROXY": "http://p:1"}, API, "http://p:1"),
        ({"ALL_PROXY": "http://all:1", "HTTPS_PROXY": "http://p:1"}, API, "http://p:1"),
        ({}, API, None),
    ],
)
def test_a_proxy_is_found_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], host: str, expected: str | None
) -> None:
    """By the scheme of the host, lower case before upper, with http:// where no scheme stands."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert chosen(host) == expected


@pytest.mark.parametrize(
    ("no_proxy", "host", "excepted"),
    [
        ("api.example.com", API, True),
        ("API.Example.COM", API, True),
        ("example.com", API, True),
        (".example.com", API, True),
        ("other.org, example.com", API, True),
        ("other.org example.com", API, True),
        ("*", API, True),
        ("api.example.com:443", API, True),
        ("ample.com", API, False),
        ("api.example.com.evil.org", API, False),
        ("other.org", API, False),
        ("", API, False),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3", "https://10.1.2.3:8443", True),
        ("2.3", "https://10.1.2.3", False),
        ("fd12::1", "https://[fd12::1]:8443", True),
        ("fd00::/8", "https://[fd12::1]", True),
    ],
)
def test_no_proxy_excepts_hosts(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, host: str, excepted: bool
) -> None:
    """A name, the domains below it, an address, a network, or a star for all."""
    monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert chosen(host) == (None if excepted else "http://p:1")


@pytest.mark.parametrize(
    "host",
    ["http://localhost:4010", "https://LOCALHOST.", "http://127.0.0.2", "https://[::1]:8443"],
)
def test_a_host_on_this_machine_needs_no_proxy(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """The environment's, which could not reach it, is not told the token; the program's is used."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://p:1")
    assert chosen(host) is None
    assert chosen(host, proxy="http://program:1") == "http://program:1"


def test_the_configurations_proxy_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program says outweighs the environment, NO_PROXY too; empty means none."""
    monkeypatch.setenv("HTTPS_PROXY", "http://environment:1")
    monkeypatch.setenv("NO_PROXY", "*")
    assert chosen(proxy="http://program:1") == "http://program:1"
    monkeypatch.delenv("NO_PROXY")
    assert chosen(proxy="") is None


@pytest.mark.parametrize(
    "proxy", ["socks5://me:s3cret@p:1", "http://", "http://me:s3cret@p:port", "http://p p", "p:1"]
)
def test_a_proxy_that_cannot_be_used_is_refused_when_the_client_is_made(proxy: str) -> None:
    """Going around a proxy in silence would be worse; its URL, with a password, is not shown."""
    with pytest.raises(ValueError, match=r"^proxy ") as caught:
        CMSClient("a-token", configuration=Configuration(proxy=proxy))
    assert "s3cret" not in str(caught.value)


def test_a_proxy_of_the_environment_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who did not write the proxy learns where it comes from."""
    monkeypatch.setenv("ALL_PROXY", "socks5://me:s3cret@p:1")
    with pytest.raises(ValueError, match=r"^the environment's proxy \(HTTPS_PROXY") as caught:
        CMSClient("a-token")
    assert "s3cret" not in str(caught.value)
    assert repr(CMSClient("a-token", configuration=Configuration(proxy="")))


def test_a_password_of_any_letters_reaches_the_proxy() -> None:
    """It may be escaped in the URL, and travels as UTF-8."""
    with FaultServer(echo) as proxy:
        url = proxy.url.replace("://", "://me:p%E2%82%AC%20s@")
        configuration = Configuration(proxy=url)
        with CMSClient("a-token", "http://127.0.0.1:9", configuration=configuration) as client:
            assert client.track_lead("signup", "user_1", "id_1")["success"] is True
    credentials = proxy.requests[0].headers["proxy-authorization"].removeprefix("Basic ")
    assert base64.b64decode(credentials).decode() == "me:p€ s"


def test_a_call_goes_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is told the whole URL; a host on this machine is reached directly."""
    with FaultServer(echo) as proxy, FaultServer(echo) as api:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with pytest.warns(UserWarning, match="plain http"):
            remote = CMSClient("a-token", "http://api.example.com")
        for client in (remote, CMSClient("a-token", api.url)):
            with client:
                assert client.track_lead("signup", "user_1", "id_1")["success"] is True
        assert [request.path for request in proxy.requests] == ["http://api.example.com/track/lead"]
        assert [request.path for request in api.requests] == ["/track/lead"]
