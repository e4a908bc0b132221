"""What goes through a Celery queue arrives, whatever becomes of workers, broker and API."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from time import monotonic
from typing import IO, Any, Literal, cast

import pytest
from books import Books
from brokers import Broker, LossyWire, RabbitMQ, Redis, skip_without
from command import environment
from fault_server import (
    Behaviour,
    FaultServer,
    Visit,
    answer,
    echo,
    every_time,
    in_turn,
    nobody_listens,
)
from forking import exit_status, fork, forks, threads_beside_fork
from needed import IS_CI
from waiting import restless_threads, wait_until

from cms_python import CMSClient
from cms_python.sandbox import Sandbox

if find_spec("celery") is None and not IS_CI:
    pytest.skip('celery is missing: pip install "cms-python-client[dev]"', allow_module_level=True)

from celery import Celery

from cms_python.delivery.celery import PUBLISH_TIMEOUT, CeleryDelivery, configure_worker

CHILD = Path(__file__).with_name("celery_child.py")
EVENTS = int(os.environ.get("CMS_CELERY_EVENTS", "120"))
PRODUCERS = 4
# Of each thread that tracks while another closes the client.
CALLS = 100
# By a worker of two: celery_child.py has the multiplier.
PREFETCHED = 8
# A quarter of the visibility timeout that the tests' Redis has.
DEAD_LETTER_PAUSE = 1.0
PERSONAL = "jane.doe@example.com"

busy = answer(503, {"success": False, "error": "Busy"}, {"Retry-After": "1"})
limited = answer(429, {"success": False, "error": "Slow down"}, {"Retry-After": "1"})


class Shop:
    """An application's processes: those that track, and those that run its tasks."""

    def __init__(self, broker: Broker, url: str, folder: Path) -> None:
        self.folder, self.broker, self._names = folder, broker, count(1)
        self.events = folder / "events.db"
        self.notes = folder / "notes"
        self.notes.touch()
        # The application's own, beside those of celery_child.py.
        self.settings: dict[str, Any] = {}
        self.env = environment(
            {
                "PYTHONPATH": os.pathsep.join([str(CHILD.parent), str(CHILD.parent.parent)]),
                "TEST_BROKER": broker.url,
                "TEST_TRANSPORT_OPTIONS": json.dumps(dict(broker.transport_options)),
                "TEST_NOTES": str(self.notes),
            }
        )
        # Only a worker has a token.
        self.worker_env = {**self.env, "CMS_HOST": url, "CMS_BEARER_TOKEN": "a-token"}

    @contextmanager
    def worker(self, *arguments: str, pool: str = "prefork") -> Iterator[subprocess.Popen[bytes]]:
        """A worker of two, in a process group of its own; it is killed in the end."""
        line = [sys.executable, "-m", "celery", "--app", "celery_child", "worker", "--pool", pool,
                "--concurrency", "2", "--loglevel", "DEBUG", "--without-gossip",
                "--without-mingle", "--task-events", "--hostname", f"{next(self._names)}@shop",
                *arguments]  # fmt: skip
        env = {**self.worker_env, "TEST_SETTINGS": json.dumps(self.settings)}
        with self.log.open("ab") as log, subprocess.Popen(
            line, env=env, cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                kill(process)

    @contextmanager
    def tracking(self, command: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        line = [sys.executable, "-W", "error", str(CHILD), command, str(self.events)]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            [*line, *map(str, arguments)], env=self.env, stdin=pipe, stdout=pipe, stderr=pipe,
            text=True,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def client(self) -> Iterator[CMSClient]:
        """A client in this process."""
        app = app_of(self.broker)
        app.conf.update(self.settings)
        with CMSClient(delivery=CeleryDelivery(app, self.events)) as client:
            yield client

    def track(self, *names: str, mode: Literal["deferred"] | None = None) -> None:
        """Tracks leads of one customer, and returns once the broker has them."""
        with self.client() as client:
            for name in names:
                click = "id_123" if mode or name != "follow-up" else None
                result = client.track_lead(
                    name, "user_42", click, customer_email=PERSONAL, mode=mode
                )
                assert result["success"] is True
            assert client.flush(timeout=30)

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    def has_noted(self, *lines: str) -> bool:
        return set(lines) <= set(self.notes.read_text(encoding="ascii").splitlines())


def app_of(broker: Broker) -> Celery:
    app = Celery("shop", broker=broker.url, set_as_current=False)
    app.conf.broker_transport_options = dict(broker.transport_options)
    return app


def is_asked(listener: socket.socket) -> bool:
    """Whether somebody has connected to it."""
    return bool(select.select([listener], [], [], 0)[0])


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL, to the process and its children alike."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def piped(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


class Brokers:
    """One Redis and one RabbitMQ for all tests, started when one asks."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._running: dict[type[Broker], Broker] = {}

    def emptied(self, kind: type[Broker]) -> Broker:
        skip_without(kind)
        if kind not in self._running:
            folder = self._folder / kind.__name__
            folder.mkdir()
            self._running[kind] = self._stack.enter_context(kind(folder))
        self._running[kind].empty()
        return self._running[kind]


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    with ExitStack() as stack:
        yield Brokers(tmp_path_factory.mktemp("brokers"), stack)


@pytest.fixture
def api() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def shop(
    request: pytest.FixtureRequest, brokers: Brokers, api: FaultServer, tmp_path: Path
) -> Iterator[Shop]:
    """A shop whose queue is empty, on Redis unless the test names another broker."""
    made = Shop(brokers.emptied(getattr(request, "param", Redis)), api.url, tmp_path)
    yield made
    assert PERSONAL not in (made.log.read_text("utf-8") if made.log.exists() else "")


on_each_broker = pytest.mark.parametrize("shop", [Redis, RabbitMQ], indirect=True)
on_rabbitmq = pytest.mark.parametrize("shop", [RabbitMQ], indirect=True)


class Turmoil:
    """A shop with workers and producers, and an API that refuses some events and loses answers.

    Each producer queues the half of its events at once, and the other when it is told to.
    """

    def __init__(self, broker: Broker, folder: Path, stack: ExitStack) -> None:
        self.books, self.broker = stack.enter_context(Books()), broker
        self.answers = threading.Event()
        behave = every_time(*[self.books.accept] * 20, busy, self.books.lose_answer, limited)

        def answer_when_told(visit: Visit) -> None:
            self.answers.wait(60)
            behave(visit)

        self.books.behaviour = answer_when_told
        self.shop = Shop(self.broker, self.books.url, folder)
        self.share = EVENTS // PRODUCERS
        self.workers = [stack.enter_context(self.shop.worker()) for _ in range(2)]
        self.producers = [
            stack.enter_context(self.shop.tracking("track", number * self.share, self.share))
            for number in range(PRODUCERS)
        ]
        self._stack = stack

    def track_without_broker(self) -> None:
        """Stops the broker, queues the second halves, and starts it again."""
        self.broker.stop()
        for producer in self.producers:
            print(file=piped(producer.stdin), flush=True)
        for producer in self.producers:
            said = [piped(producer.stdout).readline() for _ in range(self.share)]
            assert "" not in said
        self.broker.start()

    def end(self) -> None:
        """Waits, with a new worker, until all is delivered; compares it with what was tracked."""
        self._stack.enter_context(self.shop.worker())
        self.books.wait_for_events(EVENTS, 600)
        for producer in self.producers:
            assert 0 == producer.wait(60)
        assert sorted(self.books.numbers) == list(range(EVENTS))
        assert [] == self.books.altered
        assert PERSONAL not in self.shop.log.read_text("utf-8")


def test_nothing_is_lost_with_redis(brokers: Brokers, tmp_path: Path) -> None:
    """A worker is killed with its hands full, and Redis stopped; each event is recorded once."""
    with ExitStack() as stack:
        redis = brokers.emptied(Redis)
        assert isinstance(redis, Redis)
        turmoil = Turmoil(redis, tmp_path, stack)
        # Two workers that hold so many take no more. Celery takes a message from Redis and notes
        # that it has it in two steps: what is killed in between is lost, as docs/scaling.md says.
        wait_until(lambda: redis.held() == 2 * PREFETCHED, 60)
        kill(turmoil.workers[1])
        killed_at = monotonic()
        turmoil.track_without_broker()
        turmoil.answers.set()
        # A worker looks for what others left behind when it starts, and then every 100 seconds.
        wait_until(lambda: monotonic() > killed_at + redis.transport_options["visibility_timeout"])
        turmoil.end()


def test_nothing_is_lost_with_rabbitmq(brokers: Brokers, tmp_path: Path) -> None:
    """A worker is killed, and RabbitMQ stopped, at any moment; each event is recorded once."""
    with ExitStack() as stack:
        turmoil = Turmoil(brokers.emptied(RabbitMQ), tmp_path, stack)
        turmoil.answers.set()
        turmoil.books.wait_for_events(EVENTS // 8, 60)
        kill(turmoil.workers[1])
        turmoil.books.wait_for_events(EVENTS // 4, 60)
        turmoil.track_without_broker()
        turmoil.end()


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_each_pool_delivers(pool: str, shop: Shop, api: FaultServer) -> None:
    """With threads in one process, and with none; prefork stands in the other tests."""
    with shop.worker(pool=pool):
        shop.track("a", "b", "c")
        api.wait_for_requests(3)
    assert {"a", "b", "c"} == {each.json["eventName"] for each in api.requests}


def test_a_process_and_its_children_track(shop: Shop, api: FaultServer) -> None:
    """A fork shares no connection: parent and child both go on."""
    with shop.worker(), shop.tracking("track_across_a_fork") as process:
        _, errors = process.communicate(timeout=60)
        assert (0, "") == (process.returncode, errors)
        api.wait_for_requests(4)
    assert set("1234") == {each.json["eventName"] for each in api.requests}


@forks
@threads_beside_fork
@on_each_broker
def test_a_child_that_closes_its_client_leaves_its_parent_connected(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is said to the broker in the parent's name, whose next event goes straight on."""
    with shop.client() as client:
        for name in "abc":
            assert client.track_lead(name, "user_42", "id_123")["success"] is True
            assert client.flush(timeout=30)
            assert 0 == exit_status(fork(client.close))
    assert [] == [each for each in caplog.records if each.name == "cms_python"]


def test_close_while_other_threads_track(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """close() in the midst of calls breaks none that is on its way: the broker gets each once."""

    def track(caller: str) -> None:
        for number in range(CALLS):
            result = client.track_lead("a", f"{caller}-{number}", "id_123")
            assert result["success"] is True

    redis = shop.broker
    assert isinstance(redis, Redis)
    # A close() that waits for nothing meets the most that is under way.
    delivery = CeleryDelivery(app_of(redis), shop.events, drain_timeout=0.0)
    with restless_threads(), ThreadPoolExecutor(2) as pool:
        client = CMSClient(delivery=delivery)
        calls = [pool.submit(track, caller) for caller in ("first", "second")]
        while not all(call.done() for call in calls):
            client.close()
        for call in calls:
            call.result()
    assert client.flush(timeout=60)
    client.close()
    queued = [json.loads(each) for each in redis.ask("LRANGE", "celery", "0", "-1")]
    keys = {each["headers"]["argsrepr"] for each in queued}
    assert 2 * CALLS == len(keys) == len(queued)
    assert [] == [each for each in caplog.records if each.name == "cms_python"]


@on_each_broker
def test_nothing_is_sent_sooner_than_the_server_asks(shop: Shop, api: FaultServer) -> None:
    """Though this Redis gives to another worker what one holds for longer than 4 seconds."""
    later = answer(429, {"success": False, "error": "Slow down"}, {"Retry-After": "6"})
    api.behaviour = in_turn(later, echo)
    with shop.worker():
        shop.track("a")
        wait_until(lambda: shop.has_noted("a delivered"), 40)
    refused, delivered = api.requests
    assert delivered.at - refused.at >= 6.0
    assert (refused.key, refused.body) == (delivered.key, delivered.body)


@on_each_broker
def test_a_follow_up_that_overtakes_its_deferred_lead_arrives(shop: Shop, sandbox: Sandbox) -> None:
    """A queue keeps no order; an event whose click is not known yet is tried again."""
    shop.worker_env["CMS_HOST"] = sandbox.url
    with shop.worker():
        shop.track("follow-up")
        wait_until(lambda: "retry: Retry in" in shop.log.read_text("utf-8"))
        shop.track("trial", mode="deferred")
        wait_until(lambda: shop.has_noted("trial delivered", "follow-up delivered"), 40)
    assert ["follow-up"] == [each.event_name for each in sandbox.events]


def test_what_is_given_up_stands_in_the_dead_letter_queue(shop: Shop, api: FaultServer) -> None:
    """The user's function is told of it, and a worker of that queue tries it once more."""
    api.behaviour = answer(422, {"success": False, "error": "Odd", "details": {"eventName": "?"}})
    with shop.worker():
        shop.track("a")
        wait_until(lambda: shop.has_noted("a dead"))
    # What is still refused there comes back after a while, not at once.
    with shop.worker("--queues", "dead_letters"):
        api.wait_for_requests(3)
        api.behaviour = echo
        wait_until(lambda: shop.has_noted("a delivered"))
    refused, again, third, *rest = api.requests
    assert again.key == refused.key
    assert third.at - again.at >= DEAD_LETTER_PAUSE
    assert len(rest) <= 1


@on_rabbitmq
@pytest.mark.parametrize(
    ("refusal", "verdict"), [(busy, "delivered"), (answer(422, {"error": "Odd"}), "dead")]
)
def test_what_a_worker_gives_back_is_not_lost_on_its_way(
    refusal: Behaviour, verdict: str, shop: Shop, api: FaultServer
) -> None:
    """The connection breaks when it is written; the task ends only once RabbitMQ has confirmed."""
    api.behaviour = in_turn(refusal, echo)
    with LossyWire(shop.broker.port, b'"idempotency_key"') as wire:
        shop.worker_env["TEST_BROKER"] = shop.broker.url_at(wire.port)
        with shop.worker():
            shop.track("a")
            wire.wait_for_loss(40)
            wait_until(lambda: shop.has_noted(f"a {verdict}"), 40)
        with shop.worker("--queues", "celery,dead_letters"):
            wait_until(lambda: shop.has_noted("a delivered"), 40)


def test_a_call_does_not_wait_for_a_broker_that_is_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its event is in the file, and the log tells once what is wrong, without the broker's URL."""
    with nobody_listens() as url:
        app = Celery("shop", broker=f"redis://:secret@{url[7:]}/0", set_as_current=False)
        delivery = CeleryDelivery(app, tmp_path / "events.db", drain_timeout=0.0)
        with CMSClient(delivery=delivery) as client:
            for number in range(50):
                result = client.track_lead("a", f"user_{number}", "id_123")
                assert result["success"] is True
            wait_until(lambda: caplog.records)
            assert 50 == delivery.stats().queued
    (line,) = [record.getMessage() for record in caplog.records if record.name == "cms_python"]
    assert line == "Events wait, for they cannot be handed on: OperationalError"


@pytest.mark.parametrize("kind", [Redis, RabbitMQ])
def test_a_program_can_end_beside_a_broker_that_never_answers(
    kind: type[Broker], tmp_path: Path
) -> None:
    """Its calls return, and so does close(), which waits no longer than publishing may take."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        app = Celery("shop", broker=kind.url_at(silent.getsockname()[1]), set_as_current=False)
        delivery = CeleryDelivery(app, tmp_path / "events.db", drain_timeout=0.1)
        client = CMSClient(delivery=delivery)
        assert client.track_lead("a", "user_42", "id_123")["success"] is True
        wait_until(lambda: is_asked(silent))
        closing = threading.Thread(target=client.close)
        closing.start()
        closing.join(PUBLISH_TIMEOUT)
        assert not closing.is_alive()


def test_a_broker_that_never_answered_gets_all_once_it_does(shop: Shop, api: FaultServer) -> None:
    """Calls return meanwhile, and no event is left behind."""
    (shop.folder / "broker").mkdir()
    shop.broker = Redis(shop.folder / "broker")
    silent = socket.create_server(("127.0.0.1", shop.broker.port))
    with silent, shop.client() as client:
        for name in "abc":
            assert client.track_lead(name, f"user_{name}", "id_123")["success"] is True
        wait_until(lambda: is_asked(silent))
        silent.close()
        with shop.broker:
            assert client.flush(timeout=60)
            shop.worker_env["TEST_BROKER"] = shop.broker.url
            with shop.worker():
                api.wait_for_requests(3)
    assert set("abc") == {each.json["eventName"] for each in api.requests}


def test_nothing_is_opened_before_the_first_event(tmp_path: Path, api: FaultServer) -> None:
    """Neither file nor connection, so that a server may fork; its child connects for itself."""
    skip_without(Redis)
    (tmp_path / "broker").mkdir()
    shop = Shop(Redis(tmp_path / "broker"), api.url, tmp_path)
    listener = socket.create_server(("127.0.0.1", shop.broker.port))
    with listener, shop.tracking("track_after_a_fork") as process:
        assert "made\n" == piped(process.stdout).readline()
        assert not is_asked(listener)
        assert not shop.events.exists()
        listener.close()
        with shop.broker, shop.worker():
            _, errors = process.communicate("\n", timeout=60)
            assert (0, "") == (process.returncode, errors)
            api.wait_for_requests(2)
    assert set("12") == {each.json["eventName"] for each in api.requests}


def test_messages_are_json_and_leave_no_result(shop: Shop, api: FaultServer) -> None:
    """Whatever an application's other tasks do: a result would keep the customer's data."""
    redis = shop.broker
    assert isinstance(redis, Redis)
    shop.settings = {
        "result_backend": redis.url,
        "result_extended": True,
        "task_store_errors_even_if_ignored": True,
        "task_serializer": "pickle",
        # A worker drops what is anything else, such as what it gave back itself.
        "accept_content": ["json"],
    }
    api.behaviour = in_turn(busy, answer(422, {"error": "Odd"}))
    shop.track("a")
    queued = redis.ask("LRANGE", "celery", "0", "-1")
    with shop.worker():
        wait_until(lambda: shop.has_noted("a dead") and redis.held() == 0, 40)
    dead = redis.ask("LRANGE", "dead_letters", "0", "-1")
    types = [json.loads(message)["content-type"] for message in queued + dead]
    assert ["application/json", "application/json"] == types
    assert [] == redis.ask("KEYS", "celery-task-meta-*")


@pytest.fixture
def eager(tmp_path: Path) -> Iterator[tuple[Celery, CMSClient]]:
    """An application without a broker, whose tasks run in the call, and a client of it."""
    app = Celery("shop", set_as_current=False)
    app.conf.task_always_eager = True
    with CMSClient(delivery=CeleryDelivery(app, tmp_path / "events.db")) as client:
        yield app, client
    assert [] == list(tmp_path.iterdir())


def test_an_eager_application_delivers_in_the_call(
    eager: tuple[Celery, CMSClient], api: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call returns what the API said, as a test of a shop wants it."""
    monkeypatch.setenv("CMS_HOST", api.url)
    monkeypatch.setenv("CMS_BEARER_TOKEN", "a-token")
    app, client = eager
    told: list[bool] = []
    configure_worker(app, on_result=lambda _, result: told.append(result["success"]))
    api.behaviour = in_turn(echo, answer(503, {"error": "Busy"}), answer(400, {"error": "No"}))
    results = [client.track_lead("a", "user_42", "id_123") for _ in range(3)]
    assert [None, 503, 400] == [each.get("status_code") for each in results]
    # What would be tried again is not settled.
    assert [True, False] == told


def test_a_worker_without_a_token_keeps_the_event(
    eager: tuple[Celery, CMSClient], caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again, and result and log say what is missing."""
    _, client = eager
    result = client.track_lead("a", "user_42", "id_123")
    assert result["success"] is False
    assert result["retryable"]
    assert result["error"].startswith("token is missing")
    assert "token is missing" in caplog.text


def test_a_function_of_the_user_that_fails_loses_nothing(
    eager: tuple[Celery, CMSClient], api: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither one that makes the client nor one that is told; the log has no text of theirs."""

    def fail(*_: object) -> CMSClient:
        raise OSError("a secret")

    app, client = eager
    configure_worker(app, make_client=fail)
    refused = client.track_lead("a", "user_42", "id_123")
    assert refused["success"] is False
    assert (True, "OSError") == (refused["retryable"], refused["error"])
    configure_worker(app, make_client=lambda: CMSClient("a-token", api.url), on_result=fail)
    assert client.track_lead("a", "user_42", "id_123")["success"] is True
    assert "on_result failed: OSError" in caplog.text
    assert "secret" not in caplog.text


def test_threads_of_a_worker_that_begin_at_once_share_a_client(
    eager: tuple[Celery, CMSClient], api: FaultServer
) -> None:
    """make_client is called once a process, however long it takes."""
    both_are_making, made = threading.Barrier(2), []

    def make() -> CMSClient:
        with suppress(threading.BrokenBarrierError):
            both_are_making.wait(timeout=1)
        made.append(CMSClient("a-token", api.url))
        return made[-1]

    app, client = eager
    configure_worker(app, make_client=make)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(client.track_lead, name, "user_42", "id_123") for name in "ab"]
        assert [True, True] == [each.result()["success"] for each in calls]
    (one,) = made
    one.close()


def test_a_worker_whose_client_hands_on_again_says_so(
    eager: tuple[Celery, CMSClient], caplog: pytest.LogCaptureFixture
) -> None:
    """The events would go round and round; they wait for a client that sends."""
    app, client = eager
    for made in (client, None):
        configure_worker(app, make_client=partial(cast, CMSClient, made))
        result = client.track_lead("a", "user_42", "id_123")
        assert result["success"] is False
        assert "make_client must return a CMSClient that sends by itself" == result["error"]
    assert "make_client must return" in caplog.text


@pytest.mark.parametrize("app", [None, "redis://localhost", 5, Celery])
def test_what_is_no_application_is_refused(app: Any, tmp_path: Path) -> None:
    """Where the client is made and where workers are configured, not in a call."""
    with pytest.raises(ValueError, match="app must be a Celery application"):
        CeleryDelivery(app, tmp_path / "events.db")
    with pytest.raises(ValueError, match="app must be a Celery application"):
        configure_worker(app)


def test_a_call_outlives_settings_that_cannot_be_read(tmp_path: Path) -> None:
    """The event is in the file, for whoever has read them."""
    app = Celery("shop", set_as_current=False)
    app.config_from_object("no_such_module")
    delivery = CeleryDelivery(app, tmp_path / "events.db", drain_timeout=0.0)
    with CMSClient(delivery=delivery) as client:
        assert client.track_lead("a", "user_42", "id_123")["success"] is True
        assert 1 == delivery.stats().queued


def test_a_queue_without_a_name_is_refused(tmp_path: Path) -> None:
    """A mistake shows where the client is made."""
    app = Celery("shop", set_as_current=False)
    with pytest.raises(ValueError, match="queue must be the name of a queue"):
        CeleryDelivery(app, tmp_path / "events.db", queue="")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"make_client": CMSClient("a-token")}, "make_client must be a function"),
        ({"on_result": "print"}, "on_result must be a function"),
        ({"dead_letter_queue": " "}, "dead_letter_queue must be the name"),
        ({"max_age": True}, "max_age must be a number of seconds"),
        ({"max_age": float("nan")}, "max_age must be a number of seconds"),
    ],
)
def test_a_worker_cannot_be_configured_wrongly(arguments: dict[str, Any], message: str) -> None:
    """It would show at the first event that is given up, too late."""
    with pytest.raises(ValueError, match=message):
        configure_worker(Celery("shop", set_as_current=False), **arguments)
