"""The files that docs/outbox.md and docs/scaling.md show work as they stand there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from brokers import Redis, skip_without
from command import environment
from fault_server import FaultServer, answer
from needed import needs
from test_docs import FILE, PAGES, ROOT, blocks
from waiting import wait_until

from cms_python import CMSClient, Outbox
from cms_python.sandbox import Sandbox

PAGE = ROOT / "docs" / "outbox.md"
SCALING = ROOT / "docs" / "scaling.md"
# The page's own command, behind the token, which stands in the environment here.
(CELERY_WORKER,) = [
    code.partition(" ")[2].strip() for code in blocks(SCALING, "bash") if "app worker " in code
]
FILES = [code for page in (PAGE, SCALING) for code in blocks(page, "python") if FILE.match(code)]


class Shop:
    """A folder with the files of one block, and the sandbox that their events go to."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.env = environment({"CMS_HOST": sandbox.url, "CMS_BEARER_TOKEN": "a-token"})
        self.env["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
        self.events = folder / "events.db"
        self.prepare = ""
        self.broker = ""

    def write(self, mark: str) -> None:
        """Writes the files of the one block that holds the mark, with paths of this folder."""
        (block,) = [code for code in FILES if mark in code]
        block = block.replace("/var/lib/shop/events.db", str(self.events))
        block = block.replace("redis://localhost:6379/0", self.broker)
        block = block.replace("postgresql+psycopg://localhost/shop", f"sqlite:///{self.folder}/db")
        _, *parts = FILE.split(block)
        for name, code in zip(parts[::2], parts[1::2]):
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(code, encoding="utf-8")

    def run(self, code: str, **env: str) -> str:
        """Runs code beside the files, in a new process that must end well; returns its output."""
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", self.prepare + code],
            env={**self.env, **env}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (0, "") == (ran.returncode, ran.stderr)
        return ran.stdout.strip()

    def shell(self, line: str) -> str:
        """What a command says, without the space around it."""
        parts = line.replace("{broker}", self.broker).replace("{python}", sys.executable).split()
        ran = subprocess.run(parts, env=self.env, capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    @property
    def invoices(self) -> list[str | None]:
        return [each.invoice_id for each in self.sandbox.events]

    @property
    def dead(self) -> list[int]:
        outbox = Outbox(self.events, send=False)
        with CMSClient(delivery=outbox):
            return [each.status_code for each in outbox.dead()]


@pytest.fixture
def shop(tmp_path: Path, sandbox: Sandbox) -> Shop:
    return Shop(tmp_path, sandbox)


def test_all_files_are_run_here() -> None:
    """A new block of files, on whichever page, needs a test of its own."""
    found = [
        (page, name.group(1))
        for page in PAGES
        for code in blocks(page, "python")
        if (name := FILE.match(code))
    ]
    names = ["shop/tracking.py", "drain.py", "shop.py", "shop/models.py"]
    queues = ["shop/app.py", "shop/views.py", "rq_queue.py", "dramatiq_queue.py"]
    assert [(PAGE, name) for name in names] + [(SCALING, name) for name in queues] == found


def test_the_module_of_a_server_that_forks(shop: Shop) -> None:
    """It makes the client where it is imported, before any fork, and opens nothing there."""
    shop.write("# shop/tracking.py\nfrom cms_python import CMSClient, Outbox")
    shop.run("import shop.tracking")
    assert not shop.events.exists()
    shop.run("from shop.tracking import client; client.track_lead('a', 'user_1', 'id_1')")
    assert ["a"] == [each.event_name for each in shop.sandbox.events]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_the_process_that_drains(shop: Shop) -> None:
    """It sends what others have written, and ends at SIGTERM."""
    shop.write("# drain.py")
    with CMSClient(delivery=Outbox(shop.events, send=False)) as writer:
        writer.track_lead("written", "user_1", "id_1")
    with FaultServer() as server:
        line = [sys.executable, "-W", "error", str(shop.folder / "drain.py")]
        with subprocess.Popen(line, env={**shop.env, "CMS_HOST": server.url}) as process:
            try:
                server.wait_for_requests(1)
                process.send_signal(signal.SIGTERM)
                assert 0 == process.wait(timeout=30)
            finally:
                process.kill()
    assert ["written"] == [each.json["eventName"] for each in server.requests]


# What makes a process ready for a recipe: its names and tables, `pending()`, which lists the rows
# by the reason for which they were refused, and `roll_back()`, which gives up an order.

SQLALCHEMY = """
import os, shop
from shop import *

Base.metadata.create_all(engine)

def pending():
    with Transaction() as session:
        rows = list(session.scalars(select(PendingEvent.refused).order_by(PendingEvent.id)))
    engine.dispose()
    return rows

def roll_back():
    with Transaction() as session:
        order = Order(number="inv_1", customer="user_42", cents=1999)
        session.add(order)
        track_order(session, order, "id_123")
        session.flush()

"""
DJANGO = """
import os, sys, django
from django.conf import settings

database = {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["SHOP_DATABASE"]}
settings.configure(INSTALLED_APPS=["shop"], DATABASES={"default": database}, USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField")
django.setup()
from django.core.management import call_command
from django.db import connection, transaction
call_command("migrate", run_syncdb=True, verbosity=0)
from shop import tracking as shop
from shop.models import Order, PendingEvent
from shop.tracking import client, hand_over, track_order
from shop.views import place_order

def pending():
    rows = list(PendingEvent.objects.order_by("id").values_list("refused", flat=True))
    connection.close()
    return rows

def roll_back():
    with transaction.atomic():
        order = Order.objects.create(number="inv_1", customer="user_42", cents=1999)
        track_order(order, "id_123")
        transaction.set_rollback(True)

"""
ORDER = "place_order('inv_1', 'user_42', 1999, 'id_123')\n"
WRONG = "place_order('inv_2', '', 1999, 'id_123')\n"
SETTLED = "assert client.flush(10)\nprint(pending())\n"


@pytest.fixture(
    params=[
        pytest.param(("# shop.py", SQLALCHEMY), marks=needs("sqlalchemy"), id="sqlalchemy"),
        pytest.param(("# shop/models.py", DJANGO), marks=needs("django"), id="django"),
    ]
)
def recipe(request: pytest.FixtureRequest, shop: Shop) -> Shop:
    """A shop that tracks its orders in their own transactions."""
    mark, shop.prepare = request.param
    shop.write(mark)
    shop.env["SHOP_DATABASE"] = str(shop.folder / "db")
    return shop


def test_an_order_that_is_placed_is_tracked(recipe: Shop) -> None:
    """Its sale arrives, and nothing is left in the shop's own table."""
    assert "[]" == recipe.run(ORDER + SETTLED)
    (sale,) = recipe.sandbox.events
    assert ("inv_1", "user_42", 1999, "USD", "id_123", "order-inv_1") == (
        sale.invoice_id, sale.customer_external_id, sale.amount, sale.currency, sale.click_id,
        sale.idempotency_key,
    )  # fmt: skip


def test_an_order_that_is_rolled_back_is_not_tracked(recipe: Shop) -> None:
    """Neither then nor by a later hand-over."""
    assert "[]" == recipe.run("roll_back()\nhand_over()\n" + SETTLED)
    assert [] == recipe.invoices


def test_an_order_is_tracked_though_the_process_dies_behind_its_commit(recipe: Shop) -> None:
    """The next hand-over finds the row."""
    recipe.run("shop.hand_over = lambda: os._exit(0)\n" + ORDER)
    assert [] == recipe.invoices
    assert "[None]\n[]" == recipe.run("print(pending())\nhand_over()\n" + SETTLED)
    assert ["inv_1"] == recipe.invoices


def test_an_order_counts_once_though_the_process_dies_behind_the_hand_over(recipe: Shop) -> None:
    """The event is sent again, the same under the same key, and the API takes it for what it is."""
    dies = """
def track_and_die(*, track=client.track_sale, **sale):
    os._exit(0 if track(**sale)["success"] is True and client.flush(10) else 1)

client.track_sale = track_and_die
"""
    recipe.run(dies + ORDER)
    assert ["inv_1"] == recipe.invoices
    assert "[None]\n[]" == recipe.run("print(pending())\nhand_over()\n" + SETTLED)
    assert (["inv_1"], []) == (recipe.invoices, recipe.dead)


def test_an_order_that_cannot_be_tracked_is_kept_with_its_error(recipe: Shop) -> None:
    """It holds up no other, and is not tried again."""
    error = "['customer_external_id must not be blank']"
    together = f"shop.hand_over = lambda: None\n{WRONG}{ORDER}hand_over()\n{SETTLED}"
    assert f"{error}\n{error}" == recipe.run(f"{together}hand_over()\n{SETTLED}")
    assert ["inv_1"] == recipe.invoices


def test_an_order_waits_for_an_outbox_that_cannot_take_it(recipe: Shop) -> None:
    """The order is placed all the same, and the next hand-over tracks it."""
    recipe.events.mkdir()
    unlogged = "import logging\nlogging.disable()\n"
    assert "[None]" == recipe.run(unlogged + ORDER + "print(pending())")
    recipe.events.rmdir()
    assert "[]" == recipe.run("hand_over()\n" + SETTLED)
    assert ["inv_1"] == recipe.invoices


def test_what_the_api_refuses_does_not_stay_in_the_shops_table(shop: Shop) -> None:
    """Once it is handed over it is the outbox's, which keeps it among its dead."""
    (code,) = [each for each in blocks(PAGE, "python") if "sqlite3.connect(" in each]
    opening = (
        f"import os\nfrom cms_python import CMSClient, Outbox\nfolder = {str(shop.folder)!r}\n"
    )
    with FaultServer(answer(422, {"success": False, "error": "No"})) as server:
        shop.run(f"{opening}{code}\ndatabase.close()", CMS_HOST=server.url)
    assert [422] == shop.dead


# Queues


@pytest.fixture
def queueing(shop: Shop) -> Iterator[Shop]:
    """A shop with a Redis of its own."""
    skip_without(Redis)
    data = shop.folder / "redis"
    data.mkdir()
    with Redis(data) as broker:
        shop.broker = broker.url
        yield shop


@contextmanager
def working(shop: Shop, line: str) -> Iterator[None]:
    """A worker, which alone has a token, and its children."""
    parts = line.replace("{broker}", shop.broker).split()
    with (shop.folder / "worker.log").open("ab") as log, subprocess.Popen(
        [sys.executable, "-m", *parts], env=shop.env, cwd=shop.folder, stdout=log, stderr=log,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield
        finally:
            # One that ends by itself may be gone.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


TRACK = """
import os
del os.environ["CMS_BEARER_TOKEN"]
from {module} import client
result = client.track_lead("sign-up", "user_42", "id_123", customer_email="jane@example.com")
assert result["success"]
assert client.flush(timeout=20)
client.close()
"""


class Recipe(NamedTuple):
    """A block of files, and what docs/scaling.md says of its commands, without `python -m`."""

    mark: str
    module: str
    worker: str
    # How many are dead, and how the answer for one begins.
    look: tuple[str, str]
    revive: str


CELERY = Recipe(
    "# shop/app.py", "shop.tracking", CELERY_WORKER,
    ("redis-cli -u {broker} LLEN cms_dead", "1"),
    "celery --app shop.app worker -c 1 --queues cms_dead",
)  # fmt: skip
RQ = Recipe(
    "# rq_queue.py", "rq_queue", "rq.cli worker --url {broker} --with-scheduler cms",
    ("{python} -m rq.cli info --url {broker} --raw cms_dead", "queue cms_dead 1"),
    "rq.cli worker --url {broker} --burst cms_dead",
)  # fmt: skip
DRAMATIQ = Recipe(
    "# dramatiq_queue.py", "dramatiq_queue",
    "dramatiq dramatiq_queue --processes 1 --threads 1 --queues cms",
    ("redis-cli -u {broker} HLEN dramatiq:cms_dead.msgs", "1"),
    "dramatiq dramatiq_queue --processes 1 --threads 1 --queues cms_dead",
)  # fmt: skip
queues = pytest.mark.parametrize(
    "queue",
    [
        pytest.param(CELERY, marks=needs("celery"), id="celery"),
        pytest.param(RQ, marks=needs("rq"), id="rq"),
        pytest.param(DRAMATIQ, marks=needs("dramatiq"), id="dramatiq"),
    ],
)


@queues
def test_a_queue_delivers(queue: Recipe, queueing: Shop) -> None:
    """What the web process tracks arrives by a worker, at a second attempt if need be."""
    queueing.write(queue.mark)
    queueing.sandbox.fail_next(503)
    with working(queueing, queue.worker):
        queueing.run(TRACK.format(module=queue.module))
        wait_until(lambda: queueing.sandbox.events, 60)
    assert ["sign-up"] == [each.event_name for each in queueing.sandbox.events]
    # Their logs would be read by many.
    assert "jane@example.com" not in (queueing.folder / "worker.log").read_text("utf-8")


@queues
def test_what_a_queue_gave_up_is_delivered_once_the_cause_is_mended(
    queue: Recipe, queueing: Shop
) -> None:
    """It lies in a queue of its own, where one command counts it and another gives it back."""
    queueing.write(queue.mark)
    queueing.sandbox.fail_next(422)
    look, one = queue.look
    with working(queueing, queue.worker):
        queueing.run(TRACK.format(module=queue.module))
        wait_until(lambda: queueing.shell(look).startswith(one), 60)
        assert [] == queueing.sandbox.events
        with working(queueing, queue.revive):
            wait_until(lambda: queueing.sandbox.events, 60)
    assert ["sign-up"] == [each.event_name for each in queueing.sandbox.events]


IN_TRANSACTION = """
from types import SimpleNamespace
import django
from django.conf import settings
from django.db import transaction

database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
settings.configure(DATABASES={"default": database})
django.setup()
from shop.app import app
app.conf.task_always_eager = True
from shop.views import track_purchase

order = SimpleNamespace(customer="user_42", number="inv_1", cents=1999)
with transaction.atomic():
    track_purchase(order, "id_123")
    transaction.set_rollback(True)
order.number = "inv_2"
with transaction.atomic():
    track_purchase(order, "id_123")
"""


@needs("celery")
@needs("django")
def test_a_sale_is_tracked_when_the_transaction_is_over(shop: Shop) -> None:
    """One that is rolled back is not."""
    shop.broker = "redis://127.0.0.1:1/0"
    shop.write("# shop/app.py")
    shop.write("# shop/views.py\nfrom functools")
    shop.run(IN_TRANSACTION)
    assert ["inv_2"] == shop.invoices
