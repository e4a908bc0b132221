"""The picture of docs/benchmarks.md: bar charts in SVG, readable on light and on dark pages."""

from __future__ import annotations

from typing import NamedTuple
from xml.sax.saxutils import escape

from cases import BARE, CASES, IMPORTS, OURS, REFUSED
from common import Spread, shown, spread
from report import LABELS, Column, Results, by_cost, numbers

WIDTH, LEFT, RIGHT = 760, 200, 100
BAR, STEP, HEAD = 14, 24, 44
STYLE = """\
text { font: 13px sans-serif; fill: #1f2328 }
.title { font-weight: bold }
.quiet { fill: #59636e }
.bar { fill: #a0aab4 }
.own { fill: #0969da }
.range { stroke: #1f2328; stroke-width: 1.5 }
.one { stroke: #59636e; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .quiet { fill: #9da7b1 }
  .bar { fill: #59636e }
  .own { fill: #4493f8 }
  .range { stroke: #e6edf3 }
  .one { stroke: #9da7b1 }
}"""


class Panel(NamedTuple):
    """One chart: a bar for each case, and a line where 1 is."""

    title: str
    section: str
    column: Column
    without: tuple[str, ...] = ()


PANELS = [
    Panel("CPU of a call, times bare urllib3: less is better", "calls", Column("", "cpu", BARE)),
    Panel(
        "CPU of the import, times urllib3 and pydantic: less is better",
        "start",
        Column("", "import, cpu", IMPORTS),
    ),
    Panel(
        "32 threads at 50 ms, part of the possible calls a second: more is better",
        "threads",
        Column("", "32, share"),
        (REFUSED,),
    ),
]


def as_svg(results: Results) -> str:
    parts, top, told = [], 0, []
    for panel in PANELS:
        rounds = results.sections.get(panel.section)
        if rounds:
            names = [n for n in by_cost(rounds, CASES, panel.column) if n not in panel.without]
            found = {n: numbers(rounds, n, panel.column) for n in names}
            spreads = {name: spread(each) for name, each in found.items() if each}
            parts += drawn(panel.title, spreads, top)
            told.append(f"{panel.title}. {in_words(spreads)}")
            top += HEAD + STEP * len(spreads)
    size = f'viewBox="0 0 {WIDTH} {max(top, 1)}" width="{WIDTH}" height="{max(top, 1)}"'
    role = 'role="img" aria-labelledby="title description"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {role}>',
            '<title id="title">What a tracked event costs, beside other clients</title>',
            f'<desc id="description">{escape(" ".join(told))}</desc>',
            f"<style>{STYLE}</style>",
            *parts,
            "</svg>\n",
        ]
    )


def in_words(spreads: dict[str, Spread]) -> str:
    known = (f"{LABELS[name]}: {shown(each.median)}" for name, each in spreads.items())
    return f"{', '.join(known)}."


def drawn(title: str, spreads: dict[str, Spread], top: int) -> list[str]:
    """A heading, and below it a row for each case."""
    scale = (WIDTH - LEFT - RIGHT) / max([1.0, *(each.high for each in spreads.values())])
    one, bottom = LEFT + scale, top + HEAD + STEP * len(spreads) - 8
    lines = [
        f'<text class="title" x="0" y="{top + 20}">{escape(title)}</text>',
        f'<line class="one" x1="{one:.1f}" x2="{one:.1f}" y1="{top + 30}" y2="{bottom}"/>',
    ]
    for number, (name, each) in enumerate(spreads.items()):
        lines += row(name, each, scale, top + HEAD + STEP * number)
    return lines


def row(name: str, each: Spread, scale: float, y: int) -> list[str]:
    """A label, a bar as long as the median, the range of the middle half, and the number."""
    kind = "bar own" if name in {OURS, REFUSED} else "bar"
    low, high, middle = (LEFT + x * scale for x in (each.low, each.high, each.median))
    center, base = y + BAR / 2 - 5, y + 6
    return [
        f'<text x="{LEFT - 10}" y="{base}" text-anchor="end">{escape(LABELS[name])}</text>',
        f'<rect class="{kind}" x="{LEFT}" y="{y - 5}" width="{middle - LEFT:.1f}" height="{BAR}"/>',
        f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{center}" y2="{center}"/>',
        f'<text class="quiet" x="{high + 8:.1f}" y="{base}">{shown(each.median)}</text>',
    ]
