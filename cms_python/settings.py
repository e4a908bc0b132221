"""What a client is set up with: its arguments, then its configuration, then the environment."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
from typing import Optional
from urllib.parse import SplitResult, urlsplit

from cms_python.configuration import SERVERS, Configuration

__all__ = ["check_limits", "is_this_machine", "with_connection", "with_token"]

LONGEST_TIMEOUT = 24 * 60 * 60


def with_connection(configuration: Configuration, host: Optional[str]) -> Configuration:
    """The configuration with its host and proxy filled in. Raises ValueError, repeating neither."""
    address = _first(host, configuration.host, os.environ.get("CMS_HOST") or SERVERS[0])
    checked = _host(address)
    proxy = configuration.proxy
    if proxy is None:
        proxy = _environment_proxy(urlsplit(checked))
    return dataclasses.replace(configuration, host=checked, proxy=_proxy(proxy))


def with_token(configuration: Configuration, token: Optional[str]) -> Configuration:
    """The configuration with its token filled in. Raises ValueError, which does not repeat it."""
    given = _first(token, configuration.access_token, os.environ.get("CMS_BEARER_TOKEN"))
    return dataclasses.replace(configuration, access_token=_token(given))


def check_limits(timeout: object, max_retries: object) -> None:
    """Raises ValueError for a timeout or a number of retries that cannot be used."""
    if (
        not isinstance(timeout, (int, float))
        or isinstance(timeout, bool)
        or not 0 < timeout <= LONGEST_TIMEOUT
    ):
        raise ValueError("timeout must be a number of seconds above 0, at most 86400 (a day)")
    if not isinstance(max_retries, int) or isinstance(max_retries, bool) or max_retries < 0:
        raise ValueError("max_retries must be an int of at least 0")


def is_this_machine(hostname: str) -> bool:
    """Whether what is sent to a host never leaves this machine."""
    address = _ip_address(hostname)
    return address.is_loopback if address else hostname.rstrip(".").lower() == "localhost"


def _first(*values: Optional[str]) -> Optional[str]:
    return next((value for value in values if value is not None), None)


def _token(token: object) -> str:
    if token is None:
        raise ValueError("token is missing: pass CMSClient(token=...) or set CMS_BEARER_TOKEN")
    if not isinstance(token, str):
        raise ValueError(f"token must be text, not {type(token).__name__}")
    if not token.strip():
        raise ValueError("token is blank: pass CMSClient(token=...) or set CMS_BEARER_TOKEN")
    if not token.isascii():
        raise ValueError("token holds a character that is not ASCII: copy it again")
    if not token.isprintable():
        raise ValueError("token holds a control character, such as a newline: strip it")
    return token


def _host(host: object) -> str:
    url = _absolute_url("host", host, "https://app.cutmeshort.com")
    if "@" in url.netloc:
        raise ValueError("host must hold no credentials: the token goes into token=")
    text = url.geturl()
    if "?" in str(host) or "#" in str(host):
        raise ValueError("host must hold no query and no fragment")
    return text.rstrip("/")


def _proxy(proxy: Optional[str]) -> Optional[str]:
    return _absolute_url("proxy", proxy, "http://proxy.example:3128").geturl() if proxy else None


def _absolute_url(name: str, value: object, example: str) -> SplitResult:
    """The parts of an http or https URL. Raises ValueError, for it may hold a password."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {type(value).__name__}")
    if not value.isascii() or not value.isprintable() or " " in value or "\\" in value:
        raise ValueError(f"{name} holds a space or another character that no URL has")
    try:
        url = urlsplit(value)
        _ = url.port
    except ValueError:
        raise ValueError(f"{name} is no URL: its port or its brackets cannot be read") from None
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError(f"{name} must be an absolute http or https URL, such as {example}")
    return url


def _environment_proxy(host: SplitResult) -> Optional[str]:
    """The proxy that the environment names for a host, if NO_PROXY does not except it."""
    variable = f"{host.scheme}_proxy"
    # A web server's CGI sets HTTP_PROXY to what a visitor sent as the header Proxy.
    foreign = variable == "http_proxy" and "REQUEST_METHOD" in os.environ
    proxy = os.environ.get(variable) if foreign else _variable(variable)
    proxy = proxy or _variable("all_proxy")
    if not proxy or _is_excepted(host.hostname or "", _variable("no_proxy") or ""):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _variable(name: str) -> Optional[str]:
    return os.environ.get(name) or os.environ.get(name.upper())


def _is_excepted(hostname: str, no_proxy: str) -> bool:
    """Whether NO_PROXY holds the host: its name, a domain above it, its network, or a star."""
    address = _ip_address(hostname)
    for entry in no_proxy.replace(",", " ").lower().split():
        if entry == "*" or (address and _is_in_network(address, entry)):
            return True
        domain = entry.rpartition(":")[0] if entry.rpartition(":")[2].isdigit() else entry
        domain = domain.strip(".")
        if not address and (hostname == domain or hostname.endswith(f".{domain}")):
            return True
    return False


def _ip_address(hostname: str) -> Optional[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        return ipaddress.ip_address(hostname)
    except ValueError:
        return None


def _is_in_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: str) -> bool:
    """Whether an entry of NO_PROXY is a network, such as 10.0.0.0/8, that holds the address."""
    try:
        return address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
