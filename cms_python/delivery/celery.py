"""The outbox hands on to a Celery queue; workers send it through direct.

The web process writes an event into its outbox, and a thread publishes it: `CeleryDelivery`. A
worker runs the task `cms_python.deliver`, which makes one attempt and gives the broker what is to
be tried again. `configure_worker()` says how, where the defaults do not fit.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, Optional, Union

from celery import Celery, Task, shared_task
from celery.exceptions import Reject
from kombu import Connection, Producer
from kombu.pools import producers  # type: ignore[attr-defined,unused-ignore]  # in newer stubs only

from cms_python import results
from cms_python.client import CMSClient
from cms_python.delivery import Delivery, OnResult, check_on_result, check_seconds, jobs, tell
from cms_python.delivery.jobs import Outcome, SharedClient
from cms_python.delivery.outbox import Outbox
from cms_python.events import Event
from cms_python.results import TrackResult

__all__ = ["TASK", "CeleryDelivery", "configure_worker"]

TASK = "cms_python.deliver"
# Seconds. A broker holds what is to come later as a worker's unfinished work, and gives it to
# another after its visibility timeout; RabbitMQ, which has none, after half an hour.
LONGEST_COUNTDOWN = 300.0
VISIBILITY_TIMEOUT = 3600.0
# Of the visibility timeout, to stay well below it.
COUNTDOWN_SHARE = 0.25
# Seconds until a job is tried again that failed here, before anything was sent.
BROKEN_WAIT = 60.0
# Seconds for each step of publishing, and for all of them.
STEP_TIMEOUT = 5.0
PUBLISH_TIMEOUT = 6 * STEP_TIMEOUT
# Seconds. An application's own limits, which would end and lose an event, do not hold for ours.
SOFT_TIME_LIMIT, TIME_LIMIT = 300, 330
UNBOUNDED = 2**31
# Seconds before a message goes back to a broker that gives it out again at once.
REJECT_WAIT = 1.0

_log = logging.getLogger("cms_python")


class CeleryDelivery(Outbox):
    """Keeps each event in a file before the call returns, and hands it to a Celery queue.

    A call never waits for the broker. While the broker is down events wait in the file; an event
    leaves the file when the broker has it. Workers that run the task ``cms_python.deliver`` send
    it: add ``cms_python.delivery.celery`` to the ``imports`` of the application.

    Args:
        app: the Celery application. Its broker is Redis or RabbitMQ.
        outbox: the SQLite file, made at the first event. The processes of a machine may share it.
        queue: the queue. By default the one that the application routes ``cms_python.deliver`` to.
        max_events: how many events the file may hold. 1,000,000 by default. What it cannot take
            comes back as a failure of the type ``outbox_error``.
        max_age: the seconds after which an event is given up that the broker does not take.
            604,800 (7 days) by default.
        drain_timeout: the seconds that ``close()`` and the end of the program wait at most for
            what is in the file to be handed on. 2 by default.

    Raises:
        ValueError: an argument cannot be used.

    ``flush()`` waits until the broker has all, and ``stats()`` counts as delivered what it has.
    Where ``task_always_eager`` is set, the call itself sends the event and returns the result.

    Example:
        >>> from celery import Celery
        >>> from cms_python import CMSClient
        >>> app = Celery("shop", broker="redis://localhost:6379/0")
        >>> client = CMSClient(delivery=CeleryDelivery(app, outbox="events.db"))
    """

    def __init__(
        self,
        app: Celery,
        outbox: Union[str, os.PathLike[str]],
        *,
        queue: Optional[str] = None,
        max_events: int = 1_000_000,
        max_age: float = 7 * 24 * 60 * 60.0,
        drain_timeout: float = 2.0,
    ) -> None:
        _check_app(app)
        _check_queue("queue", queue)
        super().__init__(
            outbox,
            workers=1,
            max_events=max_events,
            max_age=max_age,
            drain_timeout=drain_timeout,
            through=_Publisher(app, queue),
        )
        self._app = app

    def deliver(self, event: Event) -> TrackResult:
        """Returns when the event is in the file."""
        if _is_eager(self._app):
            return _Worker.of(self._app).deliver_here(event.dated())
        return super().deliver(event)


def configure_worker(
    app: Celery,
    *,
    make_client: Callable[[], CMSClient] = CMSClient,
    on_result: Optional[OnResult] = None,
    dead_letter_queue: Optional[str] = None,
    max_age: float = jobs.MAX_AGE,
) -> None:
    """Says how the workers of an application deliver; to be called where the application is made.

    Args:
        app: the Celery application.
        make_client: makes the client of a worker process, at its first event. By default from
            ``CMS_BEARER_TOKEN`` and ``CMS_HOST``.
        on_result: called with the event and its result when an event is delivered or given up.
            What it raises is logged and has no other effect.
        dead_letter_queue: the queue that takes the events that are given up. They stand there as
            the task that they were, so that a worker of that queue tries them once more. By default
            they are logged, and gone. Not the queue of the events that are still to be tried.
        max_age: the seconds after which an event that cannot be delivered is given up, at its
            next failure. 604,800 (7 days) by default.

    Raises:
        ValueError: an argument cannot be used.

    Example:
        >>> from celery import Celery
        >>> configure_worker(Celery("shop"), dead_letter_queue="cms_dead")
    """
    _check_app(app)
    if not callable(make_client):
        raise ValueError("make_client must be a function that returns a CMSClient")
    check_on_result(on_result)
    _check_queue("dead_letter_queue", dead_letter_queue)
    check_seconds("max_age", max_age)
    _workers[_itself(app)] = _Worker(make_client, on_result, dead_letter_queue, max_age)


class _WrongClient(TypeError):
    """What make_client returned cannot send."""


class _Publisher(Delivery):
    """Hands events to the broker, over a connection of its own that never waits for long.

    Each thread that uses it at the same time has one: that of its outbox, and beside it one that
    close() did not wait for. A producer of the application's pool could block for ever where the
    broker is down, and RabbitMQ would not have confirmed what it takes.
    """

    timeout = PUBLISH_TIMEOUT

    def __init__(self, app: Celery, queue: Optional[str]) -> None:
        self._app = app
        self._options: dict[str, Any] = {"queue": queue} if queue else {}
        # Those that no thread uses just now: close() may come from any thread, at any time.
        self._idle: list[Connection] = []
        self._process = os.getpid()

    def deliver(self, event: Event) -> TrackResult:
        """Returns when the broker has the event; raises what Celery and the broker's client do."""
        if _is_eager(self._app):
            return _Worker.of(self._app).deliver_here(event)
        job = event.to_dict()
        connection = self._usable_connection()
        try:
            producer = Producer(connection, auto_declare=False)
            self._app.tasks[TASK].apply_async(
                (job,), producer=producer, retry=False, **_shown(job), **self._options
            )
        except BaseException:
            # What state it is in nobody knows.
            _close(connection)
            raise
        self._idle.append(connection)
        return results.success("Event handed to the queue")

    def close(self) -> None:
        """Closes what is not in use. A later event opens another connection."""
        self._leave_the_parents()
        with suppress(IndexError):
            while True:
                _close(self._idle.pop())

    def _usable_connection(self) -> Connection:
        self._leave_the_parents()
        try:
            return self._idle.pop()
        except IndexError:
            return _connection_of(self._app)

    def _leave_the_parents(self) -> None:
        if self._process != os.getpid():
            # The parent's: closing it here would say goodbye to the broker in the parent's name.
            _inherited.extend(self._idle)
            self._idle, self._process = [], os.getpid()


def _close(connection: Connection) -> None:
    try:
        connection.close()
    except Exception as error:  # noqa: BLE001, it is gone either way
        _log.debug("Closing the connection to the broker failed: %s", type(error).__name__)


class _Worker:
    """How the processes of one application deliver."""

    def __init__(
        self,
        make_client: Callable[[], CMSClient] = CMSClient,
        on_result: Optional[OnResult] = None,
        dead_letter_queue: Optional[str] = None,
        max_age: float = jobs.MAX_AGE,
    ) -> None:
        self._make_client = make_client
        self._on_result = on_result
        self.dead_letter_queue = dead_letter_queue
        self._max_age = max_age
        self._client = SharedClient(self._usable_client)

    @classmethod
    def of(cls, app: Celery) -> _Worker:
        """The one that was configured, or one with all defaults."""
        return _workers.setdefault(_itself(app), cls())

    def deliver_here(self, event: Event) -> TrackResult:
        """The result of one attempt, where there is no queue to try again from."""
        outcome = self.deliver(event.to_dict())
        self.tell(outcome)
        return outcome.result or results.not_queued("It is too early", event.idempotency_key)

    def deliver(self, job: dict[str, Any]) -> Outcome:
        """Makes one attempt. What fails here, such as a client without a token, is for later."""
        try:
            return jobs.deliver(job, self._client.get(), max_age=self._max_age)
        except Exception as error:  # noqa: BLE001, Celery would drop the event
            # Our own sentences hold no secret.
            is_ours = self._make_client is CMSClient and isinstance(error, ValueError)
            is_ours = is_ours or isinstance(error, _WrongClient)
            reason = str(error) if is_ours else type(error).__name__
        _log.error("An event waits in the queue: %s", reason)
        key = job.get("idempotency_key") if isinstance(job, dict) else None
        return Outcome("again", job, BROKEN_WAIT, None, results.not_queued(reason, str(key)))

    def _usable_client(self) -> CMSClient:
        """A client that the user's function makes. Raises what that does, and _WrongClient."""
        made = self._make_client()
        if not isinstance(made, CMSClient) or isinstance(made.delivery, CeleryDelivery):
            raise _WrongClient("make_client must return a CMSClient that sends by itself")
        return made

    def tell(self, outcome: Outcome) -> None:
        """Calls the user's function, if the event is settled."""
        if outcome.verdict != "again" and outcome.event and outcome.result:
            tell(self._on_result, outcome.event, outcome.result)


@shared_task(
    name=TASK,
    bind=True,
    acks_late=True,
    reject_on_worker_lost=True,
    ignore_result=True,
    store_errors_even_if_ignored=False,
    max_retries=None,
    acks_on_failure_or_timeout=False,
    serializer="json",
    soft_time_limit=SOFT_TIME_LIMIT,
    time_limit=TIME_LIMIT,
)
def _deliver(task: Task[Any, Any], job: dict[str, Any]) -> None:
    worker = _Worker.of(task.app)
    outcome = worker.deliver(job)
    # Called as a function, it has no broker to give anything to.
    is_queued = not (task.request.is_eager or task.request.called_directly)
    if outcome.verdict == "again" and is_queued:
        _try_later(task, outcome)
    if outcome.verdict == "dead" and is_queued and worker.dead_letter_queue:
        _move(task, outcome, worker.dead_letter_queue)
    worker.tell(outcome)


def _try_later(task: Task[Any, Any], outcome: Outcome) -> NoReturn:
    """Gives the job back to the broker; one that must wait for longer comes here in between."""
    try:
        countdown = min(outcome.wait, _longest_countdown(task.app))
        with _confirming_producer(task.app) as producer:
            # An application's annotations for all tasks may bound retries; what is lost is ours.
            told = task.retry(
                (outcome.job,), countdown=countdown, max_retries=UNBOUNDED, throw=False,
                producer=producer, **_shown(outcome.job),
            )  # fmt: skip
    except Exception as error:  # noqa: BLE001, Celery would drop what it cannot publish
        _put_back(error)
    raise told


def _move(task: Task[Any, Any], outcome: Outcome, queue: str) -> None:
    """To the dead letter queue; a worker of that queue gets it back only after a while."""
    try:
        options: dict[str, Any] = _shown(outcome.job)
        if (task.request.delivery_info or {}).get("routing_key") == queue:
            options["countdown"] = _longest_countdown(task.app)
        with _confirming_producer(task.app) as producer:
            task.apply_async((outcome.job,), queue=queue, producer=producer, **options)
    except Exception as error:  # noqa: BLE001, it comes again, and is moved then
        _put_back(error)


@contextmanager
def _confirming_producer(app: Celery) -> Iterator[Producer]:
    """Publishes over a connection that no other task uses, and that is closed if that fails."""
    with producers[_connection_of(app)].acquire(block=True) as producer:
        try:
            yield producer
        except BaseException:
            # What confirms a message late would seem to confirm the next.
            producer.connection.collect()
            raise


def _connection_of(app: Celery) -> Connection:
    """One to the broker, not yet open, with the application's options and bounds for each step."""
    bounds = {
        "max_retries": 1,
        "interval_start": 0,
        "connect_retries_timeout": STEP_TIMEOUT,
        "socket_timeout": STEP_TIMEOUT,
        "socket_connect_timeout": STEP_TIMEOUT,
        "read_timeout": STEP_TIMEOUT,
        "write_timeout": STEP_TIMEOUT,
    }
    # RabbitMQ alone needs to be asked to say that it has a message.
    options = {**bounds, **app.conf.broker_transport_options, "confirm_publish": True}
    return app.connection_for_write(
        connect_timeout=STEP_TIMEOUT, heartbeat=0, transport_options=options
    )


def _put_back(error: Exception) -> NoReturn:
    """Lets the broker give the message out again: what should be published could not be."""
    # It does so at once, and for as long as the cause lasts.
    time.sleep(REJECT_WAIT)
    raise Reject(type(error).__name__, requeue=True) from None


def _longest_countdown(app: Celery) -> float:
    options = app.conf.broker_transport_options
    timeout = float(options.get("visibility_timeout") or VISIBILITY_TIMEOUT)
    return min(COUNTDOWN_SHARE * timeout, LONGEST_COUNTDOWN)


def _is_eager(app: Celery) -> bool:
    try:
        return bool(app.conf.task_always_eager)
    except Exception as error:  # noqa: BLE001, a call must not fail for a setting that cannot be read
        _log.error("Celery's settings cannot be read: %s", type(error).__name__)
        return False


def _check_app(app: object) -> None:
    if not isinstance(_itself(app), Celery):
        raise ValueError("app must be a Celery application")


def _check_queue(name: str, queue: object) -> None:
    if queue is not None and (not isinstance(queue, str) or not queue.strip()):
        raise ValueError(f"{name} must be the name of a queue, or left out")


def _shown(job: Mapping[str, Any]) -> dict[str, Any]:
    """What Celery's monitors and logs show in the place of the customer's data."""
    return {"argsrepr": f"({job.get('kind')}, key {job.get('idempotency_key')})"}


def _itself(app: Any) -> Celery:
    """The application that a proxy, such as ``celery.current_app``, stands for."""
    current: Callable[[], Celery] = getattr(app, "_get_current_object", lambda: app)
    return current()


_workers: weakref.WeakKeyDictionary[Celery, _Worker] = weakref.WeakKeyDictionary()
# Connections to the broker that a fork copied.
_inherited: list[Connection] = []
