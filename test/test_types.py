"""What type checkers tell a user, in a program that lies elsewhere, as a user's does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from needed import needs

import cms_python

ROOT = Path(__file__).parent.parent
PROGRAMS = ROOT / "test" / "downstream"
RIGHT = ["shop.py", "worker.py"]
# Where the tests run beside an installed package, the checkers have to find that one.
SOURCE = str(ROOT) if Path(cms_python.__file__).is_relative_to(ROOT) else ""
EXPECTED = re.compile(r"^ *reveal_type\(.*\)  # (.+)$")
REVEALED = re.compile(r'^(?:Revealed type|Type of ".*") is "(.+)"$')
TYPED_DICT = re.compile(r"TypedDict\('?([\w.]+)'?, \{[^{}]*\}\)")


class Finding(NamedTuple):
    """What a checker says of one line: an error, or a type that it was asked for."""

    program: str
    line: int
    message: str

    @property
    def type(self) -> str | None:
        found = REVEALED.match(self.message)
        return found and found.group(1)


def run(*command: str, cwd: Path) -> str:
    env = {**os.environ, "MYPYPATH": SOURCE, "PYTHONPATH": SOURCE}
    ran = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert ran.stdout.strip(), ran.stderr
    return ran.stdout


def by_mypy(folder: Path) -> list[Finding]:
    command = ["-m", "mypy", "--strict", "--cache-dir", os.devnull, "--output", "json", "."]
    found: list[dict[str, Any]] = list(map(json.loads, run(*command, cwd=folder).splitlines()))
    return [Finding(Path(each["file"]).name, each["line"], each["message"]) for each in found]


def by_pyright(folder: Path) -> list[Finding]:
    settings = {"typeCheckingMode": "strict", "extraPaths": [SOURCE]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = ["-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    found: list[dict[str, Any]] = json.loads(run(*command, cwd=folder))["generalDiagnostics"]
    return [
        Finding(Path(each["file"]).name, each["range"]["start"]["line"] + 1, each["message"])
        for each in found
    ]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(by_mypy, marks=needs("mypy"), id="mypy"),
        pytest.param(by_pyright, marks=needs("pyright"), id="pyright"),
    ],
)
def findings(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Finding]:
    """What one of the checkers says of the programs, far from the settings of this project."""
    folder = tmp_path_factory.mktemp("downstream")
    shutil.copytree(PROGRAMS, folder, dirs_exist_ok=True)
    found: list[Finding] = request.param(folder)
    return found


def lines(program: str) -> list[tuple[int, str]]:
    return list(enumerate((PROGRAMS / program).read_text(encoding="utf-8").splitlines(), start=1))


def words(text: str | None) -> list[str]:
    """What a type is made of: of a union mypy has three spellings, and each name has its module."""
    plain = re.sub(r"\b\w+\.", "", TYPED_DICT.sub(r"\1", text or ""))
    return sorted(set(re.findall(r"\w+", plain)) - {"Union"})


@pytest.mark.parametrize("program", RIGHT)
def test_a_program_sees_the_types_that_it_expects(program: str, findings: list[Finding]) -> None:
    """Results narrow on `success` and on `error`, and nothing is vaguer than it has to be."""
    expected = [
        (number, words(found.group(1)))
        for number, line in lines(program)
        if (found := EXPECTED.match(line))
    ]
    revealed = [
        (each.line, words(each.type)) for each in findings if each.program == program and each.type
    ]
    assert expected == sorted(revealed)


@pytest.mark.parametrize("program", RIGHT)
def test_a_program_passes_strict_checks(program: str, findings: list[Finding]) -> None:
    """Without an ignore, with a delivery of its own, with models by their Python names."""
    assert [] == [each for each in findings if each.program == program and not each.type]


def test_a_type_checker_finds_a_users_mistakes(findings: list[Finding]) -> None:
    """A token that is no text, cents that are none, an unknown mode, an unchecked result."""
    marked = [number for number, line in lines("mistakes.py") if line.endswith("# error")]
    assert marked == sorted({each.line for each in findings if each.program == "mistakes.py"})


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        ("shop.py", ["None Recorded False", "'customer_external_id': 'is required'"]),
        pytest.param("worker.py", ["Delivered 4999"], marks=needs("celery")),
    ],
)
def test_the_program_also_runs(program: str, printed: list[str], tmp_path: Path) -> None:
    """What the checkers were shown is no make-believe."""
    found = run(str(PROGRAMS / program), cwd=tmp_path)
    assert [] == [each for each in printed if each not in found]
