"""What a tracked event costs its caller, beside the bare HTTP request and beside other clients.

    python benchmarks/calls.py

makes environments in a temporary directory, installs this package and the others into them, runs
every case in rounds, and prints how many times as much as another each one takes. With `--write`
it also writes docs/benchmarks.md, its picture, and the table of the README. README.md beside this
file says how to read that.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import outbox
import profiles
from cases import BARE, CASES, IMPORTS, MODELS, ONE_MODEL, OURS, PUBLISHED, REFUSED
from chart import as_svg
from common import (
    CHILD_ENVIRONMENT,
    HERE,
    ROOT,
    install,
    install_this_package,
    last_line,
    machine,
    new_environment,
    output,
    running_server,
    say,
    versions,
)
from report import Results, Rounds, as_markdown, as_text, in_readme

MEASURES = str(HERE / "measures.py")
# Each round begins with fresh processes, which then take turns, so that one bad moment of the
# machine spoils a turn of one of them and not its round.
TURNS = 5
DELAY = 0.050
THREADS = [1, 8, 32]
# The sections that take seconds a case run fewer rounds.
LONG = 3
OF_THIS_PACKAGE = [OURS, BARE, "http.client", REFUSED, IMPORTS, MODELS, ONE_MODEL]


class Bench(NamedTuple):
    """The Python of each case, and of those of outbox.py; the server's URLs; how much to do."""

    pythons: dict[str, str]
    queues: dict[str, str]
    url: str
    delayed: str
    rounds: int
    calls: int

    def of(self, *without: str) -> list[str]:
        """The cases that make calls."""
        return [n for n in self.pythons if CASES[n].prepare and n not in without]

    def child(self, measure: str, case: str, url: str, *numbers: int) -> dict[str, float]:
        line = [self.pythons[case], MEASURES, measure, case, url, *map(str, numbers)]
        found: dict[str, float] = json.loads(output(line))
        return found


# Environments


class Environments:
    """One for this package alone, one for the published release of it, and one for the others.

    pydantic looks for plugins in all that is installed, so what others bring would count as ours.
    """

    def __init__(self, folder: Path) -> None:
        say("Making environments ...")
        own, peers, old = (new_environment(folder / name) for name in ("own", "peers", "published"))
        install_this_package(own, folder / "source")
        self.missing: dict[str, str] = {}
        self.pythons = dict.fromkeys(OF_THIS_PACKAGE, own)
        self.queues = {name: own for name in outbox.CASES if name not in outbox.PEERS}
        for name, case in CASES.items():
            if case.package:
                # It has the same import name as this package.
                python = old if name == PUBLISHED else peers
                self._add(self.pythons, name, python, case.package)
        for name, package in outbox.PEERS.items():
            self._add(self.queues, name, peers, package)

    def _add(self, pythons: dict[str, str], name: str, python: str, package: str) -> None:
        why = install(python, package)
        if why:
            self.missing[name] = f"pip could not install it: {why}"
        else:
            pythons[name] = python


def tried(bench: Bench, missing: dict[str, str]) -> Bench:
    """Without the cases that do not work here. This run also leaves the bytecode of each behind."""
    failures = {name: failure(bench, name) for name in bench.pythons}
    missing.update({name: f"it failed: {why}" for name, why in failures.items() if why})
    works = {name: python for name, python in bench.pythons.items() if not failures[name]}
    return bench._replace(pythons=works)


def failure(bench: Bench, name: str) -> str:
    try:
        bench.child("start", name, bench.url)
    except ChildProcessError as error:
        if name in OF_THIS_PACKAGE:
            raise
        return last_line(str(error))
    return ""


# The sections


def calls(bench: Bench) -> Rounds:
    """Takes turns between the processes of a round."""
    rounds = []
    for number in range(bench.rounds):
        say(f"Calls, round {number + 1} of {bench.rounds} ...")
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in bench.of()}
        with waiting(bench) as processes:
            for _ in range(TURNS):
                for name in shuffled(processes):
                    turns[name].append(turn(processes[name], max(1, bench.calls // TURNS)))
        rounds.append({name: middle(each) for name, each in turns.items()})
    return rounds


@contextmanager
def waiting(bench: Bench) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A process for each case, warmed up one after the other. They compute nothing until asked."""
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for name in shuffled(bench.of()):
            line = [bench.pythons[name], MEASURES, "calls", name, bench.url]
            processes[name] = subprocess.Popen(
                line,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=CHILD_ENVIRONMENT,
            )
            heard(processes[name])
        yield processes
    finally:
        for process in processes.values():
            process.communicate()


def turn(process: subprocess.Popen[str], count: int) -> dict[str, float]:
    assert process.stdin is not None
    process.stdin.write(f"{count}\n")
    process.stdin.flush()
    found: dict[str, float] = json.loads(heard(process))
    return found


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("A case ended before its time; what it complained of stands above.")
    return line


def middle(turns: list[dict[str, float]]) -> dict[str, float]:
    return {measure: median(each[measure] for each in turns) for measure in turns[0]}


def start(bench: Bench) -> Rounds:
    names = [name for name in bench.pythons if name != REFUSED]
    rounds = []
    for number in range(bench.rounds):
        say(f"Start, round {number + 1} of {bench.rounds} ...")
        rounds.append({name: bench.child("start", name, bench.url) for name in shuffled(names)})
    return rounds


def memory(bench: Bench) -> Rounds:
    rounds = []
    for number in range(long_rounds(bench)):
        say(f"Memory, round {number + 1} of {long_rounds(bench)} ...")
        rounds.append(
            {
                name: bench.child("memory", name, bench.url, bench.calls)
                for name in shuffled(bench.of(REFUSED))
            }
        )
    return rounds


def threads(bench: Bench) -> Rounds:
    """Calls a second, and with the delay their share of what the server's time alone allows."""
    rounds = []
    for number in range(long_rounds(bench)):
        say(f"Threads, round {number + 1} of {long_rounds(bench)} ...")
        rounds.append({name: rates(bench, name) for name in shuffled(bench.of(REFUSED))})
    return rounds


def rates(bench: Bench, name: str) -> dict[str, float]:
    at_once = bench.child("threads", name, bench.url, bench.calls, 1, *THREADS)
    # With a delay, each thread takes about two seconds.
    each = max(2, bench.calls // 25)
    delayed = bench.child("threads", name, bench.delayed, 0, each, *THREADS)
    found = {f"{number}, at once": rate for number, rate in at_once.items()}
    for number, rate in delayed.items():
        found[f"{number}, share"] = rate / (int(number) / DELAY)
    return found


def queue(bench: Bench) -> Rounds:
    """The cases of benchmarks/outbox.py."""
    place = Path(tempfile.gettempdir())
    rounds = outbox.run(bench.queues, bench.url, long_rounds(bench), bench.calls, place)
    return [{name: cost._asdict() for name, cost in each.items()} for each in rounds]


def long_rounds(bench: Bench) -> int:
    return max(2, bench.rounds // LONG)


def shuffled(names: Iterable[str]) -> list[str]:
    known = list(names)
    return random.sample(known, len(known))


SECTIONS = {"calls": calls, "start": start, "memory": memory, "threads": threads, "queue": queue}


# The command


def measured(options: argparse.Namespace, folder: Path) -> Results:
    missing: dict[str, str] = {}
    if options.peers == "none":
        pythons = dict.fromkeys(OF_THIS_PACKAGE, sys.executable)
        queues = {name: sys.executable for name in outbox.CASES if name not in outbox.PEERS}
    else:
        made = Environments(folder)
        pythons, queues, missing = made.pythons, made.queues, made.missing
    with running_server(0, DELAY) as (url, delayed):
        bench = Bench(pythons, queues, url, delayed, options.rounds, options.calls)
        if options.peers != "none":
            bench = tried(bench, missing)
        found = {name: SECTIONS[name](bench) for name in SECTIONS if name in options.only}
    return Results(found, missing, packages(bench), machine())


def packages(bench: Bench) -> list[str]:
    """With their versions, of the environments together: first this package's own."""
    own = versions(bench.pythons[OURS], ["cms-python-client", "urllib3", "pydantic"])
    found = [f"Python {platform.python_version()}", *own]
    for pythons, names in ((bench.pythons, peers()), (bench.queues, outbox.PEERS)):
        for name, package in names.items():
            if name in pythons:
                found += versions(pythons[name], [package])
    return found


def peers() -> dict[str, str]:
    """By case, the packages whose version a reader does not know from their names."""
    return {n: c.package for n, c in CASES.items() if c.package and n != PUBLISHED}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="threads, memory, queue: a third")
    parser.add_argument("--calls", type=int, default=1000, help="of each case in a round")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument(
        "--peers", choices=["all", "none"], default="all", help="none: in this environment"
    )
    parser.add_argument(
        "--write", action="store_true", help="write docs/benchmarks.md, its picture, the README"
    )
    parser.add_argument("--profile", action="store_true", help="show where the time goes instead")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder that has these")
    options = parser.parse_args()
    if options.rounds < 2 or not 0 < options.calls <= outbox.MOST_CALLS:
        parser.error(f"it takes at least 2 rounds, and 1 to {outbox.MOST_CALLS} calls")
    return options


def main() -> None:
    options = arguments()
    if options.profile:
        with running_server(0) as (url,):
            print(profiles.as_text(url, options.rounds, options.calls))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = measured(options, Path(folder))
    print(as_text(results))
    if options.write:
        write(results, options.root)


def write(results: Results, root: Path) -> None:
    picture, readme = root / "docs" / "images" / "benchmarks.svg", root / "README.md"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(as_svg(results), encoding="utf-8")
    (root / "docs" / "benchmarks.md").write_text(as_markdown(results), encoding="utf-8")
    text = readme.read_text(encoding="utf-8")
    readme.write_text(in_readme(results, text), encoding="utf-8")


if __name__ == "__main__":
    main()
