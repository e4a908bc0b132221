"""The documentation site is whole: its pages, links and names, and what is written by a script."""

from __future__ import annotations

import importlib
import inspect
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
import yaml
from needed import needs
from public_api import public_modules, public_names
from test_docs import ROOT

import cms_python
from cms_python import CMSClient, Outbox, TrackFailure, TrackSuccess, results

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("examples/*/*.md")])
GENERATED = {"reference.md"}
HOME = "https://github.com/CutMeShort/cms-python-client/blob/main/"
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
HEADING = re.compile(r"^#{1,6} (.+?)\s*$", re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return CODE.sub("", page.read_text(encoding="utf-8"))


def on_a_code_host(title: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def on_the_site(title: str) -> str:
    """The anchor that Python-Markdown gives to a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def anchors(page: Path, slug: Callable[[str], str]) -> set[str]:
    """The anchors of a page, but for those of headings that come twice: each rule counts anew."""
    titles = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", each) for each in HEADING.findall(prose(page))]
    counts = Counter(slug(title.replace("`", "")) for title in titles)
    return {each for each, count in counts.items() if count == 1}


def links(page: Path) -> list[tuple[str, str, str]]:
    """The links of a page that stay in the repository: as written, the path, the anchor."""
    found = []
    for link in LINK.findall(SPAN.sub("", prose(page))):
        path, _, anchor = link.partition("#")
        if path.startswith(HOME):
            found.append((link, str(ROOT / path[len(HOME) :]), anchor))
        elif "://" not in path:
            found.append((link, str(page.parent / path) if path else str(page), anchor))
    return found


def pages_of(nav: Any) -> list[str]:
    """The pages of a nav, however deep, without what lies elsewhere."""
    if isinstance(nav, str):
        return [] if "://" in nav else [nav]
    inner = nav.values() if isinstance(nav, dict) else nav
    return [page for each in inner for page in pages_of(each)]


def test_every_page_can_be_reached_from_the_navigation() -> None:
    """A page is in the nav, once, and the nav names none that is not there."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(page.name for page in DOCS.glob("*.md")) == sorted(pages_of(settings["nav"]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_link_leads_to_a_place_that_is_there(page: Path) -> None:
    """On a code host and on the site, down to the heading."""
    lost = []
    for link, path, anchor in links(page):
        target = Path(path)
        if not target.exists():
            lost.append(link)
        elif anchor and target.suffix == ".md":
            lost += [
                link
                for slug in (on_a_code_host, on_the_site)
                if anchor not in anchors(target, slug)
            ]
    assert [] == lost


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_has_one_title(page: Path) -> None:
    """It is its name in the site's list and in a browser's tab."""
    assert 1 == len(re.findall(r"^# ", prose(page), re.MULTILINE))


def write_reference() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "write_reference.py"))


def test_the_reference_is_what_the_code_says() -> None:
    """It follows each change of a signature or a docstring: run docs/write_reference.py."""
    written = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert write_reference()["page"]() == written


def test_every_public_name_has_an_entry_in_the_reference() -> None:
    """A name that is added gets a place among SECTIONS of docs/write_reference.py."""
    public = {name for module in public_modules() for name in public_names(module)}
    headings = HEADING.findall(prose(DOCS / "reference.md"))
    assert set() == public - set(headings)


def public_callables() -> Iterator[tuple[Callable[..., object], Optional[type]]]:
    """What a user may call, but for fixtures, each with the class that it is of, if any."""
    for module in public_modules():
        for name in set(public_names(module)) - {"cms_client", "cms_sandbox"}:
            value = getattr(importlib.import_module(module), name)
            if inspect.isfunction(value):
                yield value, None
            elif inspect.isclass(value):
                yield from ((each, value) for each in methods(value))


def methods(owner: type) -> list[Callable[..., object]]:
    """Its public methods and its constructor, those that it inherits from the package as well."""
    return [
        each
        for name, each in inspect.getmembers(owner)
        if (name == "__init__" or not name.startswith("_"))
        and (inspect.isfunction(each) or inspect.ismethod(each))
        and each.__module__.startswith("cms_python")
    ]


def told_of(function: Callable[..., object], owner: Optional[type]) -> str:
    """The docstrings of a function, and of a method's classes; of some a page says more."""
    classes = inspect.getmro(owner) if owner else ()
    inherited = [vars(each).get(function.__name__) for each in classes]
    texts = [each.__doc__ or "" for each in (function, *inherited, *classes) if each]
    if owner and (page := DOCS / f"{owner.__name__}.md").exists():
        texts.append(page.read_text(encoding="utf-8"))
    return " ".join(texts)


def test_every_argument_of_a_public_callable_is_explained() -> None:
    """In a docstring, from which the reference is written, or on the page of its class."""
    callables = list(public_callables())
    assert len(callables) > 50
    unexplained = {
        f"{function.__module__}.{function.__qualname__}: {argument}"
        for function, owner in callables
        for argument in inspect.signature(function).parameters
        if argument != "self" and not re.search(rf"\b{argument}\b", told_of(function, owner))
    }
    assert set() == unexplained


CALLS: list[Callable[..., object]] = [CMSClient, CMSClient.track_lead, CMSClient.track_sale, Outbox]


def test_every_argument_of_the_client_stands_on_a_page_that_somebody_wrote() -> None:
    """The reference alone does not say what a thing is for."""
    pages = [page for page in DOCS.glob("*.md") if page.name not in GENERATED]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    code = "\n".join([*CODE.findall(text), *(code for _, code in SPAN.findall(CODE.sub("", text)))])
    names = {argument for each in CALLS for argument in inspect.signature(each).parameters}
    methods = {"track_lead", "track_sale", "with_options", "flush", "close", "stats", "dead"}
    wanted = names - {"self"} | methods | {"retry_dead", "purge_dead"}
    assert [] == sorted(each for each in wanted if not re.search(rf"\b{each}\b", code))


def rows(page: Path) -> list[str]:
    """The first cells of the tables of a page."""
    return re.findall(r"^\| (.+?) \|", prose(page), re.MULTILINE)


def test_every_type_of_failure_has_a_row() -> None:
    """What happened, and what to do about it."""
    listed = {name for cell in rows(DOCS / "results.md") for _, name in SPAN.findall(cell)}
    assert set() == {*results.OWN_TYPES, *results.TYPES.values()} - listed


def test_every_key_of_a_result_has_a_row() -> None:
    """Of a success and of a failure."""
    listed = {name for cell in rows(DOCS / "results.md") for _, name in SPAN.findall(cell)}
    assert set() == {*TrackSuccess.__annotations__, *TrackFailure.__annotations__} - listed


def test_every_exception_has_an_entry() -> None:
    """Whoever uses the generated layer alone can look up what to catch."""
    named = {name for name in cms_python.__all__ if name.endswith("Exception")}
    assert named <= set(HEADING.findall(prose(DOCS / "reference.md")))


BUILDERS = [
    pytest.param(
        "zensical",
        ["build", "--strict"],
        id="zensical",
        marks=[
            pytest.mark.skipif(sys.version_info < (3, 10), reason="Zensical needs Python 3.10"),
            needs("zensical"),
        ],
    ),
    # With a theme of its own, MkDocs needs no other package.
    pytest.param(
        "mkdocs", ["build", "--strict", "--theme", "mkdocs"], marks=needs("mkdocs"), id="mkdocs"
    ),
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The site's sources in a folder of their own: Zensical builds beside them."""
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(DOCS, tmp_path / "docs")
    return tmp_path


def build(builder: str, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", builder, *arguments], cwd=folder, check=False, timeout=120,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.parametrize(("builder", "arguments"), BUILDERS)
def test_the_site_builds_without_a_warning(builder: str, arguments: list[str], copy: Path) -> None:
    """Every page of the nav comes out, and the pictures with them."""
    ran = build(builder, arguments, copy)
    assert 0 == ran.returncode, ran.stdout
    for page in DOCS.glob("*.md"):
        name = "index.html" if page.stem == "index" else f"{page.stem}/index.html"
        assert (copy / "site" / name).exists()
    assert (copy / "site" / "images" / "deferred.svg").exists()


@pytest.mark.parametrize(("builder", "arguments"), BUILDERS)
def test_the_site_does_not_build_with_a_broken_link(
    builder: str, arguments: list[str], copy: Path
) -> None:
    """It names each: to a page that is missing, to another's heading, to one of its own."""
    broken = ["lost.md", "results.md#missing", "#nowhere"]
    with (copy / "docs" / "index.md").open("a", encoding="utf-8") as page:
        page.writelines(f"\n[broken]({link})\n" for link in broken)
    ran = build(builder, arguments, copy)
    assert 0 != ran.returncode
    said = COLOUR.sub("", ran.stdout)
    assert [] == [link for link in broken if link not in said], said
