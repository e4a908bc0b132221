"""Durably in a SQLite file; threads send it on, through direct or another delivery."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import Literal, Optional, Union, cast

from cms_python import results
from cms_python.delivery import (
    Delivery,
    OnResult,
    check_on_result,
    check_seconds,
    logs,
    tell,
    verdicts,
)
from cms_python.delivery.direct import Direct
from cms_python.delivery.logs import Trouble
from cms_python.delivery.storage import (
    Claim,
    DeadEvent,
    Exchange,
    OutboxError,
    OutboxStats,
    Settlement,
    Storage,
)
from cms_python.events import Event, InvalidEvent
from cms_python.results import TrackResult

__all__ = ["DeadEvent", "Outbox", "OutboxError", "OutboxStats"]

MOST_WORKERS = 64
# Requests a second.
LOWEST_RATE, HIGHEST_RATE = 0.01, 1_000_000
# Seconds after which the file is looked at for the events of other processes.
POLL = 0.5
FLUSH_POLL = 0.02
# Seconds to wait after the file could not be used.
STORAGE_BACKOFF = 1.0
SETTLING_SHARE = 0.25
# Seconds that a lease lasts beyond the time that a request may take.
LEASE_MARGIN = 5.0

_log = logging.getLogger("cms_python")


class Outbox(Delivery):
    """Keeps each event in a file before the call returns, and sends it in the background.

    What is in the file outlives the process, a crash and an outage: an event leaves it only after
    an answer that says that it was recorded. Each may be sent more than once, always under its
    idempotency key. The events of one customer are sent in the order in which they were tracked.

    Args:
        path: the SQLite file, made at the first event. Any number of processes may share it, on
            one machine.
        send: whether this process sends. With False it only writes; another process that has the
            same file open sends, and this one needs no token.
        workers: how many threads send, 1 to 64. 4 by default. They start with the first event.
        rate: how many requests a second this process sends at most. By default as many as the
            workers can.
        max_events: how many events, queued and given up together, the file may hold. 1,000,000 by
            default.
        max_age: the seconds after which an event that cannot be delivered is given up, at its next
            failure. 604,800 (7 days) by default. Whatever its age, one is given up that the API
            refuses, whose click is not known at five attempts, or at which a process crashed or was
            killed five times in a row.
        on_full: what happens to an event that the file cannot take, because it is full, locked,
            read-only or damaged, or because the disk is full. ``"send"`` sends it at once, as a
            client without an outbox would, ``"refuse"`` returns a failure of the type
            ``outbox_error``. By default ``"send"``, with ``send=False`` or ``through`` always
            ``"refuse"``.
        drain_timeout: the seconds that ``close()`` and the end of the program wait at most for
            what is queued to be sent. 2 by default. What is left is sent by the next process.
        on_result: called with the event and its result when an event is delivered or given up, in
            one of the sending threads. What it raises is logged and has no other effect.
        through: the ``Delivery`` that takes each event from the file, such as one that hands it to
            a task queue. Its success means that the event is safe there. By default the API
            itself, over the client's connections.

    Raises:
        ValueError: an argument cannot be used.

    Nothing is opened until the first event.

    Example:
        >>> from cms_python import CMSClient, Outbox
        >>> client = CMSClient(token="your_jwt_token", delivery=Outbox("events.db"))
    """

    def __init__(
        self,
        path: Union[str, os.PathLike[str]],
        *,
        send: bool = True,
        workers: int = 4,
        rate: Optional[float] = None,
        max_events: int = 1_000_000,
        max_age: float = 7 * 24 * 60 * 60.0,
        on_full: Optional[Literal["send", "refuse"]] = None,
        drain_timeout: float = 2.0,
        on_result: Optional[OnResult] = None,
        through: Optional[Delivery] = None,
    ) -> None:
        _check_path(path)
        _check_int("workers", workers, MOST_WORKERS)
        _check_rate(rate)
        _check_int("max_events", max_events, 2**53)
        check_seconds("max_age", max_age)
        check_seconds("drain_timeout", drain_timeout)
        if not isinstance(send, bool):
            raise ValueError("send must be True or False")
        if on_full not in (None, "send", "refuse"):
            raise ValueError('on_full must be "send" or "refuse"')
        if on_full == "send" and not send:
            raise ValueError('on_full must be "refuse" where send is False: nothing is sent there')
        if on_full == "send" and through is not None:
            raise ValueError('on_full must be "refuse" where through is given: a call may not wait')
        check_on_result(on_result)
        if through is not None:
            if not isinstance(through, Delivery):
                raise ValueError("through must be a Delivery")
            check_seconds("through.timeout", through.timeout)
        self._storage = Storage(path, max_events=max_events, max_age=max_age)
        self._sends = send
        self._sends_at_once = send and through is None and on_full != "refuse"
        self._workers = workers
        self._rate = rate
        self.drain_timeout = drain_timeout
        self._on_result = on_result
        self._through = through
        self._carrier: Optional[Delivery] = None
        self._fallback: Optional[Delivery] = None
        self._trouble = Trouble()
        # By process, at most one. It is put in and taken out in one step each, without a lock: a
        # handler of a signal may track too, and Ctrl-C may come before a lock is given back.
        self._senders: dict[int, _Senders] = {}
        _outboxes.add(self)

    def attach(self, make_direct: Callable[[], Direct]) -> None:
        """Takes what it sends through from its client. Raises ValueError if it has one already."""
        if self._sends:
            if self._carrier is not None:
                raise ValueError("delivery belongs to another client: make an Outbox a client")
            if self._through is None:
                carrier: Delivery = make_direct()
            else:
                carrier = self._through
                carrier.attach(make_direct)
            self._carrier = carrier.once()
            self._fallback = carrier if self._sends_at_once else None

    def deliver(self, event: Event) -> TrackResult:
        """Returns when the event is in the file, which a crash or a power failure does not undo."""
        event = event.dated()
        try:
            ((row, duplicate),) = self._storage.add([event])
        except OutboxError as error:
            return self._without_file(event, error)
        except InvalidEvent as invalid:
            return results.invalid(invalid, event.idempotency_key)
        self._trouble.end()
        self._wake_senders()
        data = {"event_id": row, "queued": True, "duplicate": duplicate}
        return results.success("Event queued", data)

    def flush(self, timeout: Optional[float] = None) -> bool:
        """Waits up to ``timeout`` seconds, by default for ever, until the file holds no event.

        Returns whether that is so; dead ones do not count. Also sends what an earlier process left
        in the file. A file that cannot be used returns False at once.
        """
        deadline = float("inf") if timeout is None else monotonic() + timeout
        return self._is_drained(deadline, keep_sending=True)

    def close(self) -> None:
        """Waits up to ``drain_timeout`` seconds for what is queued, and stops the threads.

        What is left stays in the file. May be called twice; a later event opens the file again.
        """
        self.close_until(monotonic() + self.drain_timeout)

    def stats(self) -> OutboxStats:
        """How many events are queued, on their way, given up and delivered, and for how long.

        Raises:
            OutboxError: the file cannot be used.
        """
        return self._storage.stats()

    def dead(self) -> list[DeadEvent]:
        """The events that were given up, oldest first, with what the API last said of each.

        Raises:
            OutboxError: the file cannot be used.
        """
        return self._storage.dead()

    def retry_dead(self) -> int:
        """Queues all dead events again, with a new count of attempts; tells how many.

        Each comes before the later events of its customer, but for one that is on its way.

        Raises:
            OutboxError: the file cannot be used.
        """
        count = self._storage.retry_dead()
        self._wake_senders()
        return count

    def purge_dead(self, event_ids: Optional[Iterable[int]] = None) -> int:
        """Forgets dead events for good, by default all; tells how many.

        With ``event_ids``, such as those of ``dead()``, it spares what has died since.

        Raises:
            OutboxError: the file cannot be used.
        """
        return self._storage.purge_dead(event_ids)

    def events(self) -> Iterator[tuple[Literal["queued", "dead"], Optional[Event]]]:
        """All events that the file holds, oldest first, each with its state.

        None stands for an event whose text in the file cannot be read any more.

        Raises:
            OutboxError: the file cannot be used.
        """
        return self._storage.events()

    def add_all(self, events: Sequence[Event], checkpoint: str, *, after: str) -> int:
        """Queues many events in one step, all or none, for a program that may be started again.

        The ``checkpoint``, any text, is kept with them in the place of the one before, ``after``;
        ``checkpoint()`` gives it back. Returns how many were not queued already.

        Raises:
            OutboxError: the file cannot take them, or holds another checkpoint than ``after``, or
                one has the idempotency key of another event that is queued.
        """
        try:
            added = self._storage.add([event.dated() for event in events], checkpoint, after)
        except InvalidEvent as error:
            raise OutboxError(f"The events cannot be queued: {error}.") from None
        self._wake_senders()
        return sum(not duplicate for _, duplicate in added)

    def checkpoint(self) -> str:
        """The last checkpoint that was given to ``add_all()``, an empty text before the first.

        Raises:
            OutboxError: the file cannot be used.
        """
        return self._storage.checkpoint()

    def close_until(self, deadline: float) -> None:
        """``close()`` with a deadline, in seconds of ``time.monotonic()``."""
        senders = self._senders.pop(os.getpid(), None)
        if senders:
            # What is on its way when that time is up gets the rest to be settled.
            self._is_drained(deadline - SETTLING_SHARE * (deadline - monotonic()))
            senders.stop(deadline)
            self._storage.excuse()
        self._storage.close()
        if self._carrier is not None:
            _close(self._carrier)

    def forget(self) -> None:
        """Lets go of what a fork copied: threads that the child has not got."""
        self._senders.clear()
        self._storage.forget()

    def __repr__(self) -> str:
        return f"Outbox({str(self._storage.path)!r})"

    def _running_senders(self) -> Optional[_Senders]:
        """The threads of this process, started if they do not run; None if it does not send."""
        senders = self._senders.get(os.getpid())
        if senders is None and self._carrier is not None:
            made = _Senders(self, self._carrier)
            # Known before they start: what tracks meanwhile then starts no others.
            senders = self._senders.setdefault(os.getpid(), made)
            if senders is made:
                is_started = False
                try:
                    is_started = made.start()
                finally:
                    if not is_started:
                        made.end()
                        self._senders.pop(os.getpid(), None)
        return senders

    def _wake_senders(self) -> None:
        senders = self._running_senders()
        if senders:
            senders.wake()

    def _is_drained(self, deadline: float, *, keep_sending: bool = False) -> bool:
        while True:
            if keep_sending:
                # Another thread may have closed it meanwhile.
                self._running_senders()
            try:
                if self._storage.queued() == 0:
                    return True
            except OutboxError:
                return False
            left = deadline - monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, FLUSH_POLL))

    def _without_file(self, event: Event, error: OutboxError) -> TrackResult:
        fate = "refused" if self._fallback is None else "sent at once"
        self._trouble.begin("%s Events are %s.", error, fate)
        if self._fallback is not None:
            return self._fallback.deliver(event)
        return results.not_queued(str(error), event.idempotency_key)


class _Senders:
    """The threads of one process that send what is in the file.

    Of those that find nothing to send one looks into the file from time to time; the others sleep
    until they are woken.
    """

    def __init__(self, owner: Outbox, carrier: Delivery) -> None:
        # While it sends, an outbox must live, or the end of the program would not wait for it.
        self._owner = owner
        self._storage = owner._storage
        self._workers = owner._workers
        self._on_result = owner._on_result
        self._carrier = carrier
        self._interval = 1 / owner._rate if owner._rate else 0.0
        self._next_turn = 0.0
        self._lease = carrier.timeout + LEASE_MARGIN + self._workers * self._interval
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        # Taken itself: Ctrl-C may come between a condition's taking its lock and its telling so.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._trouble, self._carrier_trouble = Trouble(), Trouble()
        self._news = 0
        self._watched_until = float("inf")

    def start(self) -> bool:
        """Starts the threads; tells whether there is one."""
        with suppress(OutboxError):
            self._storage.probe_soon()
        for number in range(1, self._workers + 1):
            thread = threading.Thread(target=self._run, name=f"cms-outbox-{number}", daemon=True)
            self._threads.append(thread)
            try:
                thread.start()
            except RuntimeError:
                # Too many threads, or the program is about to end; the event is in the file.
                self._threads.remove(thread)
                break
        return bool(self._threads)

    def wake(self) -> None:
        """Tells that there is something new in the file."""
        with self._lock:
            self._news += 1
            self._changed.notify()

    def end(self) -> None:
        """Lets each thread finish what it is at."""
        self._stopping.set()
        with self._lock:
            self._changed.notify_all()

    def stop(self, deadline: float) -> None:
        """Lets each thread finish what it is at, and waits for that until the deadline."""
        threads = tuple(self._threads)  # one leaves the list before its last steps
        self.end()
        for thread in threads:
            # on_result may close the outbox that calls it, a signal's handler one that just starts.
            if thread is not threading.current_thread() and thread.is_alive():
                thread.join(max(deadline - monotonic(), 0.0))

    def _run(self) -> None:
        made: Optional[Settlement] = None
        while made or not self._stopping.is_set():
            made = self._contained_turn(made)
        self._storage.let_go()
        with self._lock:
            self._threads.remove(threading.current_thread())
            is_last = not self._threads
        if is_last:
            # close() may not have waited for a slow request, which has opened them again.
            self._storage.close()
            _close(self._carrier)

    def _contained_turn(self, made: Optional[Settlement]) -> Optional[Settlement]:
        try:
            return self._turn(made)
        except Exception as error:  # noqa: BLE001, a thread that ended would send no more
            _log.error("A sender of the outbox failed: %s", type(error).__name__)
            self._stopping.wait(STORAGE_BACKOFF)
            return None

    def _turn(self, made: Optional[Settlement]) -> Optional[Settlement]:
        """Settles an attempt and makes the next. Returns the one that is to be settled then."""
        news = self._news
        # on_result may take its time, and a lease would run meanwhile.
        take = not self._stopping.is_set() and not (made and self._on_result)
        try:
            exchange = self._storage.exchange(made, lease=self._lease, take=take)
        except OutboxError as error:
            self._trouble.begin("%s Nothing is sent.", error)
            # What cannot be settled now is settled later, or sent again under the same key.
            return None if self._stopping.wait(STORAGE_BACKOFF) else made
        if made or exchange.claim:
            self._trouble.end()
        if exchange.claim and self._stopping.is_set():
            # close() may have looked for what is under way just before.
            self._storage.excuse()
        self._tell(made, exchange)
        if exchange.claim:
            self._wake_another()
            self._wait_for_turn()
            return self._attempt(exchange.claim)
        if exchange.wait > 0:
            self._wait(news, exchange.wait)
        return None

    def _attempt(self, claim: Claim) -> Settlement:
        """Makes one attempt. What a delivery of the user's own raises is a failure too."""
        try:
            result = self._carrier.deliver(claim.event)
            ruling = verdicts.judge(result, claim.attempts, claim.unknown)
        except BaseException as error:  # noqa: BLE001, a cancelled task's or a timeout's too
            # Its text may hold what nobody may see.
            name, key = type(error).__name__, claim.event.idempotency_key
            self._carrier_trouble.begin("Events wait, for they cannot be handed on: %s", name)
            result = results.not_queued(f"It cannot be handed on: {name}.", key, attempts=1)
            return Settlement(claim, verdicts.judge(result, claim.attempts, claim.unknown))
        self._carrier_trouble.end()
        return Settlement(claim, ruling)

    def _wait(self, news: int, seconds: float) -> None:
        """Waits until there may be something to send."""
        with self._lock:
            if self._stopping.is_set() or news != self._news:
                return
            until = monotonic() + min(seconds, POLL)
            if until >= self._watched_until:
                self._changed.wait()
                return
            # It has to look before the one that watches so far, and takes over from that.
            self._watched_until = until
            self._changed.wait(min(seconds, POLL))
            if self._watched_until == until:
                self._watched_until = float("inf")

    def _wait_for_turn(self) -> None:
        """Keeps the rate of all threads together; one that is to stop does not wait."""
        if self._interval:
            with self._lock:
                turn = max(monotonic(), self._next_turn)
                self._next_turn = turn + self._interval
            self._stopping.wait(turn - monotonic())

    def _wake_another(self) -> None:
        """Lets another thread look: where there was one event there may be more."""
        with self._lock:
            self._changed.notify()

    def _tell(self, made: Optional[Settlement], exchange: Exchange) -> None:
        """Tells the log and the caller's function what has become of events."""
        if made and exchange.change == "paused":
            ruling = made.ruling
            _log.warning("The outbox is paused: status %d, %s", ruling.status, ruling.error)
        elif exchange.change:
            _log.info("The outbox sends again")
        if made and exchange.fate in {"delivered", "dead"}:
            event, result = made.claim.event, made.ruling.result
            if result["success"] is False:
                logs.gave_up(event, result)
            tell(self._on_result, event, result)
        for buried in exchange.buried:
            if buried.event:
                key = buried.event.idempotency_key
                result = results.not_queued(buried.error, key, attempts=buried.attempts)
                logs.gave_up(buried.event, result)
                tell(self._on_result, buried.event, result)


def _close(carrier: Delivery) -> None:
    try:
        carrier.close()
    except Exception as error:  # noqa: BLE001, it is the user's own, and gone either way
        _log.error("A delivery cannot be closed: %s", type(error).__name__)


def _check_path(path: object) -> None:
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(name, str) or not name or "\0" in name or name == ":memory:":
        raise ValueError("path must be the path of a file, as text or a Path")


def _check_int(name: str, value: object, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"{name} must be an int from 1 to {most}")


def _check_rate(rate: object) -> None:
    is_number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
    if rate is not None and not (is_number and LOWEST_RATE <= cast(float, rate) <= HIGHEST_RATE):
        raise ValueError(f"rate must be a number of requests a second, {LOWEST_RATE} to 1000000")


_outboxes: weakref.WeakSet[Outbox] = weakref.WeakSet()


def _living() -> tuple[Outbox, ...]:
    while True:
        # Another thread may just be making one.
        with suppress(RuntimeError):
            return tuple(_outboxes)


@atexit.register
def _close_all() -> None:
    now = monotonic()
    for outbox in _living():
        outbox.close_until(now + outbox.drain_timeout)


def _forget_all() -> None:
    for outbox in _outboxes:
        outbox.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
