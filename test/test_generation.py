"""One change of the contract changes all that follows from it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from needed import IS_CI

ROOT = Path(__file__).parent.parent
SENDS = """
import sys
sys.path.insert(0, ".")
from urllib3 import request
from cms_python import SalePayload
from cms_python.sandbox import Sandbox
sale = SalePayload(click_id="id_1", event_name="bought", customer_external_id="user_1",
                   bill_id="inv_1", amount=5, currency="EUR")
with Sandbox() as sandbox:
    for body in (sale.to_dict(), {**sale.to_dict(), "invoiceId": "inv_1"}):
        answer = request("POST", sandbox.url + "/track/sale", json=body,
                         headers={"Authorization": "Bearer a-token"})
        print(answer.status, sorted(answer.json()["details"] or {}))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project in which the contract can be changed."""
    if importlib.util.find_spec("openapi_generator_cli") is None:
        missing = 'the generator is not installed: pip install -e ".[generate]"'
        pytest.fail(missing) if IS_CI else pytest.skip(missing)
    for name in ("cms_python", "docs", "templates"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("openapi.yaml", "generator.yaml", "Makefile", "pyproject.toml",
                 ".openapi-generator-ignore"):  # fmt: skip
        shutil.copy(ROOT / name, tmp_path)
    # The environment of this run serves, so that nothing is installed again.
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "bin").symlink_to(Path(sys.executable).parent)
    (tmp_path / "environment" / "generate.stamp").touch()
    return tmp_path


def test_a_renamed_field_is_renamed_everywhere(copy: Path) -> None:
    """Model, reference page and the sandbox's check follow from one line of openapi.yaml."""
    contract = copy / "openapi.yaml"
    text = contract.read_text(encoding="utf-8")
    contract.write_text(text.replace("invoiceId", "billId"), encoding="utf-8")
    subprocess.run(["make", "generate", "VENV=environment"], cwd=copy, check=True, timeout=120)
    model = (copy / "cms_python" / "models" / "sale_payload.py").read_text(encoding="utf-8")
    assert ("bill_id: str" in model, "invoice_id" in model) == (True, False)
    page = (copy / "docs" / "SalePayload.md").read_text(encoding="utf-8")
    assert ("`billId`" in page, "invoiceId" in page) == (True, False)
    ran = subprocess.run(
        [sys.executable, "-c", SENDS], cwd=copy, capture_output=True, text=True, check=False
    )
    judged = [line.split(" ", 1)[1] for line in ran.stdout.splitlines()]
    assert ran.stdout.splitlines()[-1] == "422 ['invoiceId']", ran.stderr
    assert "billId" not in judged[0]
