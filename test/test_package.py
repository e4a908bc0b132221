"""What an import loads, what the package offers, and what the package index shows of it."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import cms_python
from cms_python.sandbox import Sandbox

ROOT = Path(__file__).parent.parent
OUR_FILE = re.compile(
    r"https://(?:github.com/CutMeShort/cms-python-client/blob"
    r"|raw.githubusercontent.com/CutMeShort/cms-python-client)/v[^/]+/([^#]+)"
)
TRACKED = """
import sys
from cms_python import CMSClient
with CMSClient() as client:
    result = client.track_lead("signup", "user_1", "id_1")
assert result["success"] is True, result
print(*sorted({name.partition(".")[0] for name in sys.modules}))
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


def test_the_links_of_the_description_lead_somewhere_from_anywhere() -> None:
    """The package index shows the README, and knows none of the files beside it."""
    installed = distribution("cms-python-client")
    # The second is what an installation in place has in the tree.
    metadata = installed.read_text("METADATA") or installed.read_text("PKG-INFO") or ""
    targets = re.findall(r"\]\(([^()]+)\)", metadata)
    assert [] == [each for each in targets if not each.startswith(("https://", "#"))]
    ours = [found.group(1) for each in targets if (found := OUR_FILE.match(each))]
    assert len(ours) > 10
    assert [] == [each for each in ours if not (ROOT / each).exists()]
