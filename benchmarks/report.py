"""The tables of benchmarks/calls.py, as text for a terminal and as the page docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

import outbox
from cases import BARE, CASES, IMPORTS, OURS, REFUSED
from common import Spread, shown, spread

# For each round, what each case took, by measure.
Rounds = list[dict[str, dict[str, float]]]
LABELS = {
    **{name: case.label for name, case in CASES.items()},
    **{name: case.name for name, case in outbox.CASES.items()},
}
MICROSECONDS, MILLISECONDS, MEBIBYTES = 1e6, 1e3, 1 / 2**20


class Results(NamedTuple):
    sections: dict[str, Rounds]
    missing: dict[str, str]
    packages: list[str]
    machine: str


class Column(NamedTuple):
    """A measure, as a ratio to that of a reference, or by itself in some unit."""

    heading: str
    measure: str
    reference: str = ""
    scale: float = 1


class Table(NamedTuple):
    title: str
    note: str
    headings: list[str]
    rows: list[list[str]]


# Of the numbers


def numbers(rounds: Rounds, case: str, column: Column) -> list[float]:
    """One a round; none where the case or its reference has no such measure."""
    found = []
    for each in rounds:
        own, other = each.get(case, {}), each.get(column.reference, {})
        if column.measure not in own:
            continue
        if not column.reference:
            found.append(
                own[column.measure] * column.scale if column.scale != 1 else own[column.measure]
            )
        elif column.measure in other:
            found.append(own[column.measure] / other[column.measure])
    return found


def cell(rounds: Rounds, case: str, column: Column) -> str:
    if case == column.reference:
        return "1"
    found = numbers(rounds, case, column)
    if not found:
        return ""
    if all(isinstance(number, int) for number in found) and len(set(found)) == 1:
        return f"{found[0]:,}"
    return str(spread(found))


def value_of_one(rounds: Rounds, column: Column, unit: str) -> str:
    """What a ratio of 1 was, so that a reader knows the size of things."""
    plain = column._replace(reference="")
    found = numbers(rounds, column.reference, plain)
    return f"{shown(median(found))} {unit}"


# The tables


def tables(results: Results) -> list[Table]:
    made = {"calls": calls, "start": start, "memory": memory, "threads": threads, "queue": queue}
    found = []
    for name, rounds in results.sections.items():
        note, first, columns, order = made[name](rounds)
        title = f"{TITLES[name]} ({len(rounds)} rounds)"
        found.append(table(title, note, first, rounds, columns, order, results.missing))
    return found


TITLES = {
    "calls": "One call",
    "start": "A fresh process",
    "memory": "Memory",
    "threads": "Threads",
    "queue": "A queued call",
}
Parts = tuple[str, str, list[Column], Iterable[str]]


def table(
    title: str,
    note: str,
    first: str,
    rounds: Rounds,
    columns: list[Column],
    order: Iterable[str],
    missing: dict[str, str],
) -> Table:
    rows = []
    for name in order:
        if name in rounds[0]:
            rows.append([LABELS[name], *(cell(rounds, name, column) for column in columns)])
        elif name in missing:
            rows.append([LABELS[name], missing[name], *("" for _ in columns[1:])])
    return Table(title, note, [first, *(column.heading for column in columns)], rows)


def calls(rounds: Rounds) -> Parts:
    columns = [
        Column("CPU, times bare urllib3", "cpu", BARE, MICROSECONDS),
        Column("elapsed, times bare urllib3", "wall", BARE, MICROSECONDS),
    ]
    cpu, wall = (value_of_one(rounds, column, "microseconds") for column in columns)
    note = f"Of the calling process. 1 was {cpu} of CPU and {wall} elapsed."
    return note, "call", columns, by_cost(rounds, CASES, columns[0])


def start(rounds: Rounds) -> Parts:
    columns = [
        Column("import, CPU, times urllib3 and pydantic", "import, cpu", IMPORTS, MILLISECONDS),
        Column("elapsed, the same", "import, wall", IMPORTS),
        Column("modules", "modules"),
        Column("first client, microseconds of CPU", "client, cpu", "", MICROSECONDS),
        Column("a later one", "later client, cpu", "", MICROSECONDS),
        Column("client and first call, CPU, times bare urllib3", "first call, cpu", BARE, 1e3),
        Column("import, client and first call, elapsed, times bare urllib3", "start, wall", BARE),
    ]
    import_, call = (value_of_one(rounds, columns[n], "milliseconds") for n in (0, 5))
    note = f"1 was {import_} of CPU for the import and {call} for client and first call."
    return note, "client", columns, by_cost(rounds, CASES, columns[0])


def memory(rounds: Rounds) -> Parts:
    columns = [
        Column("times bare urllib3", "peak", BARE, MEBIBYTES),
        Column("MiB", "peak", "", MEBIBYTES),
    ]
    note = "The most that a process had in use which made the calls of a round."
    return note, "client", columns, by_cost(rounds, CASES, columns[0])


def threads(rounds: Rounds) -> Parts:
    columns = []
    for measure in next(iter(rounds[0].values())):
        number, _, kind = measure.partition(", ")
        name = f"{number} thread{'' if number == '1' else 's'}"
        if kind == "at once":
            columns.append(Column(f"{name}, times bare urllib3", measure, BARE))
        elif kind == "share":
            columns.append(Column(f"{name} at 50 ms, % of possible", measure, "", 100))
    columns.sort(key=lambda column: "%" in column.heading)
    one = value_of_one(rounds, columns[0], "calls a second")
    note = (
        "Calls a second, more is better: with a server that answers at once, and with one that "
        "answers after 50 ms, where threads / 0.050 would be possible. One thread of bare urllib3 "
        f"made {one} of the first."
    )
    return note, "client", columns, CASES


def queue(rounds: Rounds) -> Parts:  # noqa: ARG001, it gives no size of things
    columns = [
        Column("CPU of its thread, times a direct call", "cpu", "direct"),
        Column("as the caller waits, times a direct call", "wall", "direct"),
    ]
    return "What the caller waits and computes.", "call", columns, outbox.CASES


def by_cost(rounds: Rounds, names: Iterable[str], column: Column) -> list[str]:
    """The cheapest first; those that are not there last."""

    def cost(name: str) -> float:
        found = numbers(rounds, name, column)
        return median(found) if found else float("inf")

    return sorted(names, key=cost)


# The targets


class Goal(NamedTuple):
    """What the median of a case is to be: at most the limit, or at least."""

    name: str
    bound: str
    limit: float
    of_what: str
    section: str
    case: str
    column: Column

    def __str__(self) -> str:
        limit = f"{self.limit:.2f}" if self.limit < 10 else f"{self.limit:.0f}"
        return f"{self.bound} {limit} {self.of_what}"

    def is_met(self, median: float) -> bool:
        return median <= self.limit if self.bound == AT_MOST else median >= self.limit


AT_MOST, AT_LEAST = "at most", "at least"
GOALS = [
    Goal(
        "a direct call, in CPU, beside bare urllib3",
        AT_MOST,
        1.00,
        "times",
        "calls",
        OURS,
        Column("", "cpu", BARE),
    ),
    Goal(
        "a refused call, in CPU, beside a sent one",
        AT_MOST,
        0.05,
        "times",
        "calls",
        REFUSED,
        Column("", "cpu", OURS),
    ),
    Goal(
        "the import, in CPU, beside urllib3 and pydantic",
        AT_MOST,
        1.05,
        "times",
        "start",
        OURS,
        Column("", "import, cpu", IMPORTS),
    ),
    Goal(
        "the first client of a process, in CPU",
        AT_MOST,
        100,
        "microseconds",
        "start",
        OURS,
        Column("", "client, cpu", "", MICROSECONDS),
    ),
    Goal(
        "32 threads at 50 ms, of 32 / 0.050 calls a second",
        AT_LEAST,
        0.95,
        "of them",
        "threads",
        OURS,
        Column("", "32, share"),
    ),
]


class Target(NamedTuple):
    """A goal, and what was measured of it."""

    goal: Goal
    found: Spread

    def row(self) -> list[str]:
        """With a further digit where the median would look as if it were the limit."""
        looks_alike = shown(self.found.median) == shown(self.goal.limit)
        verdict = "met" if self.goal.is_met(self.found.median) else "not met"
        measured = self.found.with_digits(1 if looks_alike else 0)
        return [self.goal.name, str(self.goal), measured, verdict]


def targets(results: Results) -> list[Target]:
    return [
        Target(goal, spread(numbers(results.sections[goal.section], goal.case, goal.column)))
        for goal in GOALS
        if goal.section in results.sections
    ]


def target_tables(results: Results) -> list[Table]:
    """One table, or none where nothing was measured that has a target."""
    rows = [each.row() for each in targets(results)]
    note = "Each is judged by its median, before that is rounded."
    headings = ["what", "target", "measured", "the median"]
    return [Table("Targets", note, headings, rows)] if rows else []


# On paper


def as_text(results: Results) -> str:
    parts = [f"{', '.join(results.packages)}\n{results.machine}", HOW_TO_READ]
    goals = target_tables(results)
    parts += [
        "\n".join(filter(None, [each.title, each.note, *aligned(each)]))
        for each in [*tables(results), *goals]
    ]
    return "\n\n".join(parts)


HOW_TO_READ = "The median over the rounds, and the range in which the middle half of them lies."


def aligned(table: Table) -> list[str]:
    """Headings are numbered and stand above, for they are longer than the columns."""
    legend = [f"  [{number}] {text}" for number, text in enumerate(table.headings[1:], 1)]
    lines = [["", *(f"[{number}]" for number in range(1, len(table.headings)))], *table.rows]
    # What is missing has a sentence in place of numbers, which may stick out.
    known = [line for line in lines if all(len(text) < 40 for text in line[1:])]
    widths = [max(len(line[n]) for line in [*known, *lines[:1]]) for n in range(len(lines[0]))]
    widths[0] = max(len(line[0]) for line in lines)
    rows = ["  ".join(t.ljust(w) for t, w in zip(line, widths)).rstrip() for line in lines]
    return [*legend, *rows]


def as_markdown(results: Results) -> str:
    parts = [INTRODUCTION]
    goals = target_tables(results)
    parts += [
        "\n\n".join(filter(None, [f"## {each.title}", each.note, piped(each)]))
        for each in [*goals, *tables(results)]
    ]
    parts.append(f"## What it ran on\n\n{results.machine}.\n\n{'; '.join(results.packages)}.")
    parts.append(HOW_TO_RUN)
    return "\n\n".join(parts) + "\n"


def in_readme(results: Results, readme: str) -> str:
    """The README with the first table of this run, and what it ran on, between its two marks."""
    before, _, rest = readme.partition(README_BEGIN)
    _, end, after = rest.partition(README_END)
    if not end:
        raise ValueError("README.md has lost the marks of the table of benchmarks")
    of_queues = tuple(outbox.PEERS.values())
    packages = [each for each in results.packages if not each.startswith(of_queues)]
    ran_on = f"On {results.machine}, with {', '.join(packages)}."
    return f"{before}{README_BEGIN}\n{piped(tables(results)[0])}\n\n{ran_on}\n{end}{after}"


README_BEGIN = "<!-- Written by `python benchmarks/calls.py --write`. -->"
README_END = "<!-- End of what is written. -->"


def piped(table: Table) -> str:
    lines = [table.headings, ["---"] * len(table.headings), *table.rows]
    escaped = ([text.replace("|", "\\|") for text in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


INTRODUCTION = """\
<!-- Written by `python benchmarks/calls.py --write`. -->
# Benchmarks

What a tracked event costs the process that tracks it, beside the bare HTTP request and beside other
clients. All post the same sale to the same server on the same machine, keep their connection open,
and read the JSON that comes back.

![Bar charts: CPU of a call, import, calls a second of 32 threads](images/benchmarks.svg)

A number is the median over the rounds, and behind it stands the range in which the middle half of
them lies. Where two ranges overlap, there is no difference to speak of. A ratio is taken within a
round, to a reference that ran in the same minute. Ratios hold from one machine to another better
than times do, which are given only for the size of things."""

HOW_TO_RUN = """\
## How to run it

`python benchmarks/calls.py` makes its own environments from the package index and prints these
tables; `--write` also writes this page and its picture. The benchmarks'
[README](https://github.com/CutMeShort/cms-python-client/blob/main/benchmarks/README.md) says
what is measured, and how."""
