"""The fixtures for pytest, used as a project of its own uses them."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fault_server import nobody_listens

ROOT = Path(__file__).parent.parent
CONFTEST = "from cms_python.testing import cms_client, cms_sandbox\n"
PROJECT = """
import pathlib

import pytest

@pytest.mark.parametrize("number", range(4))
def test_each(cms_client, cms_sandbox, number):
    assert (cms_sandbox.events, cms_sandbox.deferred_clicks) == ([], {})
    assert cms_client.track_lead("signup", "user_1", click_id="id_1")["success"]
    assert len(cms_sandbox.events) == 1
    cms_sandbox.fail_next(500, times=None)
    with pathlib.Path("urls").open("a") as urls:
        urls.write(cms_sandbox.url + "\\n")
"""


def run(folder: Path, *options: str) -> str:
    """Run the tests in a folder, as a user would; what they printed."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    return ran.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a conftest.py and four tests that note their sandbox's address."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(PROJECT)
    return tmp_path


def test_a_proxy_of_the_environment_does_not_come_between(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the client nor the sandbox leaves the machine."""
    with nobody_listens() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert "4 passed" in run(project)


def test_one_server_serves_every_test_and_each_finds_it_empty(project: Path) -> None:
    """Neither events nor faults of one test reach the next; afterwards the server is gone."""
    assert "4 passed" in run(project)

    addresses = (project / "urls").read_text().split()
    assert (len(addresses), len(set(addresses))) == (4, 1)
    address = urlsplit(addresses[0])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname or "", address.port or 0))


@pytest.mark.skipif(find_spec("xdist") is None, reason="pytest-xdist is not installed.")
def test_every_worker_has_a_server_of_its_own(project: Path) -> None:
    """Tests that run at the same time don't see each other's events."""
    assert "8 passed" in run(project, "-p", "xdist", "-n", "2", "--dist", "each")
    assert len(set((project / "urls").read_text().split())) == 2


def test_the_examples_of_the_docs_pass(tmp_path: Path) -> None:
    """The page's blocks, copied into files, are a project whose tests pass."""
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    conftest, *tests = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "conftest.py").write_text(conftest)
    for number, code in enumerate(tests):
        (tmp_path / f"test_{number}.py").write_text(code)
    assert "7 passed" in run(tmp_path)


def test_pytest_is_for_those_who_ask() -> None:
    """Neither the client nor the sandbox needs it."""
    program = "import sys, cms_python.sandbox; print('pytest' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=20
    )
    assert (ran.stdout, ran.stderr) == ("False\n", "")
