"""Whether version, changelog and tag agree: `check_release.py`, or for a release with its tag."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEADING = re.compile(r"^## \[(\S+)\] - (\S+)$", re.MULTILINE)


def problem(version: str, changelog: str, tag: str = "") -> str:
    """What is wrong, in a sentence; empty where nothing is. Without a tag no date is needed yet."""
    newest = HEADING.search(changelog)
    if newest is None:
        return "CHANGELOG.md has no heading such as: ## [1.2.3] - 2026-01-31"
    if newest[1] != version:
        return f"CHANGELOG.md begins with {newest[1]}, cms_python/_version.py has {version}"
    if tag and tag != f"v{version}":
        return f"the tag is {tag}, but the version is {version}: it must be v{version}"
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", newest[2]) and (tag or newest[2] != "Unreleased"):
        return f"CHANGELOG.md needs a date for {version}, not {newest[2]}"
    return ""


def main() -> None:
    version = runpy.run_path(str(ROOT / "cms_python" / "_version.py"))["__version__"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sys.exit(problem(version, changelog, *sys.argv[1:]) or None)


if __name__ == "__main__":
    main()
