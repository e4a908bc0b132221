"""The benchmarks run, and what they write can be read. Their numbers are not looked at."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from brokers import Redis, skip_without
from needed import needs

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import calls  # noqa: E402, it lies in that folder, as all below
import chart  # noqa: E402
import measures  # noqa: E402
import outbox  # noqa: E402
import report  # noqa: E402
from cases import BARE, CASES, IMPORTS, OURS, REFUSED  # noqa: E402
from common import running_server  # noqa: E402

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
    assert readme.endswith(f".\n{END}\nAfter\n")
    assert "old table" not in readme


def test_the_readme_says_what_its_table_ran_on(written: tuple[str, Path]) -> None:
    """Ratios mean something to a reader who knows the machine and the versions."""
    _, folder = written
    readme = (folder.parent / "README.md").read_text(encoding="utf-8")
    line = next(line for line in readme.splitlines() if line.startswith("On "))
    assert " processors (" in line
    assert f"Python {platform.python_version()}, cms-python-client 2." in line
    assert f"urllib3 {version('urllib3')}" in line


def test_the_picture_is_svg_that_says_what_it_shows(written: tuple[str, Path]) -> None:
    """It is well-formed, has a title and a description, and a bar for each case."""
    _, folder = written
    root = ElementTree.parse(folder / "images" / "benchmarks.svg").getroot()
    assert f"{SVG}svg" == root.tag
    assert root.findtext(f"{SVG}title")
    assert "urllib3, bare: 1.00" in (root.findtext(f"{SVG}desc") or "")
    assert 4 == len(root.findall(f"{SVG}rect"))
    assert "prefers-color-scheme: dark" in (root.findtext(f"{SVG}style") or "")


def test_the_memory_of_a_process_is_measured(url: str) -> None:
    """What the command asks of a process for each case comes back as a positive number."""
    found = json.loads(run(str(BENCHMARKS / "measures.py"), "memory", "ours", url, "5"))
    assert found["peak"] > 0


def test_start_threads_and_queue_run_and_are_reported(url: str) -> None:
    """The sections that take long end in the same tables and targets when they are made short."""
    pythons = dict.fromkeys([OURS, BARE, IMPORTS], sys.executable)
    with running_server(0.05) as (delayed,):
        queues = {"direct": sys.executable}
        bench = calls.Bench(pythons, queues, url, delayed, rounds=2, calls=2)
        found = {name: calls.SECTIONS[name](bench) for name in ("start", "threads", "queue")}
    printed = report.as_text(report.Results(found, {}, ["Python"], "A machine"))
    assert 3 == printed.count("\nthis package  ") + printed.count("\ndirect call  ")
    assert 3 == printed.count(" met\n") + printed.endswith(" met")
    shares = [each[OURS]["32, share"] for each in found["threads"]]
    assert all(0 < share <= 1 for share in shares)


def test_the_clock_of_threads_runs_before_their_first_call(url: str) -> None:
    """Threads that leave the one which started them no time to run are not taken for faster."""
    spent: list[float] = []

    def call(_number: int) -> None:
        begun = time.perf_counter()
        if len(spent) < 2:
            # Until all calls are to begin, the thread that started this one gets to wait for it.
            time.sleep(0.05)
        else:
            sum(range(200_000))
        spent.append(time.perf_counter() - begun)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        rate = measures.rate(call, CASES[OURS], url, 1, 10)
    finally:
        sys.setswitchinterval(interval)
    assert 10 / rate >= sum(spent[-10:])


def test_a_queued_call_is_measured(url: str, tmp_path: Path) -> None:
    """The cases of the outbox's benchmark make a file, fill it, and say what that took."""
    printed = run(str(BENCHMARKS / "outbox.py"), "--case", "written", url, str(tmp_path), "5")
    assert all(seconds > 0 for seconds in json.loads(printed))


def test_the_profile_says_where_the_time_goes() -> None:
    """Shares, the largest first: of the import by package, of a first client and a refused call."""
    printed = run(str(BENCHMARKS / "calls.py"), "--profile", "--rounds", "2", "--calls", "5")
    parts = [part.splitlines() for part in printed.split("\n\n")]
    assert 4 == len(parts)
    for _, *lines in parts:
        shares = [float(line.partition("%")[0]) for line in lines]
        assert sorted(shares, reverse=True) == shares
        assert 0 < shares[0] <= 100
    of_packages = [float(line.partition("%")[0]) for line in parts[0][1:]]
    assert sum(of_packages) == pytest.approx(100, abs=1)
    for part, name in zip(parts, ("cms_python", "cms_python.", "client.py: ", "events.py: create")):
        assert any(name in line for line in part)


@needs("click")
def test_imports_are_compared_with_the_smallest() -> None:
    """A line for each size of file says how many rows a second it took, and how much memory."""
    printed = run(str(BENCHMARKS / "importing.py"), "--rows", "5")
    assert "5 delivered, 0 failed" in printed
    assert ["5", "1.00"] == [printed.splitlines()[-1].split()[n] for n in (0, -1)]


@needs("celery")
def test_threads_and_workers_are_counted() -> None:
    """The command says how many events a second an outbox and Celery's workers deliver."""
    skip_without(Redis)
    line = ["--rounds", "2", "--seconds", "0.1", "--round-trips", "0.2"]
    counts = ["--threads", "1", "2", "--processes", "1"]
    printed = run(str(BENCHMARKS / "scaling.py"), *line, *counts)
    rates = next(line.split() for line in printed.splitlines() if " 200 ms" in line)
    assert all(float(rate) > 0 for rate in rates[2:])
    assert 2 == len(rates[2:])
    processes, rate, ratio, *_ = printed.splitlines()[-1].split()
    assert ("1", "1.00") == (processes, ratio)
    assert float(rate) > 0


# Reports of made-up results


def made_up(refused: float = 0.04) -> report.Results:
    """Results that have every section and case, but for one that could not be installed."""

    def rounds(names: Iterable[str], of_each: dict[str, float]) -> report.Rounds:
        return [{name: of_each for name in names if name != "dub"} for _ in range(2)]

    callers = [name for name, case in CASES.items() if case.prepare]
    share = {f"{number}, share": 0.9 for number in calls.THREADS}
    cost = {"cpu": 0.001, "wall": 0.002}
    first = dict.fromkeys(["client, cpu", "later client, cpu", "first call, cpu", "start, wall"], 1)
    sections = {
        "calls": rounds(callers, cost),
        "start": rounds(CASES, {"import, cpu": 0.2, "import, wall": 0.2, "modules": 100, **first}),
        "memory": rounds(callers, {"peak": 2**24}),
        "threads": rounds(callers, {"1, at once": 1000, **share}),
        "queue": rounds(outbox.CASES, cost),
    }
    for each in sections["calls"]:
        each[REFUSED] = {"cpu": 0.001 * refused, "wall": 0.001}
    return report.Results(sections, {"dub": "pip found no such thing"}, ["Python"], "A machine")


def test_text_and_page_have_every_section_and_target() -> None:
    """Whoever measures all of it finds five tables and what became of each target."""
    for write in (report.as_text, report.as_markdown):
        written = write(made_up())
        for title in report.TITLES.values():
            assert f"{title} (2 rounds)" in written
        for goal in report.GOALS:
            assert goal.name in written
            assert str(goal) in written
        assert "pip found no such thing" in written


def test_the_page_shows_numbers_with_their_units() -> None:
    """Bytes stand there as MiB, shares as percent, counts as they are."""
    page = report.as_markdown(made_up())
    assert "| this package | 1.00 (1.00 to 1.00) | 16 (16 to 16) |" in page
    assert "| urllib3, bare | 1 | 90 (90 to 90) | 90 (90 to 90) | 90 (90 to 90) |" in page
    assert "| urllib3 and pydantic | 1 | 1 | 100 |" in page


def test_the_picture_has_a_chart_for_each_of_its_sections() -> None:
    """Calls, imports and threads each have a heading and a bar for every case that ran."""
    root = ElementTree.fromstring(chart.as_svg(made_up()))
    texts = [each.text for each in root.findall(f"{SVG}text")]
    assert all(panel.title in texts for panel in chart.PANELS)
    callers = sum(1 for name, case in CASES.items() if case.prepare and name != "dub")
    imported = len(CASES) - 1
    assert callers + imported + (callers - 1) == len(root.findall(f"{SVG}rect"))


@pytest.mark.parametrize(
    ("found", "shown", "verdict"),
    [
        (0.0502, "0.0502 (0.0502 to 0.0502)", "not met"),
        (0.0498, "0.0498 (0.0498 to 0.0498)", "met"),
        (0.0470, "0.047 (0.047 to 0.047)", "met"),
    ],
)
def test_a_reader_sees_why_a_target_is_met_or_not(found: float, shown: str, verdict: str) -> None:
    """A median that would look as if it were the limit has a further digit."""
    rows = report.target_tables(made_up(refused=found))[0].rows
    assert ["at most 0.05 times", shown, verdict] == rows[1][1:]


def test_the_targets_say_that_they_are_judged_before_rounding() -> None:
    """Where not even the further digit tells the two apart, the reader knows what counted."""
    table = report.target_tables(made_up(refused=0.05000001))[0]
    assert ["0.0500 (0.0500 to 0.0500)", "not met"] == table.rows[1][2:]
    assert "before that is rounded" in table.note
    assert table.note in report.as_text(made_up())


# What is published


def test_the_published_page_and_the_readme_are_of_one_run() -> None:
    """The README has the page's table of calls, and the machine and the versions of that run."""
    page = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    readme = (BENCHMARKS.parent / "README.md").read_text(encoding="utf-8")
    table, ran_on = readme.partition(BEGIN)[2].partition(END)[0].strip().split("\n\n")
    assert f"\n\n{table}\n\n" in page
    machine, packages = page.partition("## What it ran on\n\n")[2].split(".\n\n")[:2]
    assert ran_on.startswith(f"On {machine}, with ")
    assert set(ran_on.rstrip(".").partition(", with ")[2].split(", ")) <= set(packages.split("; "))


def test_the_words_of_the_published_page_are_those_of_the_command() -> None:
    """What surrounds the numbers would not change if somebody measured anew."""
    page = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert page.startswith(report.INTRODUCTION)
    assert page.endswith(f"{report.HOW_TO_RUN}\n")
    for goal, row in zip(report.GOALS, page.partition("## Targets")[2].split("\n| ")[3:]):
        assert row.startswith(f"{goal.name} | {goal} | ")
    assert report.target_tables(made_up())[0].note in page
