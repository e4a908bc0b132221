"""Where the time goes of what is above its targets: the import, a first client, a refused call.

A profiler makes all that it looks at slower, and small functions most, hence shares and no times.
"""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median

from cases import CASES, OURS, REFUSED
from common import CHILD_ENVIRONMENT, HERE, output

MEASURES = str(HERE / "measures.py")
MOST_LINES = 12
# Whatever is none of these comes with Python.
PACKAGES = ["cms_python", "urllib3", "pydantic", "pydantic_core", "annotated_types",
            "typing_inspection", "typing_extensions"]  # fmt: skip


def as_text(url: str, rounds: int, calls: int) -> str:
    modules = import_times(rounds)
    packages: dict[str, float] = {}
    for module, time in modules.items():
        package = module.partition(".")[0]
        name = package if package in PACKAGES else "the standard library"
        packages[name] = packages.get(name, 0.0) + time
    whole = sum(modules.values())
    client = functions("client_profile", OURS, url, rounds)
    refused = functions("call_profile", REFUSED, url, rounds, calls)
    parts = [
        listed("The import, by package", packages, whole),
        listed("The import, by module, without those that it imports", modules, whole),
        listed(
            "A first client, by function, with those that it calls", client, max(client.values())
        ),
        listed(
            "A refused call, by function, with those that it calls", refused, max(refused.values())
        ),
    ]
    return "\n\n".join(parts)


def listed(title: str, found: dict[str, float], whole: float) -> str:
    """The largest, as shares of the whole."""
    most = sorted(found.items(), key=lambda each: each[1], reverse=True)[:MOST_LINES]
    return "\n".join([title, *(f"{part / whole:7.1%}  {name}" for name, part in most)])


def import_times(rounds: int) -> dict[str, float]:
    """By module, without those that every program has. The least of each is its own."""
    every = module_times("pass")
    runs = [module_times(CASES[OURS].imports) for _ in range(rounds)]
    return {name: min(run[name] for run in runs) for name in runs[0] if name not in every}


def module_times(source: str) -> dict[str, float]:
    """What each module takes without those that it imports, as Python itself says."""
    line = [sys.executable, "-X", "importtime", "-c", source]
    ran = subprocess.run(line, capture_output=True, text=True, check=True, env=CHILD_ENVIRONMENT)
    columns = [row.partition(":")[2].split("|") for row in ran.stderr.splitlines()[1:]]
    return {row[2].strip(): float(row[0]) for row in columns if len(row) == 3}


def functions(measure: str, case: str, url: str, rounds: int, *numbers: int) -> dict[str, float]:
    """The median of what each function took, those that it calls included."""
    line = [sys.executable, MEASURES, measure, case, url, *map(str, numbers)]
    runs: list[dict[str, float]] = [json.loads(output(line)) for _ in range(rounds)]
    return {name: median(run.get(name, 0.0) for run in runs) for name in runs[0]}
