"""``cms-python check``: whether an event would get through, and what to do if not."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple, Optional
from urllib.parse import urljoin, urlsplit

import click
from click.core import ParameterSource

from cms_python import (
    ApiClient,
    ApiException,
    Configuration,
    LeadPayload,
    TimeoutException,
    TlsException,
    TrackResponse,
    TransportException,
    settings,
)
from cms_python.cli.common import (
    Command,
    Connection,
    Setting,
    connection_options,
    print_json,
    without_retries,
)

__all__ = ["check"]

PATH = "/track/lead"
# Seconds beyond which a clock is wrong: the Date header tells whole seconds, and travels a while.
LARGEST_SKEW = 60
SHOWN_OF_TOKEN = 4
# What time.gmtime() can turn into a date everywhere; it ends in the year 2242.
LATEST_EXPIRY = 2**33

Verdict = Literal["ok", "warning", "wrong"]
COLOURS = {"ok": "green", "warning": "yellow", "wrong": "red"}

SOMETHING_BETWEEN = (
    "Is something between, such as a login page or a firewall? Is the host the API's address?"
)
PROXY_CREDENTIALS = "Put user and password into {}: http://user:password@proxy:3128."


class Finding(NamedTuple):
    """One line: what was looked at, how it is, and what to do where it is not well."""

    step: str
    verdict: Verdict
    text: str
    advice: str = ""


@without_retries
@click.command(
    cls=Command,
    examples=[
        "cms-python check",
        "cms-python check --host https://app.cutmeshort.com --token-file token.txt",
        "cms-python check --json",
    ],
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@connection_options
def check(connection: Connection, as_json: bool) -> int:
    """Shows whether host, token, proxy, TLS and clock are right. Sends no event."""
    findings = []
    for finding in _findings(connection):
        findings.append(finding)
        if not as_json:
            _show(finding)
    if as_json:
        print_json([finding._asdict() for finding in findings])
    return int(any(finding.verdict == "wrong" for finding in findings))


def _show(finding: Finding) -> None:
    verdict = click.style(f"{finding.verdict:8}", fg=COLOURS[finding.verdict])
    click.echo(f"{verdict} {finding.step:11} {finding.text}")
    if finding.advice:
        click.echo(f"{'':20} {finding.advice}")


def _findings(connection: Connection) -> Iterator[Finding]:
    """The settings, then the steps; those that an earlier one makes impossible are left out."""
    address = [_host(connection.host)]
    if address[0].verdict != "wrong":
        address.append(_proxy(connection.host.value))
    yield from address
    yield _timeout(connection.timeout)
    token, finding = _token(connection)
    yield finding
    if all(each.verdict != "wrong" for each in address):
        configuration = settings.with_connection(Configuration(), connection.host.value)
        yield from _steps(replace(configuration, access_token=token), connection.timeout)


# The settings


def _host(host: Setting) -> Finding:
    try:
        # An empty proxy: that of the environment is another finding.
        checked = settings.with_connection(Configuration(proxy=""), host.value).host
    except ValueError as error:
        return Finding("host", "wrong", f"{error}.", f"It comes from {host.source}: mend it there.")
    url, text = urlsplit(str(checked)), f"{checked} ({host.source})"
    if url.scheme == "http" and not settings.is_this_machine(url.hostname or ""):
        return Finding("host", "warning", text, "The token travels unencrypted: use https://.")
    return Finding("host", "ok", text)


def _proxy(host: str) -> Finding:
    try:
        proxy = settings.with_connection(Configuration(), host).proxy
    except ValueError as error:
        advice = "Mend the variable or unset it, or name the host in NO_PROXY."
        return Finding("proxy", "wrong", f"{error}.", advice)
    if proxy:
        return Finding("proxy", "ok", f"{_address(proxy)} ({_proxy_variable(host, proxy)})")
    return Finding("proxy", "ok", f"none ({_reason_for_none(host)})")


def _reason_for_none(host: str) -> str:
    if not _proxies(host):
        return "the default"
    if settings.is_this_machine(urlsplit(host).hostname or ""):
        return "the host is this machine"
    return "NO_PROXY" if os.environ.get("no_proxy") or os.environ.get("NO_PROXY") else "the default"


def _proxies(host: str) -> dict[str, str]:
    """The variables of the environment that name a proxy for the host, the first to win first."""
    names = [f"{urlsplit(host).scheme}_proxy", "all_proxy"]
    each_case = [form for name in names for form in (name, name.upper())]
    return {name: os.environ[name] for name in each_case if os.environ.get(name)}


def _proxy_variable(host: str, proxy: str) -> str:
    """The variable that a proxy in use comes from."""
    # Which one wins is settled in cms_python.settings, which also puts http:// before a bare name.
    found = (name for name, value in _proxies(host).items() if proxy in (value, f"http://{value}"))
    return next(found, "the environment")


def _timeout(timeout: float) -> Finding:
    given = click.get_current_context().get_parameter_source("timeout")
    source = "--timeout" if given == ParameterSource.COMMANDLINE else "the default"
    return Finding("timeout", "ok", f"{timeout:g} seconds ({source})")


def _token(connection: Connection) -> tuple[Optional[str], Finding]:
    """The token if it can be sent, and what there is to say of it."""
    try:
        token = connection.token()
    except click.ClickException as error:
        return None, Finding("token", "wrong", error.message, "Name a file that you may read.")
    if token is None:
        advice = "Set CMS_BEARER_TOKEN, or pass --token-file FILE."
        return None, Finding("token", "wrong", "there is none", advice)
    try:
        settings.with_token(Configuration(), token.value)
    except ValueError as error:
        return None, Finding("token", "wrong", f"{error}.", f"It comes from {token.source}.")
    return token.value, _shape(token)


def _shape(token: Setting) -> Finding:
    length = min(SHOWN_OF_TOKEN, len(token.value) // 4)
    text = f"...{token.value[len(token.value) - length :]} ({token.source})"
    claims = _claims(token.value)
    if claims is None:
        advice = "The API may accept it all the same; was it copied whole?"
        return Finding("token", "warning", f"{text} is no JWT", advice)
    expiry = claims.get("exp")
    if isinstance(expiry, (int, float)) and expiry <= time.time():
        moment = time.gmtime(min(max(expiry, 0), LATEST_EXPIRY))
        day = time.strftime("%Y-%m-%d %H:%M UTC", moment)
        return Finding("token", "wrong", f"{text} expired at {day}", "Get a new one.")
    return Finding("token", "ok", text)


def _claims(token: str) -> Optional[dict[str, Any]]:
    """What a JWT says, unverified; None if it is none."""
    parts = token.split(".")
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        claims = json.loads(base64.urlsafe_b64decode(padded))
    except (IndexError, ValueError, RecursionError):
        return None
    return claims if len(parts) == 3 and isinstance(claims, dict) else None


# The steps


def _steps(configuration: Configuration, timeout: float) -> Iterator[Finding]:
    deadline = time.monotonic() + timeout
    name = _name(configuration.proxy or str(configuration.host), timeout)
    yield name
    if name.verdict == "ok":
        answer = _ask(configuration, deadline - time.monotonic())
        yield from _way(answer, configuration)
        if answer.status and answer.status != 407:
            yield from _reply(answer, configuration)


def _name(url: str, timeout: float) -> Finding:
    """Looks the name up, in a thread of its own since the system's look-up knows no deadline."""
    parts = urlsplit(url)
    name, port = str(parts.hostname), parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    found: list[str] = []

    def look_up() -> None:
        try:
            addresses = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return
        found.extend(dict.fromkeys(str(address[4][0]) for address in addresses))

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(timeout)
    if found:
        return Finding("name", "ok", f"{name} is {', '.join(found)}")
    if thread.is_alive():
        advice = "Does this machine reach its name server? --timeout gives it longer."
        return Finding("name", "wrong", f"{name} was not looked up in time", advice)
    advice = "Is it spelled right, and does this machine reach its name server?"
    return Finding("name", "wrong", f"{name} is not known", advice)


def _ask(configuration: Configuration, timeout: float) -> ApiException:
    """What came back for an empty lead, as an exception even where it was a success.

    An empty lead lacks all that is required, so the API can only refuse it and records nothing.
    It refuses a bad token first: who is told of missing fields has a token that it accepts.
    """
    empty = LeadPayload.model_construct()
    with ApiClient(configuration) as client:
        try:
            response = client.call(
                "POST", PATH, body=empty, headers={}, timeout=timeout, response_type=TrackResponse
            )
        except ApiException as error:
            return error
    return ApiException(response.status_code, headers=response.headers)


def _way(answer: ApiException, configuration: Configuration) -> Iterator[Finding]:
    """How far the request came: the connection, TLS, an answer at all."""
    proxy = configuration.proxy
    is_secure = str(configuration.host).startswith("https:")
    if isinstance(answer, TransportException) and not answer.sent and not _is_tls(answer):
        text = f"to the proxy {_address(proxy)}: {answer.reason}" if proxy else answer.reason
        yield Finding("connection", "wrong", text, _connection_advice(answer, configuration))
        return
    if answer.status == 407:
        advice = PROXY_CREDENTIALS.format("HTTPS_PROXY or HTTP_PROXY")
        yield Finding("connection", "wrong", "a proxy asks for credentials (407)", advice)
        return
    yield Finding("connection", "ok", "made, to the proxy" if proxy else "made")
    if _is_tls(answer):
        yield Finding("tls", "wrong", answer.reason, _tls_advice(answer.reason))
        return
    if is_secure:
        yield Finding("tls", "ok", "the certificate is trusted")
    if not answer.status:
        yield Finding("api", "wrong", answer.reason, _no_answer_advice(answer))


def _is_tls(answer: ApiException) -> bool:
    return isinstance(answer, TlsException)


def _connection_advice(answer: ApiException, configuration: Configuration) -> str:
    if configuration.proxy:
        variable = _proxy_variable(str(configuration.host), configuration.proxy)
        # All that is left of a proxy's answer to CONNECT is the transport's sentence.
        if "the proxy answered 407" in answer.reason:
            return PROXY_CREDENTIALS.format(variable)
        if "the proxy answered" in answer.reason:
            return "Ask who runs the proxy to let the host through, or name it in NO_PROXY."
        return f"Set {variable} to a proxy that works, or name the host in NO_PROXY."
    if isinstance(answer, TimeoutException):
        return "Is a firewall in the way, or the server busy? --timeout gives it longer."
    return "Are host and port right, and is a firewall in the way?"


def _tls_advice(reason: str) -> str:
    if "certificate" not in reason:
        return "Does the host speak https at this port, in a version of TLS of today?"
    return (
        "Are the host and this machine's clock right? If your network has its own certificate"
        " authority, name its file in SSL_CERT_FILE and in Configuration(ssl_ca_cert=...)."
    )


def _no_answer_advice(answer: ApiException) -> str:
    if isinstance(answer, TimeoutException):
        return "Is the server busy? --timeout gives it longer."
    return "Is the port right, and is it http or https?"


# The answer


def _reply(answer: ApiException, configuration: Configuration) -> Iterator[Finding]:
    """What a whole answer says of address, token and clock."""
    has_token = configuration.access_token is not None
    api = _api(answer, str(configuration.host), has_token)
    yield api
    if api.verdict == "wrong":
        # Whose clock it is, and who judged the token, is not known.
        return
    if has_token and api.verdict == "ok":
        yield _access(answer)
    if "date" in answer.headers:
        yield from _clock(answer.headers["date"])


def _api(answer: ApiException, host: str, has_token: bool) -> Finding:
    status = answer.status
    if status in {401, 403}:
        return Finding("api", "ok", "answers" if has_token else f"asks for a token ({status})")
    if status in {400, 422} and isinstance(answer.data, dict):
        return Finding("api", "ok", "answers")
    if status == 429:
        return Finding("api", "warning", "answers, and asks to wait (429)", "Try again later.")
    if status == 404:
        advice = "The host must be the address alone, without /track."
        return Finding("api", "wrong", "there is no API at this address (404)", advice)
    if 300 <= status < 400:
        target = _target(answer.headers.get("location", ""), host)
        return Finding("api", "wrong", f"redirects ({status})", f"Set the host to {target}.")
    if status >= 500:
        advice = "Nothing is wrong with your set-up so far: try again later."
        return Finding("api", "wrong", f"the server fails ({status})", advice)
    text = f"what answers there is not the API ({status})"
    return Finding("api", "wrong", text, SOMETHING_BETWEEN)


def _access(answer: ApiException) -> Finding:
    """Whether the token is accepted."""
    status = answer.status
    if status not in {401, 403}:
        return Finding("access", "ok", "the token is accepted")
    advice = "Is the token this account's, whole, and not revoked? Get a new one if in doubt."
    if not isinstance(answer.data, dict):
        advice += " A firewall may also have answered in the API's place."
    return Finding("access", "wrong", f"the token is not accepted ({status})", advice)


def _target(location: str, host: str) -> str:
    """The host to set where the API's path is redirected to a location."""
    unknown = "the API's address"
    try:
        url = urlsplit(urljoin(f"{host}{PATH}", location))
        target = _address(url.geturl())
    except ValueError:
        return unknown
    if url.path.endswith(PATH):
        target += url.path[: -len(PATH)]
    is_sensible = url.scheme in {"http", "https"} and target.isascii() and target.isprintable()
    # A path of its own, such as a login page, says nothing of where the API is.
    return target if is_sensible and target not in (host, _address(host)) else unknown


def _address(url: Optional[str]) -> str:
    """A URL's scheme, name and port, without the credentials that it may hold."""
    parts = urlsplit(url or "")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _clock(date: str) -> Iterator[Finding]:
    try:
        moment = parsedate_to_datetime(date)
    except (TypeError, ValueError, IndexError, OverflowError):
        return
    # HTTP knows no other zone, and its oldest form leaves it out.
    skew = time.time() - moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp()
    if abs(skew) <= LARGEST_SKEW:
        yield Finding("clock", "ok", "agrees with the API's")
        return
    text = f"is {abs(skew):.0f} seconds {'ahead of' if skew > 0 else 'behind'} the API's"
    advice = "Events would carry a wrong time: synchronise it, such as with NTP."
    yield Finding("clock", "warning", text, advice)
