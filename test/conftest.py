"""What the tests share: a sandbox, a client of it, and no way out of this machine."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from cms_python import CMSClient
from cms_python.settings import is_this_machine

if TYPE_CHECKING:
    from cms_python.sandbox import Sandbox

if sys.platform == "win32":
    # They drive a terminal or a POSIX shell, of which Windows has none.
    collect_ignore = [
        "test_cli.py",
        "test_cli_check.py",
        "test_cli_import.py",
        "test_docs.py",
        "test_recipes.py",
    ]


@pytest.fixture(scope="session")
def running_sandbox() -> Iterator[Sandbox]:
    """One sandbox for the whole run; tests take `sandbox`, which is empty."""
    # Imported late: tests that use none run where its packages are not installed.
    from cms_python.sandbox import Sandbox

    with Sandbox() as running:
        yield running


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Sandbox:
    running_sandbox.reset()
    return running_sandbox


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[CMSClient]:
    with CMSClient(token="a-token", host=sandbox.url) as made:
        yield made


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_this_machine() -> Iterator[None]:
    """A developer's own token, host and proxies must not change what a test sees."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name in {"CMS_BEARER_TOKEN", "CMS_HOST"} or name.lower().endswith("_proxy"):
                patch.delenv(name)
        yield


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c() -> None:
    """A shell starts what it runs in the background with a deaf ear for Ctrl-C."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _only_this_machine() -> Iterator[None]:
    """A test that would reach another machine fails at once."""
    connect = socket.socket.connect

    def guarded(sock: socket.socket, address: Any) -> None:
        assert sock.family == socket.AF_UNIX or is_this_machine(address[0]), address
        connect(sock, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield
