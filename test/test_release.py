"""What a release is made from: version, changelog, workflows."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import cms_python

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
problem = runpy.run_path(str(ROOT / ".ci" / "check_release.py"))["problem"]
DATED = "# Changelog\n\n## [2.1.0] - 2026-01-31\n\n## [2.0.0] - 2025-12-01\n"


def workflow(name: str) -> dict[str, Any]:
    path = ROOT / ".github" / "workflows" / name
    read: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return read


def test_the_changelog_begins_with_this_version() -> None:
    """Who updates can read what changed."""
    assert "" == problem(cms_python.__version__, (ROOT / "CHANGELOG.md").read_text("utf-8"))


@pytest.mark.parametrize(
    ("version", "changelog", "tag", "expected"),
    [
        ("2.1.0", DATED, "v2.1.0", ""),
        ("2.1.0", DATED, "", ""),
        ("2.1.0", DATED.replace("2026-01-31", "Unreleased"), "", ""),
        ("2.1.0", DATED.replace("2026-01-31", "Unreleased"), "v2.1.0", "needs a date"),
        ("2.1.0", DATED.replace("2026-01-31", "soon"), "", "needs a date"),
        ("2.1.0", DATED, "2.1.0", "must be v2.1.0"),
        ("2.1.0", DATED, "v2.0.0", "must be v2.1.0"),
        ("2.2.0", DATED, "v2.2.0", "begins with 2.1.0"),
        ("2.0.0", DATED, "v2.0.0", "begins with 2.1.0"),
        ("2.0.0", "# Changelog\n", "", "no heading"),
    ],
)
def test_a_release_needs_one_version_and_a_date(
    version: str, changelog: str, tag: str, expected: str
) -> None:
    """A tag releases what the changelog describes, and nothing else."""
    found = problem(version, changelog, tag)
    assert expected in found
    assert bool(expected) == bool(found)


def test_every_python_that_is_promised_is_tested() -> None:
    """The classifiers, the tests on three systems, and what .ci/run gets to see."""
    promised = re.findall(r'Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    jobs = workflow("tests.yml")["jobs"]
    assert promised == jobs["tests"]["strategy"]["matrix"]["python"]
    found = [each.get("with", {}).get("python-version") for each in jobs["everything"]["steps"]]
    (seen,) = filter(None, found)
    assert sorted(promised) == sorted(seen.split())


def test_the_workflows_run_the_commands_of_this_project() -> None:
    """What passes there passes here."""
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    jobs = workflow("tests.yml")["jobs"]
    commands = [each["run"] for each in jobs["tests"]["steps"] if "run" in each]
    assert [] == [each for each in commands if each not in ci]
    assert {"run": ".ci/run"} in jobs["everything"]["steps"]


def permissions(read: Any) -> Iterator[dict[str, str]]:
    if isinstance(read, dict):
        yield from ([read["permissions"]] if "permissions" in read else [])
        yield from (found for each in read.values() for found in permissions(each))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_do_no_more_than_it_needs(path: Path) -> None:
    """It reads, names no secret, and takes actions of a version that Dependabot can raise."""
    text = path.read_text(encoding="utf-8")
    read = yaml.safe_load(text)
    assert {"contents": "read"} == read["permissions"]
    expected = [{"contents": "read"}]
    if path.name == "release.yml":
        expected.append({"id-token": "write"})
        assert "pypi" == read["jobs"]["publish"]["environment"]["name"]
        assert {"tests", "build"} == set(read["jobs"]["publish"]["needs"])
    assert expected == list(permissions(read))
    assert "secrets." not in text
    used = re.findall(r"uses: (\S+)", text)
    assert [] == [each for each in used if not re.search(r"@v\d+$|@release/v1$|^\./", each)]
