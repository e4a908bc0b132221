"""Uses what is installed, as the extras that are given allow: `smoke.py VERSION [EXTRA ...]`."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from importlib import import_module
from pathlib import Path

from cms_python import CMSClient, Outbox, __version__

COMMAND = str(Path(sysconfig.get_path("scripts")) / "cms-python")
SANDBOX = [sys.executable, "-m", "cms_python.sandbox", "--help"]


def core(extras: set[str]) -> None:
    """A call without a network, a queued one, and what is said where an extra is missing."""
    result = CMSClient("a-token", "http://127.0.0.1:9", max_retries=0).track_lead("a", "b", "c")
    assert result["success"] is False, result
    assert result["type"] == "connection_error", result
    with tempfile.TemporaryDirectory() as folder:
        outbox = Outbox(Path(folder) / "events.db", send=False)
        with CMSClient(delivery=outbox) as client:
            assert client.track_lead("a", "b", "c")["success"] is True
            assert outbox.stats().queued == 1
    assert run(*SANDBOX).returncode == (0 if "sandbox" in extras else 2)
    assert run(COMMAND, "--version").returncode == (0 if "cli" in extras else 2)


def sandbox() -> None:
    """An event goes there and back."""
    testing = import_module("cms_python.sandbox")
    with testing.Sandbox() as running, CMSClient("a-token", running.url) as client:
        assert client.track_lead("a", "b", "c")["success"] is True
        assert [each.event_name for each in running.events] == ["a"]


def cli() -> None:
    """The command is there, and knows its version."""
    assert __version__ in run(COMMAND, "--version").stdout
    assert "import" in run(sys.executable, "-m", "cms_python", "--help").stdout


def celery() -> None:
    """All that the delivery offers is there."""
    delivery = import_module("cms_python.delivery.celery")
    assert all(hasattr(delivery, name) for name in delivery.__all__)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def main() -> None:
    version, *extras = sys.argv[1:]
    assert __version__ == version, __version__
    core(set(extras))
    # An extra without a test of its own fails here by its name.
    for each in extras:
        {"sandbox": sandbox, "cli": cli, "celery": celery}[each]()


if __name__ == "__main__":
    main()
