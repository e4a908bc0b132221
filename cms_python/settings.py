"""What a client is set up with: its arguments, then its configuration, then the environment."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
from typing import Optional
from urllib.parse import SplitResult, urlsplit

from urllib3.util import parse_url

from cms_python.configuration import SERVERS, Configuration

__all__ = ["check_limits", "is_this_machine", "with_connection", "with_token"]

LONGEST_TIMEOUT = 24 * 60 * 60
LARGEST_POOL = 10_000


def with_connection(configuration: Configuration, host: Optional[str]) -> Configuration:
    """The configuration with its host and proxy filled in. Raises ValueError, repeating neither."""
    _check_configuration(configuration)
    checked = _host(_first(host, configuration.host, os.environ.get("CMS_HOST") or SERVERS[0]))
    name, proxy = "proxy", configuration.proxy
    if proxy is None:
        # An empty proxy in the configuration goes without one.
        name = "the environment's proxy (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY)"
        proxy = _environment_proxy(urlsplit(checked))
    if proxy:
        _absolute_url(name, proxy, "http://proxy.example:3128")
    return dataclasses.replace(configuration, host=checked, proxy=proxy or None)


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


def _check_configuration(configuration: object) -> None:
    if not isinstance(configuration, Configuration):
        raise ValueError(
            f"configuration must be a Configuration, not {type(configuration).__name__}"
        )
    size = configuration.connection_pool_maxsize
    if type(size) is not int or not 1 <= size <= LARGEST_POOL:
        raise ValueError(f"connection_pool_maxsize must be an int from 1 to {LARGEST_POOL}")
    agent = configuration.user_agent
    if not isinstance(agent, str) or not agent.isascii() or not agent.isprintable():
        raise ValueError("user_agent must be printable ASCII text")
    for name in ("ssl_ca_cert", "cert_file", "key_file"):
        path = getattr(configuration, name)
        if path is not None and (not isinstance(path, str) or not path or "\0" in path):
            raise ValueError(f"{name} must be the path of a PEM file, as text")
    if configuration.key_file and not configuration.cert_file:
        raise ValueError("key_file needs cert_file: the certificate that the key belongs to")


def _absolute_url(name: str, value: object, example: str) -> SplitResult:
    """The parts of an http or https URL. Raises ValueError, for it may hold a password."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {type(value).__name__}")
    if not value.isascii() or not value.isprintable() or " " in value or "\\" in value:
        raise ValueError(f"{name} holds a space or another character that no URL has")
    try:
        url = urlsplit(value)
        # What urllib3 cannot read either must not come to light in a call.
        _ = url.port, parse_url(value)
    except ValueError:
        raise ValueError(f"{name} is no URL: its port or its brackets cannot be read") from None
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError(f"{name} must be an absolute http or https URL, such as {example}")
    return url


def _environment_proxy(host: SplitResult) -> Optional[str]:
    """The proxy that the environment names for a host, if NO_PROXY does not except it."""
    # By this name a proxy would look for itself, and over plain http it would get the token.
    if is_this_machine(host.hostname or ""):
        return None
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
