"""What the benchmarks share: environments, the server's process, ratios, and what they ran on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MEMORY = Path("/dev/shm")
# What a build of this package needs of the tree.
SOURCE = ["cms_python", "pyproject.toml", "setup.py", "README.md", "LICENSE"]
# A proxy of this machine has no part in what stays on it, and an import is measured with the
# bytecode that an installed package has.
CHILD_ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.lower().endswith("_proxy") and name != "PYTHONDONTWRITEBYTECODE"
}


class Spread(NamedTuple):
    """The median over the rounds, and the range in which the middle half of them lies."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.with_digits(0)

    def with_digits(self, further: int) -> str:
        middle, low, high = (shown(number, further) for number in self)
        return f"{middle} ({low} to {high})"


def spread(numbers: Iterable[float]) -> Spread:
    """Of at least two numbers."""
    known = list(numbers)
    low, _, high = quantiles(known, n=4, method="inclusive")
    return Spread(median(known), low, high)


def shown(number: float, further: int = 0) -> str:
    """With so many digits as tell something, and some further ones."""
    digits = 3 if number < 0.1 else 2 if number < 10 else 0
    return f"{number:,.{digits + further}f}"


def say(text: str) -> None:
    """Progress, kept apart from the result."""
    print(text, file=sys.stderr)


# Environments


def new_environment(folder: Path) -> str:
    """Makes an empty environment. Returns its Python."""
    venv.create(folder, with_pip=True)
    return str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")


def install(python: str, package: str) -> str:
    """Installs it from the package index. Returns why that failed, or nothing."""
    line = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]
    ran = subprocess.run(line, stderr=subprocess.PIPE, text=True)
    return "" if ran.returncode == 0 else last_line(ran.stderr)


def install_this_package(python: str, folder: Path) -> None:
    """As users get it, from a copy: a build in the tree would leave files behind in it."""
    folder.mkdir()
    for name in SOURCE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name)
        else:
            shutil.copy(ROOT / name, folder)
    failure = install(python, str(folder))
    if failure:
        raise SystemExit(f"This package could not be installed: {failure}")


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"


def versions(python: str, packages: Iterable[str]) -> list[str]:
    """Each package with its version; those that are not installed are left out."""
    code = (
        "import sys, importlib.metadata as m\n"
        "installed = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "for name in sys.argv[1:]:\n"
        "    if name in installed: print(name, installed[name])"
    )
    return output([python, "-c", code, *packages]).splitlines()


def machine() -> str:
    """Its shape, as far as a reader needs it to judge the numbers."""
    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory = f", {size / 2**30:.0f} GiB of memory"
    return (
        f"{platform.system()} on {platform.machine()}, {os.cpu_count()} processors"
        f" ({processor()}){memory}"
    )


def processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "of an unknown kind"


# Processes


def output(line: list[str]) -> str:
    """What a process prints. Where it fails, its own complaint is the error's text."""
    ran = subprocess.run(line, capture_output=True, text=True, env=CHILD_ENVIRONMENT)
    if ran.returncode != 0:
        raise ChildProcessError(ran.stderr)
    return ran.stdout


@contextmanager
def running_server(*delays: float) -> Iterator[list[str]]:
    """One process that listens, at a URL for each delay, while the block runs."""
    line = [sys.executable, str(HERE / "server.py"), *map(str, delays)]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, text=True, env=CHILD_ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        try:
            yield [process.stdout.readline().strip() for _ in delays]
        finally:
            process.kill()
