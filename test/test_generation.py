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
# Takes the refund of each invoice another way.
REFUNDS = """
import contextlib, json, os
from urllib3 import request
from cms_python import CMSClient, Event, Outbox
from cms_python.cli.app import run
from cms_python.delivery.jobs import deliver
from cms_python.sandbox import Sandbox

def refund(way):
    return {"click_id": "id_1", "event_name": "returned", "customer_external_id": "user_1",
            "invoice_id": way, "amount": 5, "currency": "EUR"}

def export(file):
    with open(file, "w") as written, contextlib.redirect_stdout(written):
        run(["outbox", "export", "kept.db", "--all"])

with Sandbox() as sandbox:
    os.environ.update(CMS_HOST=sandbox.url, CMS_BEARER_TOKEN="a-token")
    with CMSClient() as client:
        client.track_sale(**refund("call"))
        client.track_refund(**refund("call"))
    with CMSClient(delivery=Outbox("sent.db")) as client:
        client.track_refund(**refund("outbox"))
        client.flush(30)
    deliver(Event.create("refund", refund("job")).to_dict())
    given = refund("command").items()
    run(["refund", *(f"--{name.replace('_', '-')}={value}" for name, value in given)])
    with open("refunds.jsonl", "w") as file:
        json.dump(refund("import"), file)
    run(["import", "refunds.jsonl", "--kind", "refund"])
    with CMSClient(host="http://127.0.0.1:9", delivery=Outbox("kept.db")) as client:
        client.track_refund(**refund("export"))
    export("kept.jsonl")
    run(["import", "kept.jsonl"])
    answer = request("GET", sandbox.url + "/_sandbox/events?kind=refund")
    kinds = request("GET", sandbox.url + "/_sandbox/kinds").json()
    counted = request("GET", sandbox.url + "/_sandbox/stats").json()["refunds"]
    print(*kinds, counted, *(event["invoice_id"] for event in answer.json()["events"]))
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


def repeat_for_refunds(file: Path, start: str, end: str) -> None:
    """Says once more of refunds what stands from start to end, there of sales."""
    text = file.read_text(encoding="utf-8")
    of_sales = text[text.index(start) : text.index(end)]
    of_refunds = of_sales.replace("sale", "refund").replace("Sale", "Refund")
    file.write_text(text.replace(end, of_refunds + end, 1), encoding="utf-8")


def test_a_new_endpoint_takes_the_contract_a_method_and_a_rule(copy: Path) -> None:
    """Outbox, jobs, command, import and the sandbox's API know its kind without a change."""
    repeat_for_refunds(copy / "openapi.yaml", "  /track/sale:", "components:")
    repeat_for_refunds(copy / "openapi.yaml", "    SalePayload:", "    TrackResponse:")
    client, rules = copy / "cms_python" / "client.py", copy / "cms_python" / "sandbox" / "rules.py"
    repeat_for_refunds(client, "    def track_sale(", "    def with_options(")
    rule = '"sale": self._record_sale'
    text = rules.read_text(encoding="utf-8")
    rules.write_text(text.replace(rule, f"{rule}, {rule.replace('sale', 'refund', 1)}"), "utf-8")
    subprocess.run(["make", "generate", "VENV=environment"], cwd=copy, check=True, timeout=120)
    ran = subprocess.run(
        [sys.executable, "-c", REFUNDS], cwd=copy, capture_output=True, text=True, check=False
    )
    told = "lead sale refund 6 call outbox job command import export"
    assert ran.stdout.splitlines()[-1:] == [told], ran.stderr


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
