"""``cms-python check`` tells what keeps an event from getting through, and what to do about it."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple, Optional

import pytest
import trustme
from command import at_terminal, run
from fault_server import (
    Behaviour,
    FaultServer,
    answer,
    close_after_reading,
    garbage,
    nobody_listens,
    plain_http,
    redirect,
    silent,
    silent_before_reading,
    tunnel,
)

from cms_python.sandbox import Sandbox

REMOTE = "http://api.example.com"
REFUSED = answer(422, {"success": False, "error": "eventName is required"})


def jwt(**claims: Any) -> str:
    """A token as the API hands them out, signed by nobody."""
    parts = [{"alg": "HS256"}, claims, {"signed": "not"}]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()) for part in parts]
    return ".".join(part.decode().rstrip("=") for part in encoded)


TOKEN = jwt(sub="account_1", exp=int(time.time()) + 86_400)


class Said(NamedTuple):
    """How a check ended, and what it said of each step."""

    code: int
    text: str
    findings: dict[str, dict[str, str]]

    @property
    def wrong(self) -> list[str]:
        return [step for step, each in self.findings.items() if each["verdict"] == "wrong"]

    @property
    def last(self) -> str:
        return list(self.findings)[-1]


def check(
    host: str,
    *arguments: str,
    token: Optional[str] = TOKEN,
    env: Optional[Mapping[str, str]] = None,
) -> Said:
    given = {"CMS_HOST": host, **({"CMS_BEARER_TOKEN": token} if token else {}), **(env or {})}
    ran = run("check", "--json", *arguments, env=given)
    assert "" == ran.stderr
    assert not token or token not in ran.stdout
    listed = json.loads(ran.stdout)
    findings = {each["step"]: each for each in listed}
    assert len(listed) == len(findings), "a step is told of twice"
    return Said(ran.returncode, ran.stdout, findings)


def checked(behaviour: Behaviour, *arguments: str, **more: Any) -> Said:
    with FaultServer(behaviour) as server:
        return check(server.url, *arguments, **more)


@pytest.fixture
def strict() -> Iterator[Sandbox]:
    with Sandbox(token=TOKEN) as running:
        yield running


# All is well


def test_a_good_set_up(strict: Sandbox) -> None:
    """Exit code 0, each setting with its source, and no event sent."""
    ran = run("check", env={"CMS_HOST": strict.url, "CMS_BEARER_TOKEN": TOKEN})
    assert (0, "") == (ran.returncode, ran.stderr)
    lines = [line.split(maxsplit=2) for line in ran.stdout.splitlines()]
    assert [
        ["ok", "host", f"{strict.url} (CMS_HOST)"],
        ["ok", "proxy", "none (the default)"],
        ["ok", "timeout", "10 seconds (the default)"],
        ["ok", "token", f"...{TOKEN[-4:]} (CMS_BEARER_TOKEN)"],
        ["ok", "name", "127.0.0.1 is 127.0.0.1"],
        ["ok", "connection", "made"],
        ["ok", "api", "answers"],
        ["ok", "access", "the token is accepted"],
        ["ok", "clock", "agrees with the API's"],
    ] == lines
    assert ([], {}) == (strict.events, strict.deferred_clicks)


def test_where_settings_come_from(strict: Sandbox, tmp_path: Path) -> None:
    """An option wins over the environment, and is named."""
    file = tmp_path / "token.txt"
    file.write_text(f"{TOKEN}\n")
    wrong = "http://127.0.0.1:1"
    said = check(
        wrong, "--host", strict.url, "--token-file", str(file), "--timeout", "3", token="another"
    )
    assert 0 == said.code
    assert f"{strict.url} (--host)" == said.findings["host"]["text"]
    assert f"...{TOKEN[-4:]} (--token-file {file})" == said.findings["token"]["text"]
    assert "3 seconds (--timeout)" == said.findings["timeout"]["text"]


def test_what_is_sent_is_no_event() -> None:
    """One request, with nothing in it that could be counted."""
    with FaultServer(REFUSED) as server:
        assert 0 == check(server.url).code
    (request,) = server.requests
    assert ("POST", "/track/lead", b"{}") == (request.method, request.path, request.body)
    assert f"Bearer {TOKEN}" == request.headers["authorization"]


def test_a_proxy_that_works(strict: Sandbox) -> None:
    """The variable that names it is shown, and its password is not."""
    with FaultServer(REFUSED) as proxy:
        env = {"HTTP_PROXY": proxy.url.replace("//", "//user:pa55word@")}
        said = check(REMOTE, env=env)
        assert f"{proxy.url} (HTTP_PROXY)" == said.findings["proxy"]["text"]
        assert (0, "made, to the proxy") == (said.code, said.findings["connection"]["text"])
        assert "pa55word" not in said.text
        assert [f"{REMOTE}/track/lead"] == [request.path for request in proxy.requests]
        said = check(strict.url, env=env)
        assert (0, "none (the host is this machine)") == (said.code, said.findings["proxy"]["text"])
        said = check("http://host.invalid", env={**env, "NO_PROXY": "host.invalid"})
    assert (["name"], "none (NO_PROXY)") == (said.wrong, said.findings["proxy"]["text"])
    assert 1 == len(proxy.requests)


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("abc", "..."),
        ("abcd", "...d"),
        ("abcdefgh", "...gh"),
        ("abcdefghijklmnopqrstuvwx", "...uvwx"),
    ],
)
def test_only_the_end_of_a_token_is_shown(token: str, shown: str) -> None:
    """Four characters, and never more than a quarter of it."""
    said = checked(REFUSED, token=token)
    assert 0 == said.code
    assert f"{shown} (CMS_BEARER_TOKEN) is no JWT" == said.findings["token"]["text"]


def test_colours_are_for_terminals(strict: Sandbox) -> None:
    """A log file holds text alone, and so does a terminal where NO_COLOR is set."""
    env = {"CMS_HOST": strict.url, "CMS_BEARER_TOKEN": TOKEN}
    assert "\x1b" not in run("check", env=env).stdout
    with at_terminal("check", env=env) as terminal:
        assert 0 == terminal.end()
    assert "\x1b[32mok" in terminal.shown
    with at_terminal("check", env={**env, "NO_COLOR": "1"}) as terminal:
        assert 0 == terminal.end()
    assert "\x1b" not in terminal.shown
    assert "ok       access" in terminal.shown


# Something is wrong


def test_a_token_that_is_not_accepted(strict: Sandbox) -> None:
    """The API says so."""
    said = check(strict.url, token=jwt(sub="somebody_else"))
    assert (1, ["access"]) == (said.code, said.wrong)
    assert "the token is not accepted (401)" == said.findings["access"]["text"]
    assert "Get a new one" in said.findings["access"]["advice"]
    assert "firewall" not in said.findings["access"]["advice"]


def test_a_firewall_that_forbids() -> None:
    """What does not answer as the API does may not be it."""
    said = checked(answer(403, "<html>Forbidden</html>"))
    assert (1, ["access"]) == (said.code, said.wrong)
    assert "firewall" in said.findings["access"]["advice"]


def test_no_token(strict: Sandbox) -> None:
    """What to set, and whether the API answers at all."""
    said = check(strict.url, token=None)
    assert (1, ["token"]) == (said.code, said.wrong)
    assert "Set CMS_BEARER_TOKEN" in said.findings["token"]["advice"]
    assert "asks for a token (401)" == said.findings["api"]["text"]
    assert "access" not in said.findings


def test_a_token_that_has_expired() -> None:
    """It says since when, whatever the API thinks of it."""
    said = checked(REFUSED, token=jwt(exp=1_700_000_000))
    assert (1, ["token"]) == (said.code, said.wrong)
    assert "expired at 2023-11-14 22:13 UTC" in said.findings["token"]["text"]


@pytest.mark.parametrize(
    ("expiry", "code"),
    [(float("-inf"), 1), (-1e300, 1), (float("inf"), 0), (float("nan"), 0), ("soon", 0)],
)
def test_an_expiry_that_is_no_date(expiry: object, code: int) -> None:
    """Whatever stands in a token, the check goes on to its end."""
    said = checked(REFUSED, token=jwt(exp=expiry))
    assert (code, "access") == (said.code, said.last)


def test_a_token_that_is_none() -> None:
    """A control character is wrong; what is no JWT is only noted."""
    said = checked(REFUSED, token="two\nlines")
    assert (1, ["token"]) == (said.code, said.wrong)
    said = checked(REFUSED, token="a-plain-token")
    assert (0, "warning") == (said.code, said.findings["token"]["verdict"])


def test_a_host_that_is_none() -> None:
    """It says where the host comes from."""
    said = check("app.cutmeshort.com")
    assert (1, ["host"]) == (said.code, said.wrong)
    assert "must be an absolute http or https URL" in said.findings["host"]["text"]
    assert "CMS_HOST" in said.findings["host"]["advice"]
    assert ["host", "timeout", "token"] == list(said.findings)


def test_a_proxy_that_is_none() -> None:
    """The host, which is right, is not blamed, and no password is shown."""
    said = check(REMOTE, env={"HTTP_PROXY": "socks5://user:pa55word@127.0.0.1:1"})
    assert (1, ["proxy"]) == (said.code, said.wrong)
    assert "HTTP_PROXY" in said.findings["proxy"]["text"]
    assert "Mend the variable" in said.findings["proxy"]["advice"]
    assert "pa55word" not in said.text
    assert "name" not in said.findings


def test_a_name_that_is_not_known() -> None:
    """No step after it is shown as done."""
    said = check("https://no-such-host.invalid", "--timeout", "5")
    assert (1, ["name"]) == (said.code, said.wrong)
    assert "spelled right" in said.findings["name"]["advice"]
    assert "name" == said.last


def test_a_port_that_refuses() -> None:
    """Host, port or firewall."""
    with nobody_listens() as url:
        said = check(url)
    assert (1, ["connection"]) == (said.code, said.wrong)
    assert "host and port" in said.findings["connection"]["advice"]
    assert "connection" == said.last


def test_a_certificate_that_is_not_trusted() -> None:
    """It says where to name an authority of one's own; with that it goes well."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with FaultServer(REFUSED, tls=context) as server, authority.cert_pem.tempfile() as file:
        said = check(server.url)
        assert (1, ["tls"]) == (said.code, said.wrong)
        assert "SSL_CERT_FILE" in said.findings["tls"]["advice"]
        assert ("ok", "tls") == (said.findings["connection"]["verdict"], said.last)
        assert [] == server.requests
        said = check(server.url, env={"SSL_CERT_FILE": file})
        assert (0, "the certificate is trusted") == (said.code, said.findings["tls"]["text"])


def test_https_where_http_is_spoken() -> None:
    """No certificate would help."""
    with FaultServer(plain_http) as server:
        said = check(server.url.replace("http:", "https:"))
    assert (1, ["tls"]) == (said.code, said.wrong)
    assert "speak https at this port" in said.findings["tls"]["advice"]


def test_a_path_that_leads_nowhere(strict: Sandbox) -> None:
    """The host is the address alone."""
    said = check(f"{strict.url}/track")
    assert (1, ["api"]) == (said.code, said.wrong)
    assert "without /track" in said.findings["api"]["advice"]
    assert "api" == said.last


@pytest.mark.parametrize(("seconds", "where"), [(3600, "behind"), (-3600, "ahead of")])
def test_a_clock_that_is_off(seconds: int, where: str) -> None:
    """Events would carry a wrong time; a warning, since they get through."""
    date = {"Date": formatdate(time.time() + seconds, usegmt=True)}
    said = checked(answer(422, {"success": False}, date))
    assert (0, "warning") == (said.code, said.findings["clock"]["verdict"])
    assert f"{where} the API's" in said.findings["clock"]["text"]
    assert "NTP" in said.findings["clock"]["advice"]


def test_a_clock_is_told_in_every_form_of_date() -> None:
    """HTTP's oldest form names no zone, and means UTC wherever this machine is."""
    date = time.strftime("%a %b %d %H:%M:%S %Y", time.gmtime())
    said = checked(answer(422, {"success": False}, {"Date": date}), env={"TZ": "UTC-5"})
    assert "agrees with the API's" == said.findings["clock"]["text"]


@pytest.mark.parametrize("date", ["yesterday", "Mon, 99 Foo 2026 99:99:99 GMT", ""])
def test_a_clock_that_nobody_can_read(date: str) -> None:
    """An odd header is no reason to fail."""
    said = checked(answer(422, {"success": False}, {"Date": date}))
    assert (0, False) == (said.code, "clock" in said.findings)


def test_a_dead_proxy() -> None:
    """The proxy and its variable are named, without its password."""
    with nobody_listens() as url:
        said = check(REMOTE, env={"HTTP_PROXY": url.replace("//", "//user:pa55word@")})
    assert (1, ["connection"]) == (said.code, said.wrong)
    assert f"to the proxy {url}: No connection" in said.findings["connection"]["text"]
    assert "Set HTTP_PROXY to a proxy that works" in said.findings["connection"]["advice"]
    assert "pa55word" not in said.text
    assert "connection" == said.last


def test_the_address_of_a_proxy_is_shown_as_it_is_written() -> None:
    """With the brackets that such an address needs."""
    said = check(REMOTE, env={"ALL_PROXY": "http://[::1]:1"})
    assert "http://[::1]:1 (ALL_PROXY)" == said.findings["proxy"]["text"]


@pytest.mark.parametrize(
    ("status", "advice"), [(407, "user and password into HTTPS_PROXY"), (403, "runs the proxy")]
)
def test_a_proxy_that_refuses(status: int, advice: str) -> None:
    """Its credentials, or whom to ask."""
    with FaultServer(answer(status, "{}")) as proxy:
        said = check("https://api.example.com", env={"HTTPS_PROXY": proxy.url})
    assert (1, ["connection"]) == (said.code, said.wrong)
    assert advice in said.findings["connection"]["advice"]
    assert "connection" == said.last


def test_tls_through_a_proxy() -> None:
    """The certificate is the API's, not the proxy's."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.example.com").configure_cert(context)
    with (
        FaultServer(REFUSED, tls=context) as server,
        FaultServer(tunnel) as proxy,
        authority.cert_pem.tempfile() as file,
    ):
        url = server.url.replace("127.0.0.1", "api.example.com")
        said = check(url, env={"https_proxy": proxy.url, "SSL_CERT_FILE": file})
    assert (0, f"{proxy.url} (https_proxy)") == (said.code, said.findings["proxy"]["text"])
    assert "the certificate is trusted" == said.findings["tls"]["text"]


@pytest.mark.parametrize(
    ("behaviour", "step", "text", "advice"),
    [
        (answer(200, "<html>Welcome</html>"), "api", "is not the API (200)", "login page"),
        (answer(200, {"success": True}), "api", "is not the API (200)", "login page"),
        (answer(400, "<html>Bad</html>"), "api", "is not the API (400)", "firewall"),
        (answer(405, {"error": "No"}), "api", "is not the API (405)", "firewall"),
        (answer(407, "{}"), "connection", "asks for credentials (407)", "user and password"),
        (answer(503, "{}"), "api", "the server fails (503)", "try again later"),
        (garbage, "api", "does not speak HTTP", "http or https"),
        (close_after_reading, "api", "broke off", "http or https"),
    ],
)
def test_an_answer_that_is_not_the_apis(
    behaviour: Behaviour, step: str, text: str, advice: str
) -> None:
    """Each has an advice of its own, and neither token nor clock is judged by it."""
    said = checked(behaviour)
    assert (1, [step], step) == (said.code, said.wrong, said.last)
    assert text in said.findings[step]["text"]
    assert advice in said.findings[step]["advice"]


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://other.example/x", "https://other.example"),
        ("//other.example:81/x", "http://other.example:81"),
        ("https://me:pa55word@other.example/v2/track/lead", "https://other.example/v2"),
        ("/login", "the API's address"),
        ("/track/lead", "the API's address"),
        ("https://[broken", "the API's address"),
        ("mailto:me@other.example", "the API's address"),
        (None, "the API's address"),
    ],
)
def test_a_redirect(location: Optional[str], target: str) -> None:
    """The host to set, where the redirect tells it."""
    said = checked(redirect(308, location))
    assert (1, ["api"], "api") == (said.code, said.wrong, said.last)
    assert "redirects (308)" == said.findings["api"]["text"]
    assert f"Set the host to {target}." == said.findings["api"]["advice"]


def test_a_server_that_says_nothing() -> None:
    """The check ends in the time that it is given; the connection is made all the same."""
    said = checked(silent, "--timeout", "2")
    assert (1, ["api"], "api") == (said.code, said.wrong, said.last)
    assert "--timeout" in said.findings["api"]["advice"]


def test_a_server_that_never_ends_its_handshake() -> None:
    """A firewall that takes a connection and passes nothing on looks like this."""
    with FaultServer(silent_before_reading) as server:
        said = check(server.url.replace("http:", "https:"), "--timeout", "0.5")
    assert (1, ["connection"], "connection") == (said.code, said.wrong, said.last)
    assert "firewall" in said.findings["connection"]["advice"]


def test_an_api_that_asks_to_wait() -> None:
    """It answers, so nothing is wrong."""
    said = checked(answer(429, "{}"))
    assert (0, "warning") == (said.code, said.findings["api"]["verdict"])


def test_a_token_file_that_is_not_there() -> None:
    """A finding like any other, and the rest is looked at all the same."""
    said = checked(answer(401, {"success": False}), "--token-file", "nowhere.txt")
    assert (1, ["token"]) == (said.code, said.wrong)
    assert "--token-file nowhere.txt cannot be read" in said.findings["token"]["text"]
    assert "asks for a token (401)" == said.findings["api"]["text"]


def test_each_wrong_line_is_followed_by_an_advice() -> None:
    """For people, below what it is about."""
    ran = run("check", env={"CMS_HOST": "nowhere", "CMS_BEARER_TOKEN": TOKEN})
    assert (1, "") == (ran.returncode, ran.stderr)
    first, second, *_ = ran.stdout.splitlines()
    assert ["wrong", "host"] == first.split()[:2]
    assert "It comes from CMS_HOST: mend it there." == second.strip()


@pytest.mark.parametrize("arguments", [["--timeout", "0"], ["--no-such"], ["--token", "a-token"]])
def test_wrong_use(arguments: list[str]) -> None:
    """Exit code 2, and nothing on stdout that could be taken for findings."""
    ran = run("check", *arguments)
    assert (2, "") == (ran.returncode, ran.stdout)
    assert "a-token" not in ran.stderr
