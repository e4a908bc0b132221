"""Fixtures for pytest: a sandbox, empty for every test, and a client of it.

Imported in a ``conftest.py``, they can be asked for by name in every test beside and below it:

    from cms_python.testing import cms_client, cms_sandbox

They need pytest and the extra: ``pip install "cms-python-client[sandbox]"``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cms_python.client import CMSClient
from cms_python.sandbox import Sandbox

__all__ = ["cms_client", "cms_sandbox"]

_SERVER = pytest.StashKey[Sandbox]()


@pytest.fixture
def cms_sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """A running sandbox without events or faults; one server serves the whole run.

    Under pytest-xdist every worker has a server of its own.
    """
    sandbox = _server(request.config)
    sandbox.reset()
    return sandbox


@pytest.fixture
def cms_client(cms_sandbox: Sandbox) -> Iterator[CMSClient]:
    """A client of ``cms_sandbox``, closed after the test."""
    with CMSClient("any-token", cms_sandbox.url) as client:
        yield client


def _server(config: pytest.Config) -> Sandbox:
    # Kept here and not by a session fixture, whose name everybody would have to import as well.
    sandbox = config.stash.get(_SERVER, None)
    if sandbox is None:
        sandbox = config.stash[_SERVER] = Sandbox()
        sandbox.start()
        config.add_cleanup(sandbox.stop)
    return sandbox
