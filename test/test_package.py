"""What an import loads, what the package offers, and what a type checker sees of it."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import cms_python
from cms_python.sandbox import Sandbox

ROOT = Path(__file__).parent.parent
TRACKED = """
import sys
from cms_python import CMSClient
with CMSClient() as client:
    result = client.track_lead("signup", "user_1", "id_1")
assert result["success"] is True, result
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
USERS_PROGRAM = """
from datetime import datetime, timezone
from typing import Literal, Optional

from typing_extensions import assert_type

from cms_python import CMSClient, LeadPayload, TrackFailure, TrackResult, TrackSuccess


def sell(client: CMSClient, invoice: str, cents: int) -> Optional[str]:
    result: TrackResult = client.track_sale(
        click_id="id_1", event_name="bought", customer_external_id="user_1",
        invoice_id=invoice, amount=cents, currency="USD", timestamp=datetime.now(timezone.utc),
    )
    if result["success"] is True:
        assert_type(result, TrackSuccess)
        return str(result["data"])
    assert_type(result, TrackFailure)
    return result["idempotency_key"] if result["retryable"] else None


def sign_up(client: CMSClient, mode: Optional[Literal["deferred"]] = None) -> str:
    result = client.track_lead("signup", "user_1", click_id="id_1", mode=mode)
    if "error" in result:
        return result["error"]
    return result["message"]


payload = LeadPayload(event_name="signup", customer_external_id="user_1", click_id="id_1")
assert_type(payload.click_id, Optional[str])
with CMSClient(token="a-token", host="https://custom.com", timeout=2.5) as made:
    assert_type(made, CMSClient)
"""
WRONG_PROGRAM = """
from cms_python import CMSClient
client = CMSClient(token=5)
client.track_sale("id_1", "bought", "user_1", "inv_1", 49.99, "USD")
client.track_lead("signup", "user_1", mode="later")
client.track_lead("signup", "user_1")["error"]
"""


def test_tracking_loads_nothing_but_the_core(sandbox: Sandbox) -> None:
    """No database, no web server, no command line is imported until it is asked for."""
    environment = {**os.environ, "CMS_HOST": sandbox.url, "CMS_BEARER_TOKEN": "a-token"}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", TRACKED],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    absent = {
        "sqlite3",
        "werkzeug",
        "click",
        "celery",
        "yaml",
        "dateutil",
        "openapi_schema_validator",
    }
    assert absent & set(ran.stdout.split()) == set()


def test_the_lists_of_public_names_are_sorted_and_true() -> None:
    """What is offered is there, and easy to look up."""
    modules = [cms_python] + [
        importlib.import_module(each.name)
        for each in pkgutil.walk_packages(cms_python.__path__, "cms_python.")
        if not each.name.endswith("__main__")
    ]
    for module in modules:
        names: list[str] = getattr(module, "__all__", [])
        by_kind = sorted(names, key=lambda name: (not name.isupper(), name))
        assert names in (sorted(names), by_kind), module.__name__
        assert [name for name in names if not hasattr(module, name)] == []


def test_the_version_stands_in_the_changelog() -> None:
    """Who updates can read what changed."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## [{cms_python.__version__}]" in changelog


def check(command: list[str], program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a type checker on a program that lies elsewhere, as a user's does."""
    (folder / "program.py").write_text(program, encoding="utf-8")
    source = str(ROOT) if Path(cms_python.__file__).is_relative_to(ROOT) else ""
    (folder / "pyrightconfig.json").write_text(
        f'{{"typeCheckingMode": "strict", "pythonVersion": "3.9", "extraPaths": ["{source}"]}}'
    )
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env={**os.environ, "MYPYPATH": source},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


CHECKERS = [
    pytest.param(
        ["mypy", "--strict", "--python-version", "3.9", "--cache-dir", os.devnull, "program.py"],
        id="mypy",
    ),
    pytest.param(["pyright", "--pythonpath", sys.executable, "program.py"], id="pyright"),
]


@pytest.mark.parametrize("command", CHECKERS)
def test_a_users_program_passes_strict_type_checks(command: list[str], tmp_path: Path) -> None:
    """Results narrow on `success` and on `error`, models take their Python names."""
    checked = check(command, USERS_PROGRAM, tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("command", CHECKERS)
def test_a_type_checker_finds_a_users_mistakes(command: list[str], tmp_path: Path) -> None:
    """A token that is no text, cents that are none, an unknown mode, an unchecked result."""
    checked = check(command, WRONG_PROGRAM, tmp_path)
    assert [line for line in (3, 4, 5, 6) if f"program.py:{line}:" not in checked.stdout] == []
