"""The public names and signatures change only where somebody says so."""

from __future__ import annotations

import ast
import difflib

import public_api
import pytest


def test_the_public_api_is_the_one_that_was_written_down() -> None:
    """Who updates finds the names and arguments of before, or reads of the change."""
    before = public_api.SNAPSHOT.read_text(encoding="utf-8")
    now = public_api.snapshot()
    lines = difflib.unified_diff(
        before.splitlines(), now.splitlines(), "public_api.txt", "the source", lineterm="", n=2
    )
    if before != now:
        pytest.fail(
            "\n".join(lines) + "\n\nThe public API has changed. If that is meant, run "
            f"`{public_api.COMMAND}` and tell users of it in CHANGELOG.md, in the same commit.",
            pytrace=False,
        )


def described(source: str) -> list[str]:
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    return list(public_api.members(node))


def test_what_a_user_can_touch_is_in_the_snapshot() -> None:
    """Arguments with their kinds and defaults, fields, attributes and properties."""
    expected = [
        "size: int = 3",
        "def __init__(self, *, a: str=TEXT) -> None",
        "self.a",
        "self.b: Optional[int]",
        "@property",
        "def url(self) -> str",
    ]
    assert expected == described(
        """
class Door:
    size: int = 3
    _width = 4
    def __init__(self, *, a: str = TEXT) -> None:
        self.a = a
        self.b: Optional[int] = None
        self._c = 5
    @property
    def url(self) -> str: ...
    def _open(self) -> None: ...
"""
    )
