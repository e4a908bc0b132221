"""What an import of a large file takes, beside one of a small file.

    python benchmarks/importing.py

writes files of sales, imports each into a server of this machine that answers at once, and prints
how the largest compares with the smallest: rows a second, and memory. It needs the extra `cli`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from common import CHILD_ENVIRONMENT, MEMORY, ROOT, running_server

HEADINGS = "click_id,event_name,customer_external_id,invoice_id,amount,currency,timestamp\n"
MEBIBYTE = 1024 * 1024


class Cost(NamedTuple):
    """Of one import: seconds, and the largest amount of memory that it had in use, in bytes."""

    seconds: float
    memory: int


def write(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(HEADINGS)
        for number in range(rows):
            file.write(
                f"id_{number},purchase_completed,user_{number // 3},inv_{number},{number},USD,"
                "2026-07-01T09:30:00Z\n"
            )


def imported(path: Path, url: str) -> Cost:
    line = [sys.executable, "-m", "cms_python", "import", str(path), "--kind", "sale"]
    env = {
        **CHILD_ENVIRONMENT,
        "CMS_HOST": url,
        "CMS_BEARER_TOKEN": "a-token",
        "PYTHONPATH": str(ROOT),
    }
    started = time.perf_counter()
    with subprocess.Popen(line, env=env) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(time.perf_counter() - started, usage.ru_maxrss * unit)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    costs = []
    with running_server(0) as (url,):
        for rows in options.rows:
            with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
                path = Path(folder) / "sales.csv"
                write(path, rows)
                costs.append((rows, path.stat().st_size, imported(path, url)))
    print(
        f"\n{'rows':>10} {'file, MiB':>10} {'rows a second':>14} {'memory, MiB':>12} memory, ratio"
    )
    for rows, size, cost in costs:
        print(
            f"{rows:10,} {size / MEBIBYTE:10.1f} {rows / cost.seconds:14,.0f}"
            f" {cost.memory / MEBIBYTE:12.0f} {cost.memory / costs[0][2].memory:.2f}"
        )


if __name__ == "__main__":
    main()
