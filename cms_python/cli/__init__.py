"""The ``cms-python`` command; ``python -m cms_python`` is the same. Needs the extra ``cli``."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]

_NEEDED = ("click", "tqdm")
_HINT = 'cms-python needs an extra that is not installed: pip install "cms-python-client[cli]"'


def main() -> int:
    """Runs the command that the program's arguments name; returns its exit code."""
    if any(find_spec(name) is None for name in _NEEDED):
        sys.stderr.write(f"{_HINT}\n")
        return 2
    from cms_python.cli.app import run

    return run(sys.argv[1:])
