"""The benchmark of calls runs, and what it writes can be read. Its numbers are not looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SVG = "{http://www.w3.org/2000/svg}"
# What is measured is what these tests run with, be it installed or in the tree.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


# As they stand in the project's README.
BEGIN = "<!-- Written by `python benchmarks/calls.py --write`. -->"
END = "<!-- End of what is written. -->"


def run(*line: str) -> str:
    ran = subprocess.run(
        [sys.executable, *line], capture_output=True, text=True, env=ENVIRONMENT, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a short run of the command prints, and the folder that it writes to."""
    root = tmp_path_factory.mktemp("root")
    marks = f"Before\n{BEGIN}\nan old table\n{END}\nAfter\n"
    (root / "README.md").write_text(marks, encoding="utf-8")
    line = ["--peers", "none", "--rounds", "2", "--calls", "5", "--only", "calls"]
    printed = run(str(BENCHMARKS / "calls.py"), *line, "--write", "--root", str(root))
    return printed, root / "docs"


@pytest.fixture(scope="module")
def url() -> Any:
    line = [sys.executable, str(BENCHMARKS / "server.py"), "0"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def test_the_command_prints_a_row_for_each_case_and_each_target(written: tuple[str, Path]) -> None:
    """A reader sees what was compared, and whether the targets were met."""
    printed, _ = written
    for name in ("this package", "this package, a refused call", "urllib3, bare", "http.client"):
        assert f"\n{name}  " in printed
    assert 2 == printed.count(" met") == printed.count("at most")


def test_the_page_has_tables_of_even_rows_and_its_picture(written: tuple[str, Path]) -> None:
    """Every row of a table has as many cells as its heading, and the link to the picture holds."""
    _, folder = written
    page = (folder / "benchmarks.md").read_text(encoding="utf-8")
    tables = [part.splitlines() for part in page.split("\n\n") if part.startswith("| ")]
    assert [2, 4] == [len(table) - 2 for table in tables]
    for table in tables:
        assert 1 == len({line.count("|") for line in table}), table
        assert all(line.startswith("| ") and line.endswith(" |") for line in table)
    assert "](images/benchmarks.svg)" in page
    assert (folder / "images" / "benchmarks.svg").exists()


def test_the_readme_has_the_first_table(written: tuple[str, Path]) -> None:
    """Between its marks, in the place of the one before; nothing else changes."""
    _, folder = written
    readme = (folder.parent / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"Before\n{BEGIN}\n| call | ")
    assert readme.endswith(f" |\n{END}\nAfter\n")
    assert "old table" not in readme


def test_the_picture_is_svg_that_says_what_it_shows(written: tuple[str, Path]) -> None:
    """It is well-formed, has a title and a description, and a bar for each case."""
    _, folder = written
    root = ElementTree.parse(folder / "images" / "benchmarks.svg").getroot()
    assert f"{SVG}svg" == root.tag
    assert root.findtext(f"{SVG}title")
    assert "urllib3, bare: 1.00" in (root.findtext(f"{SVG}desc") or "")
    assert 4 == len(root.findall(f"{SVG}rect"))
    assert "prefers-color-scheme: dark" in (root.findtext(f"{SVG}style") or "")


@pytest.mark.parametrize(
    ("measure", "numbers", "expected"),
    [
        ("start", [], {"modules", "import, cpu", "client, cpu", "first call, cpu", "start, wall"}),
        ("memory", ["5"], {"peak"}),
        ("threads", ["8", "2", "1", "4"], {"1", "4"}),
    ],
)
def test_each_further_section_measures_this_package(
    url: str, measure: str, numbers: list[str], expected: set[str]
) -> None:
    """What the command asks of a process for each case comes back as positive numbers."""
    found = json.loads(run(str(BENCHMARKS / "measures.py"), measure, "ours", url, *numbers))
    assert expected <= set(found)
    assert all(number > 0 for number in found.values())


def test_a_queued_call_is_measured(url: str, tmp_path: Path) -> None:
    """The cases of the outbox's benchmark make a file, fill it, and say what that took."""
    printed = run(str(BENCHMARKS / "outbox.py"), "--case", "written", url, str(tmp_path), "5")
    assert all(seconds > 0 for seconds in json.loads(printed))
