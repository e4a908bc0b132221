"""The command ``cms-python``, as a process: its exit codes, what it prints, and where."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import pytest
from needed import IS_CI

pytest.importorskip("click")

import click
from command import COMMAND, at_terminal, environment, run, started
from fault_server import FaultServer, answer, echo, silent

from cms_python import CMSClient, Event, Outbox, __version__
from cms_python.cli.app import app
from cms_python.cli.common import interruptions

if TYPE_CHECKING:
    from cms_python.sandbox import Sandbox

LEAD = ["--event-name", "signup", "--customer-external-id", "user_1", "--click-id", "id_1"]
SALE = [*LEAD, "--invoice-id", "inv_1", "--amount", "4999", "--currency", "usd"]
PERSONAL = ["--customer-name", "Jane Doe", "--customer-email", "jane@example.com"]
TOKEN = {"CMS_BEARER_TOKEN": "s3cret-token"}
HINT = 'cms-python needs an extra that is not installed: pip install "cms-python-client[cli]"\n'
# What pip makes of pyproject.toml.
SCRIPT = Path(sys.executable).with_name("cms-python")
OUTBOX_COMMANDS = ["stats", "drain", "dead", "retry", "purge", "export"]

refused = answer(422, {"success": False, "error": "Refused"})


@pytest.fixture
def env(sandbox: Sandbox) -> dict[str, str]:
    """The environment of a user who has set up the client for the sandbox."""
    return {**TOKEN, "CMS_HOST": sandbox.url}


def without(module: str, folder: Path) -> dict[str, str]:
    """An environment in which a module seems not to be installed."""
    (folder / "sitecustomize.py").write_text(f"import sys; sys.modules[{module!r}] = None")
    path = environment().get("PYTHONPATH")
    return {"PYTHONPATH": f"{folder}:{path}" if path else str(folder)}


def commands(group: click.Group, *names: str) -> Iterator[list[str]]:
    """The names of all commands that do something."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield [*names, name]


# The command as a whole


@pytest.mark.parametrize("names", list(commands(app)), ids=" ".join)
def test_every_command_explains_itself_with_an_example(names: list[str]) -> None:
    """--help shows how a command is typed."""
    ran = run(*names, "--help")
    assert (0, "") == (ran.returncode, ran.stderr)
    assert " ".join(["cms-python", *names]) in re.split("Examples?:", ran.stdout)[1]


def test_the_version_is_the_packages() -> None:
    """--version tells which release runs."""
    assert f"cms-python, version {__version__}\n" == run("--version").stdout


@pytest.mark.skipif(not (SCRIPT.exists() or IS_CI), reason="the package's scripts are missing")
def test_installing_the_package_installs_the_command() -> None:
    """It is on the PATH under its name, and the same as ``python -m cms_python``."""
    ran = subprocess.run([SCRIPT, "--version"], capture_output=True, text=True, check=True)
    assert f"cms-python, version {__version__}\n" == ran.stdout


@pytest.mark.parametrize("module", ["click", "tqdm"])
def test_without_the_extra_the_command_says_what_to_install(module: str, tmp_path: Path) -> None:
    """A missing extra is one line on stderr, exit code 2."""
    ran = run("--version", env=without(module, tmp_path))
    assert (2, "", HINT) == (ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.parametrize("arguments", [["nothing"], ["lead", "--nothing"], ["outbox", "nothing"]])
def test_what_is_unknown_is_wrong_use(arguments: list[str]) -> None:
    """A command or an option that there is not ends with exit code 2, and a hint of --help."""
    ran = run(*arguments)
    assert (2, "") == (ran.returncode, ran.stdout)
    assert re.search(r"Try 'cms-python.* (-h|--help)' for help\.", ran.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk takes Linux's /dev/full")
@pytest.mark.parametrize("debug", [True, False])
def test_an_unexpected_error_is_one_line_unless_debugged(debug: bool, tmp_path: Path) -> None:
    """A full disk is told in a line; --debug shows the traceback."""
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [*COMMAND, "lead", *LEAD, "--dry-run", *(["--debug"] if debug else [])],
            env=environment(), cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert 1 == ran.returncode
    if debug:
        assert ran.stderr.startswith("Traceback")
    else:
        assert "Error: No space left on device. --debug shows where.\n" == ran.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["lead", "--help"], ["lead", "--amount"]])
def test_no_color_is_honoured(arguments: list[str]) -> None:
    """With NO_COLOR nothing but text comes to a terminal, and into a pipe anyway."""
    with at_terminal(*arguments, env={"NO_COLOR": "1"}) as terminal:
        terminal.end()
    piped = run(*arguments)
    assert "\x1b" not in terminal.shown + piped.stdout + piped.stderr


# lead and sale


def test_a_lead_arrives(env: dict[str, str], sandbox: Sandbox) -> None:
    """The result that CMSClient returns is printed as JSON; exit code 0."""
    ran = run("lead", *LEAD, "--idempotency-key", "key_1", *PERSONAL, env=env)
    assert (0, "") == (ran.returncode, ran.stderr)
    assert json.loads(ran.stdout)["success"] is True
    assert ran.stdout.startswith('{\n  "success": true,\n')
    (event,) = sandbox.events
    assert ("lead", "key_1") == (event.kind, event.idempotency_key)
    expected = {
        "eventName": "signup",
        "customerExternalId": "user_1",
        "clickId": "id_1",
        "customerName": "Jane Doe",
        "customerEmail": "jane@example.com",
    }
    assert expected == event.payload


def test_a_sale_arrives(env: dict[str, str], sandbox: Sandbox) -> None:
    """Amounts are cents, times have a zone."""
    ran = run("sale", *SALE, "--timestamp", "2026-01-31T09:30:00Z", env=env)
    assert (0, "") == (ran.returncode, ran.stderr)
    (event,) = sandbox.events
    assert ("sale", 4999, "USD") == (event.kind, event.amount, event.currency)
    assert "2026-01-31T09:30:00Z" == event.payload["timestamp"]


def test_a_deferred_lead_stores_its_click(env: dict[str, str], sandbox: Sandbox) -> None:
    """--mode deferred does what mode="deferred" does."""
    assert 0 == run("lead", *LEAD, "--mode", "deferred", env=env).returncode
    assert {"user_1": "id_1"} == sandbox.deferred_clicks


@pytest.mark.parametrize("method", [CMSClient.track_lead, CMSClient.track_sale])
def test_every_argument_is_an_option_with_an_explanation(method: Callable[..., Any]) -> None:
    """The command can track whatever the client can, and says what each option is for."""
    shown = run(method.__name__.replace("track_", ""), "--help").stdout
    _, *names = inspect.signature(method).parameters
    for name in names:
        assert re.search(rf"^  --{name.replace('_', '-')} \S+ +\S+", shown, re.MULTILINE), name


@pytest.mark.parametrize("status", [401, 422, 503])
def test_a_failure_is_printed_and_exit_code_1(status: int) -> None:
    """The dict of a failure comes to stdout too: it holds the key to try again with."""
    with FaultServer(answer(status, {"success": False, "error": "No"})) as server:
        ran = run("lead", *LEAD, "--host", server.url, "--max-retries", "0", env=TOKEN)
    assert (1, "") == (ran.returncode, ran.stderr)
    result = json.loads(ran.stdout)
    assert (False, status, server.keys) == (
        result["success"], result["status_code"], [result["idempotency_key"]]
    )  # fmt: skip


def test_a_value_that_the_client_refuses_is_a_failure_like_others(env: dict[str, str]) -> None:
    """What CMSClient calls a validation_error is printed with its details; exit code 1."""
    ran = run("lead", *LEAD, "--event-name", " ", *PERSONAL, env=env)
    assert (1, "") == (ran.returncode, ran.stderr)
    assert {"event_name": "must not be blank"} == json.loads(ran.stdout)["details"]


@pytest.mark.parametrize("amount", ["7.77", "7,77", "1e3", "", "1_000", "٣", "9" * 5000])
def test_an_amount_that_is_not_in_whole_cents_is_refused(amount: str) -> None:
    """Nobody pays a hundredth, or a hundred times, of what was meant."""
    ran = run("sale", *SALE, f"--amount={amount}", env=TOKEN)
    assert (2, "") == (ran.returncode, ran.stdout)
    sentence = "Error: Invalid value for '--amount': must be whole cents: 777 means 7.77.\n"
    assert ran.stderr.endswith(sentence)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lead"], "Missing option '--event-name'"),
        (["sale", *LEAD], "Missing option '--invoice-id'"),
        (["lead", *LEAD, "--mode", "later"], "Invalid value for '--mode'"),
        (["lead", *LEAD, "--host", "example.com"], "host must be an absolute http or https URL"),
        (["lead", *LEAD, "--dry-run", "--host", "example.com"], "host must be an absolute"),
        (["lead", *LEAD, "--timeout", "0"], "Invalid value for '--timeout'"),
    ],
)
def test_wrong_use_is_exit_code_2(arguments: list[str], message: str) -> None:
    """What can be seen without sending is told on stderr, with a hint of --help."""
    ran = run(*arguments, env=TOKEN)
    assert (2, "") == (ran.returncode, ran.stdout)
    assert message in ran.stderr


def test_without_a_token_the_command_says_where_to_put_it() -> None:
    """A script without a token fails at once and does not wait for somebody to type."""
    ran = run("lead", *LEAD, input="a-token\n")
    assert (2, "") == (ran.returncode, ran.stdout)
    assert "there is no token: set CMS_BEARER_TOKEN or pass --token-file FILE" in ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["lead", *LEAD, "--token", "s3cret"],
        ["lead", "--token=s3cret"],
        ["lead", *LEAD, "--token"],
        ["--token", "s3cret", "lead"],
        ["outbox", "drain", "events.db", "--token", "s3cret"],
    ],
)
def test_a_token_among_the_arguments_is_answered_with_advice(arguments: list[str]) -> None:
    """Everybody on a machine can see the arguments of its programs."""
    ran = run(*arguments, env=TOKEN)
    assert (2, "") == (ran.returncode, ran.stdout)
    assert "set CMS_BEARER_TOKEN, pass --token-file FILE, or wait to be asked" in ran.stderr
    assert "s3cret" not in ran.stderr


def test_a_token_can_come_from_a_file(tmp_path: Path) -> None:
    """As secrets of containers do; the newline at its end does not matter."""
    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    with FaultServer(echo) as server:
        ran = run("lead", *LEAD, "--token-file", str(file), env={"CMS_HOST": server.url})
    assert 0 == ran.returncode
    assert ["Bearer from-a-file"] == [each.headers["authorization"] for each in server.requests]


def test_a_token_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """One line says which file and why."""
    ran = run("lead", *LEAD, "--token-file", "missing", cwd=tmp_path)
    assert (1, "") == (ran.returncode, ran.stdout)
    assert "Error: --token-file missing cannot be read: No such file or directory.\n" == ran.stderr


def test_at_a_terminal_the_token_is_asked_for_and_not_shown() -> None:
    """Who types a token leaves it neither on the screen nor in the shell's history."""
    with FaultServer(echo) as server, at_terminal("lead", *LEAD, "--host", server.url) as terminal:
        terminal.wait_for("Token: ")
        terminal.type("typed-s3cret\n")
        assert 0 == terminal.end()
    assert ["Bearer typed-s3cret"] == [each.headers["authorization"] for each in server.requests]
    assert "s3cret" not in terminal.shown
    assert '"success": true' in terminal.shown


def test_ctrl_c_at_the_prompt_ends_the_command() -> None:
    """Exit code 130, as shells count it, and no traceback."""
    with at_terminal("lead", *LEAD) as terminal:
        terminal.wait_for("Token: ")
        terminal.process.send_signal(signal.SIGINT)
        assert 130 == terminal.end()
    assert "Traceback" not in terminal.shown


@pytest.mark.parametrize("arguments", [["lead", *LEAD], ["sale", *SALE]])
def test_a_dry_run_shows_what_would_be_sent(arguments: list[str]) -> None:
    """Nothing is sent and no token needed; what is shown is what arrives otherwise."""
    arguments = [*arguments, *PERSONAL, "--idempotency-key", "key_1"]
    with FaultServer(echo) as server:
        dry = run(*arguments, "--dry-run", "--host", server.url)
        assert [] == server.requests
        run(*arguments, "--host", server.url, env=TOKEN)
    assert (0, "") == (dry.returncode, dry.stderr)
    (sent,) = server.requests
    expected = {"path": sent.path, "idempotency_key": sent.key, "body": sent.json}
    assert expected == json.loads(dry.stdout)["data"]


def test_a_dry_run_finds_what_is_wrong() -> None:
    """A script's arguments can be checked before they count."""
    ran = run("lead", *LEAD, "--timestamp", "yesterday", "--dry-run")
    assert 1 == ran.returncode
    assert "validation_error" == json.loads(ran.stdout)["type"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_the_output_is_json_in_any_encoding(encoding: str) -> None:
    """A terminal or a pipe that knows no emoji gets them escaped."""
    ran = run(
        "lead", *LEAD, "--customer-name", "Zoë 🦊", "--dry-run",
        env={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert (0, "") == (ran.returncode, ran.stderr)
    assert "Zoë 🦊" == json.loads(ran.stdout)["data"]["body"]["customerName"]


def test_a_host_without_encryption_is_warned_of() -> None:
    """One line on stderr; stdout stays JSON."""
    with FaultServer(echo) as server:
        proxied = {**TOKEN, "http_proxy": server.url}
        ran = run("lead", *LEAD, "--host", "http://cms.invalid", env=proxied)
    assert 0 == ran.returncode
    assert ran.stderr.startswith("Warning: host is plain http")
    assert 1 == ran.stderr.count("\n")


# outbox


def queue(file: Path, *names: str, customer: Optional[str] = None) -> None:
    """Queues leads for the commands to find, each of a customer of its own."""
    with CMSClient(delivery=Outbox(file, send=False)) as client:
        for name in names:
            client.track_lead(
                name, customer or f"user_{name}", "id_1",
                customer_name="Jane Doe", customer_email="jane@example.com",
                idempotency_key=f"key_{name}",
            )  # fmt: skip


def kill(file: Path, *names: str) -> None:
    """Queues leads, and has the API refuse them."""
    queue(file, *names)
    with FaultServer(refused) as server:
        run("outbox", "drain", str(file), env={**TOKEN, "CMS_HOST": server.url})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where an outbox is going to be."""
    return tmp_path / "events.db"


@pytest.mark.parametrize("name", OUTBOX_COMMANDS)
def test_a_file_that_is_not_there_is_an_error_and_not_made(name: str, file: Path) -> None:
    """A slip in the path is not answered with an empty outbox."""
    ran = run("outbox", name, "events.db", cwd=file.parent, env=TOKEN)
    assert (1, "", "Error: events.db does not exist.\n") == (ran.returncode, ran.stdout, ran.stderr)
    assert not file.exists()


@pytest.mark.parametrize("name", OUTBOX_COMMANDS)
@pytest.mark.parametrize("content", [b"", b"no database\n" * 100])
def test_a_file_that_is_no_outbox_is_an_error(name: str, content: bytes, file: Path) -> None:
    """One line, and the file stays as it is."""
    file.write_bytes(content)
    ran = run("outbox", name, str(file), env=TOKEN)
    assert (1, "", 1) == (ran.returncode, ran.stdout, ran.stderr.count("\n"))
    assert ran.stderr.startswith("Error: ")
    assert content == file.read_bytes()


@pytest.mark.parametrize("name", OUTBOX_COMMANDS)
def test_another_programs_database_is_left_alone(name: str, file: Path) -> None:
    """The commands look after outboxes only."""
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE orders (id)")
    ran = run("outbox", name, str(file), env=TOKEN)
    assert (1, "", 1) == (ran.returncode, ran.stdout, ran.stderr.count("\n"))
    assert "belongs to another program" in ran.stderr


def test_stats_tell_what_an_outbox_holds(file: Path) -> None:
    """A table for people, --json for programs; both have the same numbers."""
    kill(file, "a")
    queue(file, "b", "c")
    shown, as_json = run("outbox", "stats", str(file)), run("outbox", "stats", str(file), "--json")
    assert (0, 0, "") == (shown.returncode, as_json.returncode, shown.stderr + as_json.stderr)
    rows = dict(line.rsplit(maxsplit=1) for line in shown.stdout.splitlines())
    assert ("2", "1", "no") == (rows["Queued"], rows["Dead"], rows["Paused"])
    stats = json.loads(as_json.stdout)
    assert (2, 1, 0, None) == (
        stats["queued"], stats["dead"], stats["delivered"], stats["paused"]
    )  # fmt: skip


def test_drain_sends_all(env: dict[str, str], sandbox: Sandbox, file: Path) -> None:
    """Exit code 0 once nothing is left; the last line says how many were delivered."""
    queue(file, "a", "b", "c")
    ran = run("outbox", "drain", str(file), "--workers", "2", env=env)
    assert (0, "") == (ran.returncode, ran.stdout)
    assert "Delivered: 3, left: 0, given up: 0.\n" == ran.stderr
    assert {"a", "b", "c"} == {event.event_name for event in sandbox.events}


def test_drain_tells_of_events_that_the_api_refuses(file: Path) -> None:
    """Exit code 1, and the command that shows them."""
    queue(file, "a", "b")
    with FaultServer(refused) as server:
        ran = run("outbox", "drain", str(file), env={**TOKEN, "CMS_HOST": server.url})
    assert 1 == ran.returncode
    first, second = ran.stderr.splitlines()
    assert "Delivered: 0, left: 0, given up: 2." == first
    assert second.endswith(f"cms-python outbox dead {shlex.quote(str(file))}")


def test_drain_ends_when_its_time_is_up(file: Path) -> None:
    """With --for a job that cannot send does not run for ever; what is left stays."""
    queue(file, "a", "b")
    with FaultServer(answer(401, {"success": False, "error": "Wrong token"})) as server:
        env = {**TOKEN, "CMS_HOST": server.url}
        ran = run("outbox", "drain", str(file), "--for", "1", env=env)
    assert (1, "") == (ran.returncode, ran.stdout)
    assert "Delivered: 0, left: 2, given up: 0.\nPaused: Wrong token\n" == ran.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_drain_can_be_interrupted_and_goes_on(
    name: str, env: dict[str, str], sandbox: Sandbox, file: Path
) -> None:
    """Ctrl-C, or a supervisor: exit code 130, and the line to type. Nothing is lost."""
    queue(file, "a")
    # What was on its way waits for the end of its lease, which depends on the timeout.
    typed = ["outbox", "drain", str(file), "--timeout", "0.5"]
    with (
        FaultServer(silent) as server,
        started(*typed, env={**TOKEN, "CMS_HOST": server.url}) as process,
    ):
        server.wait_for_requests(1)
        process.send_signal(signal.Signals[name])
        output, errors = process.communicate(timeout=20)
    assert (130, "") == (process.returncode, output)
    expected = f"Interrupted. To go on: {shlex.join(['cms-python', *typed])}"
    assert ["Delivered: 0, left: 1, given up: 0.", expected] == errors.splitlines()
    assert 0 == run(*typed, env=env).returncode
    assert ["a"] == [event.event_name for event in sandbox.events]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_comes_in_between_nothing_while_an_outbox_sends(number: int) -> None:
    """It is noted, however often it comes, and has its old effect afterwards."""
    before = signal.getsignal(number)
    with interruptions() as interruption:
        assert not interruption.is_asked
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert interruption.is_asked
    assert before == signal.getsignal(number)


def test_drain_shows_at_a_terminal_how_far_it_is(file: Path) -> None:
    """A bar, until all is delivered."""
    queue(file, "a", "b")
    with FaultServer(silent) as server:
        env = {**TOKEN, "CMS_HOST": server.url}
        with at_terminal("outbox", "drain", str(file), env=env) as terminal:
            terminal.wait_for("| 0/2 [")
            terminal.process.send_signal(signal.SIGINT)
            assert 130 == terminal.end()


def test_dead_lists_what_was_given_up_and_why(file: Path) -> None:
    """A table for people, --json for programs; neither shows personal data."""
    kill(file, "a", "b")
    shown, as_json = run("outbox", "dead", str(file)), run("outbox", "dead", str(file), "--json")
    heads, *rows = shown.stdout.splitlines()
    assert ["EVENT", "ID", "KIND", "EVENT", "NAME"] == heads.split()[:5]
    assert [["1", "lead", "a", "user_a", "1", "422", "Refused"]] == [rows[0].split()]
    assert [("a", "key_a"), ("b", "key_b")] == [
        (each["event_name"], each["idempotency_key"]) for each in json.loads(as_json.stdout)
    ]
    assert "jane" not in (shown.stdout + as_json.stdout).lower()


def test_without_dead_events_there_are_none_to_list(file: Path) -> None:
    """An empty list is a list."""
    queue(file, "a")
    assert "There are no dead events.\n" == run("outbox", "dead", str(file)).stdout
    assert [] == json.loads(run("outbox", "dead", str(file), "--json").stdout)


def test_what_a_server_says_cannot_steer_the_terminal(file: Path) -> None:
    """Control characters are shown as question marks."""
    queue(file, "a")
    with FaultServer(answer(422, {"success": False, "error": "a\x1b[2Jb"})) as server:
        run("outbox", "drain", str(file), env={**TOKEN, "CMS_HOST": server.url})
    assert run("outbox", "dead", str(file)).stdout.endswith("a [2Jb\n")


def test_retry_queues_dead_events_again(env: dict[str, str], sandbox: Sandbox, file: Path) -> None:
    """Once what was wrong is mended, they arrive."""
    kill(file, "a", "b")
    ran = run("outbox", "retry", str(file))
    assert (0, "Queued again: 2 events.\n") == (ran.returncode, ran.stdout)
    assert 0 == run("outbox", "drain", str(file), env=env).returncode
    assert {"a", "b"} == {event.event_name for event in sandbox.events}
    assert "Queued again: 0 events.\n" == run("outbox", "retry", str(file)).stdout


def test_purge_forgets_dead_events_only(file: Path) -> None:
    """What is queued stays."""
    kill(file, "a")
    queue(file, "b")
    ran = run("outbox", "purge", str(file), "--yes")
    assert (0, "Forgotten: 1 event.\n", "") == (ran.returncode, ran.stdout, ran.stderr)
    assert (1, 0) == counts(file)
    assert "Forgotten: 0 events.\n" == run("outbox", "purge", str(file)).stdout


def test_purge_of_what_was_exported_spares_what_died_since(file: Path) -> None:
    """Only what stands in the file, whole and unchanged, is forgotten, so nothing is lost."""
    kill(file, "a", "b")
    first, second = run("outbox", "export", str(file)).stdout.splitlines()
    kill(file, "c")
    exported = file.with_name("dead.jsonl")
    exported.write_text(f"{first}\n{second[:-9]}")
    arguments = ["outbox", "purge", str(file), "--exported", str(exported)]
    assert "this would forget 1 event for good" in run(*arguments).stderr
    assert "Forgotten: 1 event.\n" == run(*arguments, "--yes").stdout
    left = json.loads(run("outbox", "dead", str(file), "--json").stdout)
    assert ["b", "c"] == [each["event_name"] for each in left]
    assert "Forgotten: 0 events.\n" == run(*arguments).stdout


def test_purge_without_a_terminal_takes_a_yes(file: Path) -> None:
    """A script must say that it means it; what is piped in is no answer."""
    kill(file, "a")
    ran = run("outbox", "purge", str(file), input="y\n")
    assert (2, "") == (ran.returncode, ran.stdout)
    assert "this would forget 1 event for good: pass --yes" in ran.stderr
    assert (0, 1) == counts(file)


@pytest.mark.parametrize(("typed", "code", "left"), [("y", 0, 0), ("n", 1, 1), ("", 1, 1)])
def test_purge_asks_at_a_terminal(typed: str, code: int, left: int, file: Path) -> None:
    """Only a yes forgets."""
    kill(file, "a")
    with at_terminal("outbox", "purge", str(file)) as terminal:
        terminal.wait_for("Forget 1 event for good? [y/N]: ")
        terminal.type(f"{typed}\n")
        assert code == terminal.end()
    assert (0, left) == counts(file)


def test_export_prints_dead_events_to_be_read_again(file: Path) -> None:
    """A line of JSON each, whose keys are the arguments of track_lead and track_sale."""
    kill(file, "a")
    queue(file, "b")
    ran = run("outbox", "export", str(file))
    assert (0, "") == (ran.returncode, ran.stderr)
    (line,) = map(json.loads, ran.stdout.splitlines())
    assert restored(line) == held(file)[0]
    del line["timestamp"]
    expected = {
        "kind": "lead",
        "event_name": "a",
        "customer_external_id": "user_a",
        "click_id": "id_1",
        "customer_name": "Jane Doe",
        "customer_email": "jane@example.com",
        "idempotency_key": "key_a",
    }
    assert expected == line


def test_export_of_all_loses_nothing(file: Path) -> None:
    """With --all the queued ones too, and each can be made again as it was."""
    kill(file, "a")
    queue(file, "b")
    with CMSClient(delivery=Outbox(file, send=False)) as client:
        client.track_sale("id_1", "bought ☕", "user_c", "inv_1", 0, "eur", idempotency_key="key_c")
    lines = run("outbox", "export", str(file), "--all").stdout.splitlines()
    assert held(file) == [restored(json.loads(line)) for line in lines]


def test_what_was_exported_can_be_imported(
    env: dict[str, str], sandbox: Sandbox, file: Path
) -> None:
    """Dead events can be mended in an editor and sent again, under the same keys."""
    kill(file, "a")
    exported = file.with_name("dead.jsonl")
    exported.write_text(run("outbox", "export", str(file)).stdout)
    ran = run("import", str(exported), env=env)
    assert 0 == ran.returncode, ran.stderr
    assert [("a", "key_a")] == [
        (event.event_name, event.idempotency_key) for event in sandbox.events
    ]


def test_export_tells_of_events_that_cannot_be_read(file: Path) -> None:
    """The others are printed; exit code 1, so that no script purges after half an export."""
    kill(file, "a", "b")
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("UPDATE events SET body = '{' WHERE key = 'key_a'")
    ran = run("outbox", "export", str(file))
    assert (1, "key_b") == (ran.returncode, json.loads(ran.stdout)["idempotency_key"])
    assert "Error: Left out, for their text in the file cannot be read: 1 event.\n" == ran.stderr
    assert "?" in run("outbox", "dead", str(file)).stdout


def test_a_reader_that_has_seen_enough_ends_an_export_quietly(file: Path) -> None:
    """``export | head -n 1`` shows a line, and no traceback."""
    queue(file, *map(str, range(1000)))
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*COMMAND, "outbox", "export", str(file), "--all"],
        env=environment(), stdout=pipe, stderr=pipe, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert "0" == json.loads(process.stdout.readline())["event_name"]
        process.stdout.close()
        assert ("", 0) == (process.stderr.read(), process.wait(20))


def counts(file: Path) -> tuple[int, int]:
    """How many events are queued, and how many dead."""
    stats = json.loads(run("outbox", "stats", str(file), "--json").stdout)
    return stats["queued"], stats["dead"]


def held(file: Path) -> list[tuple[Any, ...]]:
    """What a file holds, as far as it arrives."""
    outbox = Outbox(file, send=False)
    try:
        return [arriving(event) for _, event in outbox.events() if event]
    finally:
        outbox.close()


def restored(line: Mapping[str, Any]) -> Any:
    """The event of an exported line."""
    fields = {**line}
    kind, key = fields.pop("kind"), fields.pop("idempotency_key")
    return arriving(Event.create(kind, fields, key))


def arriving(event: Event) -> tuple[Any, ...]:
    """What the API sees of an event."""
    return event.kind, event.idempotency_key, event.payload


# sandbox


def test_the_sandbox_runs_until_ctrl_c() -> None:
    """Its first line is its URL, and a lead arrives there."""
    with started("sandbox", "--token", "a-token", "--fail", "503") as process:
        assert process.stdout is not None
        env = {"CMS_HOST": process.stdout.readline().strip(), "CMS_BEARER_TOKEN": "a-token"}
        ran = run("lead", *LEAD, env=env)
        assert 0 == ran.returncode, ran.stderr
        process.send_signal(signal.SIGINT)
        assert "" == process.communicate(timeout=20)[1]
    assert 0 == process.returncode


def test_the_sandbox_takes_the_switches_that_its_module_takes() -> None:
    """It is the same program under another name."""
    module = subprocess.run(
        [sys.executable, "-m", "cms_python.sandbox", "--help"],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    here, there = (set(re.findall(r"--[a-z-]+", each)) for each in (
        run("sandbox", "--help").stdout, module.stdout
    ))  # fmt: skip
    assert there == here


def test_a_switch_that_the_sandbox_refuses_is_wrong_use() -> None:
    """Exit code 2, as everywhere, and the name that was typed."""
    ran = run("sandbox", "--port", "99999")
    assert (2, "") == (ran.returncode, ran.stdout)
    assert "cms-python sandbox: error: argument --port: must be a number" in ran.stderr


def test_without_its_extra_the_sandbox_says_what_to_install(tmp_path: Path) -> None:
    """The command is there, and names the extra that it needs."""
    ran = run("sandbox", env=without("werkzeug", tmp_path))
    assert (2, "", 1) == (ran.returncode, ran.stdout, ran.stderr.count("\n"))
    assert 'pip install "cms-python-client[sandbox]"' in ran.stderr


# Completion


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ou"], ["outbox"]),
        (["outbox", "dr"], ["drain"]),
        (["lead", "--customer-e"], ["--customer-external-id", "--customer-email"]),
        (["lead", "--mode", ""], ["deferred"]),
        (["lead", "--tok"], ["--token-file"]),
    ],
)
def test_bash_completes(words: list[str], expected: list[str], tmp_path: Path) -> None:
    """The printed script works in a real bash: commands, options and their values."""
    program = tmp_path / "cms-python"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    program.chmod(0o755)
    script = f"""
        complete() {{ :; }}  # a shell that is no terminal has none
        eval "$({program} completion bash)"
        COMP_WORDS=({shlex.join(["cms-python", *words])}) COMP_CWORD={len(words)}
        _cms_python_completion {program}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    ran = subprocess.run(
        ["bash", "-c", script], env=environment(), capture_output=True, text=True, check=False
    )
    assert ("", expected) == (ran.stderr, ran.stdout.split())


@pytest.mark.parametrize(
    ("shell", "text"),
    [
        ("bash", "complete -o nosort -F _cms_python_completion cms-python"),
        ("zsh", "#compdef cms-python"),
        ("fish", "--command cms-python"),
    ],
)
def test_a_script_is_printed_for_each_shell(shell: str, text: str) -> None:
    """It is the one that click's users know how to get, too."""
    ran = run("completion", shell)
    assert (0, "") == (ran.returncode, ran.stderr)
    assert text in ran.stdout
    assert run(env={"_CMS_PYTHON_COMPLETE": f"{shell}_source"}).stdout.strip() == ran.stdout.strip()
