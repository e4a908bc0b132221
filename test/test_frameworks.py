"""The apps of examples/ track what they should, started as their READMEs say, over HTTP."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from http.client import HTTPConnection
from pathlib import Path
from typing import IO, NamedTuple, Optional, Union
from urllib.parse import urlencode

import pytest
from brokers import Redis, skip_without
from command import environment
from needed import IS_CI, needs
from test_docs import ROOT

from cms_python import CMSClient, Outbox
from cms_python.sandbox import RecordedEvent, Sandbox

BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LISTENS = re.compile(r"http://127\.0\.0\.1:(\d+)")
# What a README says and the tests do otherwise: the packages are there, and so is a sandbox.
DONE_ELSEWHERE = re.compile(r"pip install |python -m cms_python\.sandbox |export ")
FREE_PORT = {"gunicorn": ["--bind", "127.0.0.1:0"], "uvicorn": ["--port", "0"]}
USER = re.compile(r'(user"?[=:] ?)1\b')
MOST_SECONDS = 30.0
ORDERS = itertools.count(1)

Fields = dict[str, Union[str, int]]

FLASK = pytest.param("flask_app", marks=[needs("flask"), needs("gunicorn")], id="flask")
DJANGO = pytest.param("django_app", marks=[needs("django"), needs("gunicorn")], id="django")
FASTAPI = pytest.param(
    "fastapi_app",
    marks=[
        pytest.mark.skipif(sys.version_info < (3, 10), reason="FastAPI needs Python 3.10"),
        needs("fastapi"),
        needs("uvicorn"),
    ],
    id="fastapi",
)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs a fork")


class Answer(NamedTuple):
    status: int
    body: str


class App:
    """An app of examples/ with files of its own, which tracks to a sandbox."""

    def __init__(self, name: str, data: Path, sandbox: Sandbox) -> None:
        self.name = name
        self.folder = ROOT / "examples" / name
        self.events = data / "events.db"
        self.sandbox = sandbox
        self.port = 0
        self.pid = 0
        self.env = environment({
            "CMS_HOST": sandbox.url,
            "CMS_BEARER_TOKEN": "a-token",
            "SHOP_DATABASE": str(data / "shop.db"),
            "SHOP_OUTBOX": str(self.events),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "XDG_RUNTIME_DIR": str(data),  # where gunicorn keeps a socket of its own
        })  # fmt: skip

    @property
    def commands(self) -> list[list[str]]:
        """The commands of the README, each in its words."""
        text = (self.folder / "README.md").read_text(encoding="utf-8").replace("\\\n", "")
        lines = [line for block in BLOCK.findall(text) for line in block.splitlines()]
        return [shlex.split(line) for line in lines if not DONE_ELSEWHERE.match(line)]

    def here(self, curl: list[str]) -> list[str]:
        """A curl command of the README, for the port of this server."""
        return [
            curl[0],
            "--fail",
            "--silent",
            *curl[1:-1],
            curl[-1].replace("8000", str(self.port)),
        ]

    def run(self, *command: str) -> str:
        """Runs a command beside the app, which must end well; returns its output."""
        ran = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False,
            timeout=MOST_SECONDS,
        )  # fmt: skip
        assert 0 == ran.returncode, ran.stderr
        return ran.stdout

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Starts the app as its README says, but at a free port; ends it with the block."""
        before = [each for each in self.commands if each[0] not in ("curl", *FREE_PORT)]
        (server,) = [each for each in self.commands if each[0] in FREE_PORT]
        for command in before:
            self.run(*command)
        with subprocess.Popen(
            [*server, *FREE_PORT[server[0]]], cwd=self.folder, env=self.env,
            stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            try:
                self.pid, self.port = process.pid, port_of(process)
                # What the server goes on to say must not fill the pipe.
                reader = threading.Thread(target=piped(process).read)
                reader.start()
                yield
            finally:
                process.terminate()
                try:
                    status = process.wait(MOST_SECONDS)
                finally:
                    process.kill()
            reader.join(MOST_SECONDS)
            # uvicorn ends well by the very signal that ended it.
            assert status in (0, -signal.SIGTERM)

    def post(self, path: str, fields: Fields, cookie: Optional[str] = None) -> Answer:
        body, kind = encoded(self.name, fields)
        headers = {"Content-Type": kind}
        if cookie is not None:
            headers["Cookie"] = f"theme=dark; cms_id={cookie}"
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=MOST_SECONDS)) as connection:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode())

    def sign_up(self, cookie: Optional[str] = None) -> int:
        """A new user; tells the id that the app gave it."""
        answer = self.post("/signup", {"email": "jane@example.com"}, cookie)
        assert 200 == answer.status, answer.body
        return int(json.loads(answer.body)["user"])

    def buy(self, user: int, order: int, quantity: int = 1) -> int:
        """An order of books; tells the status of the answer."""
        fields: Fields = {"user": user, "order": order, "item": "book", "quantity": quantity}
        return self.post("/checkout", fields).status

    def settled(self) -> list[RecordedEvent]:
        """What counted at the API, once the app has sent all; none of it was refused."""
        outbox = Outbox(self.events, send=False)
        with CMSClient(delivery=outbox) as watcher:
            assert watcher.flush(MOST_SECONDS)
            assert [] == outbox.dead()
        return self.sandbox.events


def piped(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stderr is not None
    return process.stderr


def port_of(process: subprocess.Popen[str]) -> int:
    """The port at which a server listens, once it says so."""
    said = []
    for line in piped(process):
        found = LISTENS.search(line)
        if found:
            return int(found[1])
        said.append(line)
    raise AssertionError("".join(said))


def encoded(name: str, fields: Fields) -> tuple[str, str]:
    """The body that an app expects, and its type."""
    if name == "fastapi_app":
        return json.dumps(fields), "application/json"
    return urlencode(fields), "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def started(
    tmp_path_factory: pytest.TempPathFactory, running_sandbox: Sandbox
) -> Iterator[Callable[[str], App]]:
    """Starts an app once; the tests share it, each with users and orders of its own."""
    with ExitStack() as stack:

        @cache
        def start(name: str) -> App:
            app = App(name, tmp_path_factory.mktemp(name), running_sandbox)
            stack.enter_context(app.serving())
            return app

        yield start


@pytest.fixture(params=[FLASK, DJANGO, FASTAPI])
def app(request: pytest.FixtureRequest, started: Callable[[str], App], sandbox: Sandbox) -> App:
    """One of the apps, and its sandbox without events."""
    app = started(request.param)
    assert sandbox is app.sandbox
    return app


def test_a_sign_up_and_an_order_are_credited_to_the_click(app: App) -> None:
    """A lead and a sale arrive, with the sign-up's click, whole cents and the order's key."""
    user, order = app.sign_up("id_123"), next(ORDERS)
    assert 200 == app.buy(user, order, 3)
    lead, sale = app.settled()
    assert ("lead", "id_123", f"user_{user}", f"signup-{user}") == (
        lead.kind, lead.click_id, lead.customer_external_id, lead.idempotency_key,
    )  # fmt: skip
    assert ("sale", "id_123", f"user_{user}", 5997, "USD", str(order), f"order-{order}") == (
        sale.kind, sale.click_id, sale.customer_external_id, sale.amount, sale.currency,
        sale.invoice_id, sale.idempotency_key,
    )  # fmt: skip


def test_a_click_id_is_read_as_browsers_send_it(app: App) -> None:
    """With quotes or without, with space around it, and up to 255 characters."""
    for cookie in ("id_1", '"id_2"', '"  id_3 "', " id_4 ", "i" * 255):
        app.sign_up(cookie)
    clicks = ["id_1", "id_2", "id_3", "id_4", "i" * 255]
    assert sorted(clicks) == sorted(str(lead.click_id) for lead in app.settled())


def test_a_customer_without_a_click_is_not_tracked(app: App) -> None:
    """No cookie, a blank one, one too long or unprintable: users and orders as ever, no event."""
    for cookie in (None, "", "  ", '""', '"   "', "i" * 256, "i" * 4000, r'"id\000"'):
        assert 200 == app.buy(app.sign_up(cookie), next(ORDERS)), cookie
    assert [] == [each.click_id for each in app.settled()]


def test_nonsense_in_the_cookie_breaks_nothing(app: App) -> None:
    """What the API makes of such a click id is up to it."""
    for cookie in ('"', "\\", "\xff\x80", "\xe2\x98\x83", "%00", "id=1=2", "<b>"):
        assert 200 == app.buy(app.sign_up(cookie), next(ORDERS)), cookie
    app.settled()


def test_an_order_that_is_rolled_back_is_not_tracked(app: App) -> None:
    """There are not so many books; the same order with fewer is placed, and tracked once."""
    user, order = app.sign_up("id_123"), next(ORDERS)
    assert 409 == app.buy(user, order, 500)
    assert ["lead"] == [each.kind for each in app.settled()]
    assert 200 == app.buy(user, order, 2)
    assert [("lead", None), ("sale", 3998)] == [(each.kind, each.amount) for each in app.settled()]


def test_a_repeated_checkout_records_its_order_once(app: App) -> None:
    """As it was placed, whatever the repetition says; and the API has nothing to refuse."""
    user, order = app.sign_up("id_123"), next(ORDERS)
    assert [200, 200] == [app.buy(user, order), app.buy(user, order)]
    app.settled()
    assert 200 == app.buy(user, order, 7)
    assert [(str(order), 1999)] == [
        (each.invoice_id, each.amount) for each in app.settled() if each.kind == "sale"
    ]


def test_an_outage_of_the_api_concerns_no_customer(app: App) -> None:
    """Sign-ups and orders go on, and are tracked when the API is back."""
    app.sandbox.drop_next(times=None)
    user = app.sign_up("id_123")
    assert 200 == app.buy(user, next(ORDERS))
    assert [] == app.sandbox.events
    app.sandbox.clear_faults()
    assert ["lead", "sale"] == [each.kind for each in app.settled()]


def test_what_is_no_order_is_refused(app: App) -> None:
    """No number of it, no user, or numbers that no database holds: an answer, and no event."""
    user = app.sign_up()
    orders = [(user, 0), (user, 10**30), (10**6, next(ORDERS))]
    assert {True} == {400 <= app.buy(*each) < 500 for each in orders}
    assert [] == app.settled()


@pytest.mark.skipif(shutil.which("curl") is None and not IS_CI, reason="curl is missing")
def test_the_commands_of_a_readme_do_what_it_says(app: App) -> None:
    """A lead and a sale of 3998 cents arrive, both for the click that the README names."""
    sign_up, checkout = [each for each in app.commands if each[0] == "curl"]
    user = json.loads(app.run(*app.here(sign_up)))["user"]
    # The README's user is the first; here there may have been others.
    app.run(*[USER.sub(rf"\g<1>{user}", word) for word in app.here(checkout)])
    assert [("id_123", None), ("id_123", 3998)] == [
        (each.click_id, each.amount) for each in app.settled()
    ]


@pytest.mark.parametrize("name", [FLASK])
def test_a_deployment_loses_nothing(name: str, tmp_path: Path, sandbox: Sandbox) -> None:
    """Nothing is opened before the first event, and a server that ends sends first what waits."""
    app = App(name, tmp_path, sandbox)
    with app.serving():
        assert not app.events.exists()
        app.buy(app.sign_up("id_123"), next(ORDERS))
    assert ["lead", "sale"] == [each.kind for each in sandbox.events]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="open files are read from /proc")
@pytest.mark.parametrize("app", [FLASK], indirect=True)
def test_both_workers_behind_a_preloaded_app_track(app: App) -> None:
    """Each opens the outbox for itself, and the process that they were forked from never does."""
    with socket.create_connection(("127.0.0.1", app.port), MOST_SECONDS) as held:
        # One worker waits for the rest of this request, so the other one serves the next.
        held.sendall(b"POST /signup HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: cms_id=id_1\r\n")
        app.sign_up("id_2")
        held.sendall(b"Content-Type: application/x-www-form-urlencoded\r\n")
        held.sendall(b"Content-Length: 7\r\n\r\nemail=j")
        assert held.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert ["id_1", "id_2"] == sorted(str(each.click_id) for each in app.settled())
    workers = Path(f"/proc/{app.pid}/task/{app.pid}/children").read_text().split()
    assert [False, True, True] == [has_open(app.events, pid) for pid in (app.pid, *workers)]


def has_open(path: Path, pid: object) -> bool:
    return str(path) in [str(each.resolve()) for each in Path(f"/proc/{pid}/fd").iterdir()]


@pytest.mark.parametrize("app", [FASTAPI], indirect=True)
def test_an_event_loop_serves_others_while_an_event_waits_for_the_file(app: App) -> None:
    """A sign-up that the outbox keeps waiting holds up nobody else's."""
    app.sign_up("id_1")
    app.settled()
    with closing(sqlite3.connect(app.events, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as pool:
            users = [app.sign_up()]
            waits = pool.submit(app.sign_up, "id_2")
            # A number is left out once it has a user, and comes to its event.
            while users == list(range(users[0], users[0] + len(users))):
                users.append(app.sign_up())
            app.sign_up()
            assert not waits.done()
            other.execute("ROLLBACK")
    assert ["id_1", "id_2"] == [each.click_id for each in app.settled()]


@needs("celery")
def test_the_shop_with_celery_runs_by_one_command() -> None:
    """Redis, a worker and a shop; all that it tracks arrives in the sandbox."""
    skip_without(Redis)
    (command,) = BLOCK.findall((ROOT / "examples/celery_app/README.md").read_text("utf-8"))
    ran = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]], cwd=ROOT, env=environment(),
        capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip
    assert 0 == ran.returncode, ran.stderr
    assert "8 of 8 events arrived" in ran.stdout
