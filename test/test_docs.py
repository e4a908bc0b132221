"""Every code block of the README and the docs does what it says."""

from __future__ import annotations

import ast
import doctest
import importlib
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import typing
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from brokers import free_port
from command import environment

import cms_python
from cms_python import CMSClient, TrackFailure, TrackSuccess
from cms_python.sandbox import Sandbox

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
EXAMPLES = sorted(ROOT.glob("examples/*/*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Commands, and the block right behind them that shows what they print.
SHOWN = re.compile(r"^```bash\n(.*?)^```\n(?:\n```\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
# A block of files, each after a line with its name, is not typed in; test_recipes.py runs it.
FILE = re.compile(r"^# (\S+\.py)\n", re.MULTILINE)
# Other forms of a block would be found by no test: another fence, or mere indentation, which below
# an item of a list is none.
FENCE = re.compile(r"^\s*(?:`{3}|~{3})", re.MULTILINE)
INDENTED = re.compile(r"^(?!\s|[-*+] |\d+\. ).+\n(?:\s*\n)+((?: {4}|\t).+)", re.MULTILINE)
COMMAND = re.compile(
    r"^(?:\w+=\S+ )?(?:celery|cms-python|curl|dramatiq|export|git|make|pip|python|rq) ", re.M
)
SERVER = re.compile(r"^(python -m cms_python\.sandbox .*?)(?: &)?\n$")

# Shown elsewhere: by .ci/run, which makes the environments that these lines speak of.
IN_CI = {
    "make demo",
    "make test",
    'python -m pip install -e ".[sandbox]"',
    "python examples/quickstart.py",
    'python -m pip install -e ".[dev]"',
    "python -m pytest",
}
# Need the package index or the Git host; .ci/run installs the built wheel and sdist instead.
FROM_THE_NETWORK = {
    "git clone https://github.com/CutMeShort/cms-python-client.git && cd cms-python-client",
    'pip install "cms-python-client>=2"',
    "pip install git+https://github.com/CutMeShort/cms-python-client.git",
    'pip install "cms-python-client[sandbox]>=2"',
    'pip install "cms-python-client[sandbox]" pytest',
    'pip install "cms-python-client[celery]" redis',
    'pip install "dramatiq[redis]"',
    "pip install rq",
}
# Need files and a broker; test_recipes.py runs them with those.
IN_RECIPES = {
    "CMS_BEARER_TOKEN=... celery --app shop.app worker --concurrency 8",
    "dramatiq dramatiq_queue --queues cms",
    "dramatiq dramatiq_queue --queues cms_dead --processes 1",
    "redis-cli HLEN dramatiq:cms_dead.msgs",
    "rq info cms_dead",
    "rq requeue --all --queue cms",
    "rq worker --burst cms_dead",
    "rq worker --with-scheduler cms",
}


def blocks(page: Path, language: str) -> list[str]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [code for name, code in found if name == language]


def is_python(code: str) -> bool:
    """Whether it is Python that imports or defines something, and so is more than an output."""
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except SyntaxError:
        return False
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) for node in nodes)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(
    page: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One block after the other, as a reader types them, against the sandbox."""
    monkeypatch.setenv("CMS_HOST", sandbox.url)
    monkeypatch.setenv("CMS_BEARER_TOKEN", "a-token")
    names: dict[str, object] = {"__name__": "__main__"}
    typed = [code for code in blocks(page, "python") if not FILE.match(code)]
    for code in typed:
        exec(compile(code, page.name, "exec"), names)
        assert (
            typing.cast("dict[str, object]", names.get("response", {})).get("success") is not False
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_json_of_a_page_is_a_result(page: Path) -> None:
    """The dicts that are shown have exactly the keys that come back."""
    for code in blocks(page, "json"):
        shown = json.loads(code)
        expected = TrackSuccess if shown["success"] else TrackFailure
        assert list(shown) == list(expected.__annotations__)


def bare(line: str) -> str:
    """A command without the remark behind it."""
    return line.partition(" # ")[0].strip()


class Shell:
    """A reader's terminals, in one folder; ends the servers that were started there."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder = folder
        self.exports = ""
        self.port = str(urlsplit(sandbox.url).port)
        self.env = environment({"CMS_HOST": sandbox.url, "CMS_BEARER_TOKEN": "a-token"})
        self.env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), self.env["PATH"]])
        self.servers = ExitStack()

    def type(self, commands: str) -> str:
        """Runs a block of commands in which nothing may fail; returns what it prints."""
        lines = commands.splitlines(keepends=True)
        lines = [line for line in lines if bare(line) not in FROM_THE_NETWORK | IN_RECIPES]
        if server := SERVER.match("".join(lines)):
            return self.servers.enter_context(self.serving(server.group(1)))
        self.exports += "".join(line for line in lines if line.startswith("export "))
        # What an earlier block exported is still there.
        typed = self.exports + "".join(line for line in lines if not line.startswith("export "))
        return subprocess.run(
            ["bash", "-ec", typed.replace("4010", self.port)], env=self.env, cwd=self.folder,
            text=True, timeout=60, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ).stdout  # fmt: skip

    @contextmanager
    def serving(self, command: str) -> Iterator[str]:
        """Runs a server at a free port; yields its first line, and ends it with the block."""
        self.port = str(free_port())
        with subprocess.Popen(
            shlex.split(command.replace("4010", self.port)), env=self.env, cwd=self.folder,
            text=True, stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            try:
                yield process.stdout.readline()
                process.terminate()
                assert 0 == process.wait(timeout=30)
            finally:
                process.kill()


@pytest.fixture
def shell(tmp_path: Path, sandbox: Sandbox) -> Iterator[Shell]:
    made = Shell(tmp_path, sandbox)
    with made.servers:
        yield made


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent != ROOT], ids=lambda page: page.name
)
def test_the_commands_of_a_page_do_what_it_says(page: Path, shell: Shell) -> None:
    """One block after the other, in one folder; what is shown behind a block is what it prints."""
    for commands, shown in SHOWN.findall(page.read_text(encoding="utf-8")):
        printed = shell.type(commands)
        assert shown in {"", printed}
        assert "'success': False" not in printed
        if SERVER.match(commands):
            assert f"http://127.0.0.1:{shell.port}\n" == printed


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_the_commands_of_a_page_are_run_somewhere(name: str) -> None:
    """A command is run here, or in .ci/run, where it stands word for word."""
    page = ROOT / name
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in "".join(blocks(page, "bash")).splitlines():
        if line in IN_CI:
            assert line in ci
        elif line.startswith("make "):
            assert f"\n{line.split()[1]}:" in makefile
        elif line not in FROM_THE_NETWORK:
            subprocess.run(["bash", "-c", line], check=True, timeout=60, cwd=ROOT)


@pytest.mark.parametrize(
    "page", [*PAGES, *EXAMPLES], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_no_block_of_a_page_is_of_a_kind_that_nothing_runs(page: Path) -> None:
    """A new kind of block needs a test of its own."""
    text = page.read_text(encoding="utf-8")
    found = BLOCK.findall(text)
    assert {name for name, _ in found} <= {"", "bash", "json", "python"}
    assert 2 * len(found) == len(FENCE.findall(text))
    assert [] == INDENTED.findall(BLOCK.sub("", text))
    plain = [code for name, code in found if not name]
    assert [] == [code for code in plain if is_python(code) or COMMAND.search(code)]


def test_the_examples_in_docstrings_run(
    sandbox: Sandbox, client: CMSClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an editor shows beside a call is true."""
    monkeypatch.setenv("CMS_HOST", sandbox.url)
    monkeypatch.setenv("CMS_BEARER_TOKEN", "a-token")
    tried = 0
    for each in pkgutil.walk_packages(cms_python.__path__, "cms_python."):
        if each.name.endswith("__main__"):
            continue
        module = importlib.import_module(each.name)
        results = doctest.testmod(module, extraglobs={"client": client})
        assert results.failed == 0, each.name
        tried += results.attempted
    assert tried > 5


def run_example(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name)],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_the_quickstart_shows_five_results_and_what_was_stored() -> None:
    """No account, no network, one command."""
    ran = run_example("quickstart.py")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count('"success": true') == 4
    assert ran.stdout.count('"success": false') == 1
    assert "sale purchase_completed of user_42 through id_123: 4999 cents" in ran.stdout


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("lead_example.py", ["signup_started", "kyc_completed"]),
        ("sale_example.py", ["purchase_completed"]),
    ],
)
def test_an_example_tracks_against_the_host_of_the_environment(
    sandbox: Sandbox, name: str, stored: list[str]
) -> None:
    """CMS_HOST and CMS_BEARER_TOKEN are all that it needs."""
    ran = run_example(name, CMS_HOST=sandbox.url, CMS_BEARER_TOKEN="x")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [event.event_name for event in sandbox.events] == stored


@pytest.mark.parametrize("name", ["lead_example.py", "sale_example.py"])
def test_an_example_prints_a_failure_where_nobody_answers(name: str) -> None:
    """A sentence, not a traceback."""
    with Sandbox() as stopped:
        url = stopped.url
    ran = run_example(name, CMS_HOST=url, CMS_BEARER_TOKEN="x")
    assert (ran.returncode, ran.stderr) == (1, "")
    assert "failed, connection_error (0): No connection could be made" in ran.stdout


@pytest.mark.parametrize("name", ["lead_example.py", "sale_example.py"])
def test_an_example_without_a_token_says_what_to_set(name: str) -> None:
    """The first thing that a newcomer forgets."""
    ran = run_example(name)
    assert (ran.returncode, ran.stderr) == (2, "")
    assert ran.stdout.startswith("token is missing")
