"""Whatever happens to an outbox's file, in whatever order, its promises hold."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from cms_python import Event
from cms_python.delivery.storage import (
    LEAST_JUMP,
    MOST_UNANSWERED,
    Claim,
    Exchange,
    OutboxError,
    Settlement,
    Storage,
)
from cms_python.delivery.verdicts import Ruling, Verdict
from cms_python.results import success

LEASE = 15.0
LONGEST_WAIT = 400.0
MAX_AGE = 3600.0
MAX_EVENTS = 12
START = 1_700_000_000.0
# In memory where that is possible: no power fails here, and disks are slow to sync.
MEMORY = Path("/dev/shm")
CUSTOMERS = ["anna", "ben"]
PROCESSES = 2


class Clock:
    """The time of all processes, which passes when it is told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def made(number: int, customer: str) -> Event:
    fields = {"event_name": f"{number}", "customer_external_id": customer}
    return Event.create("lead", fields, f"key-{number}")


def settled(claim: Claim, verdict: Verdict, status: int = 0, **waits: float) -> Settlement:
    error, unknown = f"{verdict} {status}", status == 404
    ruling = Ruling(verdict, success("Not looked at"), status, error, unknown=unknown, **waits)
    return Settlement(claim, ruling)


class OutboxMachine(RuleBasedStateMachine):
    """Two processes that share a file, their clock, and what must have become of each event."""

    claims: Bundle[tuple[int, Claim]] = Bundle("claims")

    @initialize()
    def start(self) -> None:
        memory = MEMORY if MEMORY.is_dir() else None
        self.folder = Path(tempfile.mkdtemp(dir=memory))
        self.path = self.folder / "events.db"
        self.clock = Clock()
        self.storages = [self.opened() for _ in range(PROCESSES)]
        # Event by number: its customer.
        self.queued: dict[int, str] = {}
        self.dead: dict[int, str] = {}
        self.delivered: list[int] = []
        # Event by number: the lease it was last claimed under, and when that ends.
        self.leases: dict[int, tuple[str, float]] = {}
        self.count = 0
        self.storages[0].stats()
        self.reader = sqlite3.connect(self.path, isolation_level=None)

    def opened(self) -> Storage:
        return Storage(self.path, max_events=MAX_EVENTS, max_age=MAX_AGE, now=self.clock)

    def teardown(self) -> None:
        if not hasattr(self, "reader"):
            return
        try:
            self.deliver_the_rest()
        finally:
            self.reader.close()
            for storage in self.storages:
                storage.close()
            shutil.rmtree(self.folder)

    # What may happen

    @rule(process=st.integers(0, PROCESSES - 1), customer=st.sampled_from(CUSTOMERS))
    def enqueue(self, process: int, customer: str) -> None:
        """A new event is taken while there is room."""
        if len(self.queued) + len(self.dead) >= MAX_EVENTS:
            with pytest.raises(OutboxError, match="full"):
                self.storages[process].add([made(self.count, customer)])
            return
        ((_, duplicate),) = self.storages[process].add([made(self.count, customer)])
        assert not duplicate
        self.queued[self.count] = customer
        self.count += 1

    @precondition(lambda self: self.queued)
    @rule(data=st.data())
    def enqueue_again(self, data: st.DataObject) -> None:
        """The key of a queued event adds nothing."""
        number = data.draw(st.sampled_from(sorted(self.queued)))
        ((_, duplicate),) = self.storages[0].add([made(number, self.queued[number])])
        assert duplicate

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def enqueue_dead(self, data: st.DataObject) -> None:
        """The key of a dead event queues it anew, behind what its customer has queued since."""
        number = data.draw(st.sampled_from(sorted(self.dead)))
        ((_, duplicate),) = self.storages[0].add([made(number, self.dead[number])])
        assert not duplicate
        self.queued[number] = self.dead.pop(number)

    @rule(target=claims, process=st.integers(0, PROCESSES - 1))
    def claim(self, process: int) -> Any:
        """A process takes what is due."""
        return self.noted(process, self.storages[process].exchange(None, lease=LEASE))

    @rule(
        target=claims,
        held=consumes(claims),
        verdict=st.sampled_from(["delivered", "again", "pause", "dead"]),
        status=st.sampled_from([0, 404, 429, 503]),
        wait=st.sampled_from([0.0, 1.0, LONGEST_WAIT]),
        hold=st.sampled_from([0.0, 0.0, 60.0]),
        take=st.booleans(),
    )
    def settle(
        self,
        held: tuple[int, Claim],
        verdict: Verdict,
        status: int,
        wait: float,
        hold: float,
        take: bool,
    ) -> Any:
        """A process comes back from an attempt, in time or too late, and may take another."""
        process, claim = held
        number = int(claim.event.payload.event_name)
        is_held = self.leases.get(number, ("", 0))[0] == claim.lease
        settlement = settled(claim, verdict, status, wait=wait, hold=hold)
        exchange = self.storages[process].exchange(settlement, lease=LEASE, take=take)
        assert is_held == (exchange.fate is not None)
        if is_held:
            del self.leases[number]
            self.note_fate(number, verdict, exchange.fate)
        return self.noted(process, exchange)

    @rule(seconds=st.sampled_from([0.5, 2.0, LEASE + 1, LEASE + 1, 301.0, MAX_AGE]))
    def time_passes(self, seconds: float) -> None:
        """Waits and leases run out."""
        self.clock.now += seconds

    @rule(seconds=st.sampled_from([0.5, 30.0, 86_400.0]))
    def clock_jumps_back(self, seconds: float) -> None:
        """Somebody sets the clock right."""
        self.clock.now -= seconds
        # The jump is followed at the next look into the file; leases move along with it.
        self.leases = {number: (lease, float("-inf")) for number, (lease, _) in self.leases.items()}

    @rule(process=st.integers(0, PROCESSES - 1))
    def kill(self, process: int) -> None:
        """A process ends without a word; its successor has no memory of claims."""
        self.storages[process].close()
        self.storages[process] = self.opened()

    @rule()
    def restart_senders(self) -> None:
        """The senders of a process start."""
        self.storages[0].probe_soon()

    @rule()
    def retry_dead(self) -> None:
        """Dead events are queued again."""
        assert len(self.dead) == self.storages[0].retry_dead()
        self.queued.update(self.dead)
        self.dead = {}

    @rule()
    def purge_dead(self) -> None:
        """Dead events are forgotten, and nothing else is."""
        assert len(self.dead) == self.storages[0].purge_dead()
        self.dead = {}

    # What must have come of it

    def note_fate(self, number: int, verdict: Verdict, fate: Optional[str]) -> None:
        if verdict == "delivered":
            del self.queued[number]
            self.delivered.append(number)
        elif fate == "dead":
            assert verdict in {"dead", "again"}
            self.dead[number] = self.queued.pop(number)
        else:
            assert "again" == fate

    def noted(self, process: int, exchange: Exchange) -> Any:
        """Checks a claim against all that is known, and remembers it."""
        for buried in exchange.buried:
            assert buried.event is not None
            assert "The program ended" in buried.error
            number = int(buried.event.payload.event_name)
            self.leases.pop(number, None)
            self.dead[number] = self.queued.pop(number)
        claim = exchange.claim
        if claim is None:
            return multiple()
        number = int(claim.event.payload.event_name)
        assert number in self.queued
        _, ends = self.leases.get(number, ("", float("-inf")))
        assert ends <= self.clock.now, "claimed twice at a time"
        # What is on its way cannot be overtaken by what was dead and is queued again.
        is_first = number == self.first_of(self.queued[number])
        assert is_first or number in self.leases, "claimed out of order"
        self.leases[number] = (claim.lease, self.clock.now + LEASE)
        return process, claim

    def first_of(self, customer: str) -> int:
        return next(row[0] for row in self.rows() if row[2] == customer and row[1] != "dead")

    @invariant()
    def nothing_is_lost_and_the_counts_are_true(self) -> None:
        """Each event that was taken is queued, dead, delivered or purged, and counted so."""
        states = {number: state for number, state, _ in self.rows()}
        assert {*self.queued} == {each for each, state in states.items() if state != "dead"}
        assert {*self.dead} == {each for each, state in states.items() if state == "dead"}
        stats = self.storages[0].stats()
        counts = stats.queued, stats.dead, stats.delivered
        assert (len(self.queued), len(self.dead), len(self.delivered)) == counts
        assert stats.sending + stats.waiting <= stats.queued

    @invariant()
    def one_event_of_each_customer_is_ready(self) -> None:
        """It is the oldest, if none is on its way."""
        ready = {customer: number for number, state, customer in self.rows() if state == "ready"}
        assert len(ready) == sum(state == "ready" for _, state, _ in self.rows())
        assert {*self.queued.values()} == {*ready}
        for customer, number in ready.items():
            assert number == self.first_of(customer) or number in self.leases

    def rows(self) -> list[tuple[int, str, str]]:
        """Number, state and customer of all events, in the order in which they were queued."""
        rows = self.reader.execute("SELECT key, state, customer FROM events ORDER BY id")
        return [(int(key.partition("-")[2]), state, customer) for key, state, customer in rows]

    def deliver_the_rest(self) -> None:
        """Whatever came before, once the API is well again every queued event is delivered."""
        storage = self.storages[0]
        for _ in range(3 * MAX_EVENTS * MOST_UNANSWERED):
            if not self.queued:
                return
            exchange = storage.exchange(None, lease=LEASE)
            self.noted(0, exchange)
            if exchange.claim:
                self.settle_at_once(exchange.claim)
            else:
                assert 0 < exchange.wait <= LONGEST_WAIT + 2 * LEAST_JUMP
                self.clock.now += exchange.wait + 0.001
        assert not self.queued

    def settle_at_once(self, claim: Claim) -> None:
        number = int(claim.event.payload.event_name)
        self.storages[0].exchange(settled(claim, "delivered", 200), lease=LEASE, take=False)
        del self.leases[number]
        self.note_fate(number, "delivered", "delivered")


TestOutboxMachine = OutboxMachine.TestCase
# A run is the same each time, and a failing example is told as it is: each takes its time.
TestOutboxMachine.settings = settings(
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    max_examples=100,
    stateful_step_count=60,
    suppress_health_check=[HealthCheck.too_slow],
)


# One after the other


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def storage(clock: Clock) -> Iterator[Storage]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        made = Storage(Path(folder) / "events.db", max_events=1000, max_age=MAX_AGE, now=clock)
        yield made
        made.close()


def add(storage: Storage, *customers: str) -> None:
    """Queues an event of each, numbered from 0 on."""
    storage.add([made(number, customer) for number, customer in enumerate(customers)])


def claimed(storage: Storage, done: Optional[Settlement] = None) -> Claim:
    claim = storage.exchange(done, lease=LEASE).claim
    assert claim is not None
    return claim


def wait(storage: Storage, done: Optional[Settlement] = None) -> float:
    """The seconds until there is something to claim."""
    exchange = storage.exchange(done, lease=LEASE)
    assert exchange.claim is None
    return exchange.wait


def test_a_late_finisher_cannot_steal(storage: Storage, clock: Clock) -> None:
    """Once another process has the event, the first one's word on it is not heard."""
    add(storage, "anna")
    late = claimed(storage)
    assert LEASE == wait(storage)
    clock.now += LEASE
    second = claimed(storage)
    assert (1, 2) == (late.attempts, second.attempts)
    verdicts: list[Verdict] = ["delivered", "again", "pause", "dead"]
    for verdict in verdicts:
        exchange = storage.exchange(settled(late, verdict, 422), lease=LEASE, take=False)
        assert Exchange() == exchange
    assert (1, 1) == (storage.stats().queued, storage.stats().sending)
    exchange = storage.exchange(settled(second, "delivered", 200), lease=LEASE)
    assert "delivered" == exchange.fate


def test_a_late_finisher_is_heard_while_nobody_else_has_the_event(
    storage: Storage, clock: Clock
) -> None:
    """What was delivered late need not be sent again."""
    add(storage, "anna")
    late = claimed(storage)
    clock.now += 10 * LEASE
    done = settled(late, "delivered", 200)
    assert "delivered" == storage.exchange(done, lease=LEASE).fate
    assert 0 == storage.queued()


def test_who_comes_back_after_the_lease_has_not_crashed(storage: Storage, clock: Clock) -> None:
    """An event whose attempts take long, such as for a host's name, is not given up for it."""
    add(storage, "anna")
    late = claimed(storage)
    for _ in range(2 * MOST_UNANSWERED):
        clock.now += LEASE
        before, late = late, claimed(storage)
        storage.exchange(settled(before, "again"), lease=LEASE, take=False)
    assert 0 == storage.stats().dead


def test_a_process_does_not_take_what_its_own_thread_has_in_hand(
    storage: Storage, clock: Clock
) -> None:
    """However long the attempt takes: it is made once at a time, and its outcome counts."""
    add(storage, "anna", "ben")
    with ThreadPoolExecutor(1) as slow, ThreadPoolExecutor(1) as lost:
        claim = slow.submit(claimed, storage).result()
        lost.submit(claimed, storage).result()
        for _ in range(2 * MOST_UNANSWERED):
            clock.now += LEASE
            assert LEASE == wait(storage)
        lost.submit(storage.let_go).result()
        clock.now += LEASE
        assert "ben" == claimed(storage).event.payload.customer_external_id
        done = settled(claim, "delivered", 200)
        assert "delivered" == slow.submit(storage.exchange, done, lease=LEASE).result().fate


def test_an_attempt_that_a_program_ends_in_does_not_count(storage: Storage, clock: Clock) -> None:
    """If the program ends in good order; its request may still be answered for as long."""
    add(storage, "anna")
    claim = claimed(storage)
    for _ in range(2 * MOST_UNANSWERED):
        storage.excuse()
        assert LEASE == wait(storage)
        clock.now += LEASE
        claim = claimed(storage)
    done = settled(claim, "delivered", 200)
    assert "delivered" == storage.exchange(done, lease=LEASE).fate


def test_what_is_on_its_way_is_not_overtaken_by_the_dead(storage: Storage, clock: Clock) -> None:
    """Retried ones go before later events of their customer, but never beside one."""
    add(storage, "anna", "anna", "anna")
    second = claimed(storage, settled(claimed(storage), "dead", 422))
    storage.retry_dead()
    assert LEASE == wait(storage)
    retried = claimed(storage, settled(second, "again", 503, wait=1.0))
    assert "0" == retried.event.payload.event_name
    assert "1" == claimed_after(storage, clock, settled(retried, "delivered", 200))


def claimed_after(storage: Storage, clock: Clock, done: Settlement) -> str:
    """The event that is claimed next, after the wait for it."""
    clock.now += wait(storage, done)
    return claimed(storage).event.payload.event_name


def test_events_are_taken_in_the_order_in_which_they_are_due(storage: Storage) -> None:
    """Nobody is passed over."""
    add(storage, "anna", "ben", "carl", "dora")
    assert [f"{number}" for number in range(4)] == [
        claimed(storage).event.payload.event_name for _ in range(4)
    ]


def test_probes_become_rarer_up_to_five_minutes(storage: Storage, clock: Clock) -> None:
    """A wrong token is not asked about all the time."""
    add(storage, "anna", "ben")
    first, other = claimed(storage), claimed(storage)
    assert 5.0 == wait(storage, settled(first, "pause", 401))
    # What had been on its way neither prolongs the pause nor ends it.
    assert 5.0 == wait(storage, settled(other, "pause", 401))
    waits = []
    for _ in range(8):
        clock.now += wait(storage)
        probe = claimed(storage)
        assert probe.probe
        assert LEASE == wait(storage)
        waits.append(wait(storage, settled(probe, "pause", 401)))
    assert [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0] == waits
    assert "pause 401" == storage.stats().paused


@pytest.mark.parametrize(
    ("verdict", "status", "change"),
    [
        ("delivered", 200, "resumed"),
        ("dead", 422, "resumed"),
        ("again", 404, "resumed"),
        ("again", 503, None),
        ("again", 429, None),
        ("again", 0, None),
    ],
)
def test_what_ends_a_pause(
    storage: Storage, clock: Clock, verdict: Verdict, status: int, change: Optional[str]
) -> None:
    """An answer that only a good token gets; not that of a gateway, and not silence."""
    add(storage, "anna", "ben")
    clock.now += wait(storage, settled(claimed(storage), "pause", 401))
    done = settled(claimed(storage), verdict, status, wait=100.0)
    exchange = storage.exchange(done, lease=LEASE)
    assert change == exchange.change
    assert (exchange.claim is None) == (change is None) == (storage.stats().paused is not None)


def test_a_straggler_does_not_end_a_pause(storage: Storage) -> None:
    """It was sent before the token expired."""
    add(storage, "anna", "ben", "carl")
    first, straggler = claimed(storage), claimed(storage)
    storage.exchange(settled(first, "pause", 401), lease=LEASE, take=False)
    exchange = storage.exchange(settled(straggler, "delivered", 200), lease=LEASE)
    assert (None, None) == (exchange.change, exchange.claim)


def test_a_server_that_is_silent_for_long_is_asked_less_often(
    storage: Storage, clock: Clock
) -> None:
    """In an outage the events wait together instead of failing one by one; an answer ends it."""
    add(storage, *(f"user_{number}" for number in range(40)))
    waits = []
    claim = claimed(storage)
    for _ in range(16):
        exchange = storage.exchange(settled(claim, "again", 0, wait=1000.0), lease=LEASE)
        waits.append(round(exchange.wait, 3) if exchange.claim is None else 0.0)
        clock.now += waits[-1]
        claim = exchange.claim or claimed(storage)
    assert [0.0] * 5 == waits[:5]
    assert [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0] == waits[5:]
    claim = claimed(storage, settled(claim, "again", 503, wait=1000.0))
    claimed(storage, settled(claim, "again", 0, wait=1000.0))


def silent_server(storage: Storage) -> list[Claim]:
    """Lets attempts go unanswered until only probes are made; returns two that are still out."""
    add(storage, *(f"user_{number}" for number in range(40)))
    stragglers = [claimed(storage), claimed(storage)]
    claim = claimed(storage)
    for _ in range(5):
        claim = claimed(storage, settled(claim, "again", 0, wait=1000.0))
    assert 0.1 == pytest.approx(wait(storage, settled(claim, "again", 0, wait=1000.0)))
    return stragglers


def test_what_was_on_its_way_does_not_make_a_silence_longer(storage: Storage, clock: Clock) -> None:
    """Many senders that run into one outage hold the file up no longer than one does."""
    for straggler in silent_server(storage):
        assert 0.1 == pytest.approx(wait(storage, settled(straggler, "again", 0, wait=1000.0)))
    clock.now += 0.1
    assert claimed(storage).probe
    # The others wait for what becomes of it.
    assert LEASE == wait(storage)


@pytest.mark.parametrize("status", [200, 503])
def test_any_answer_ends_a_silence(storage: Storage, status: int) -> None:
    """Also one to an attempt that was made before it."""
    straggler, _ = silent_server(storage)
    verdict: Verdict = "delivered" if status == 200 else "again"
    claim = claimed(storage, settled(straggler, verdict, status, wait=1000.0))
    assert not claim.probe


def test_a_restart_ends_the_wait_of_a_silence(storage: Storage, clock: Clock) -> None:
    """Whoever starts the program anew sees at once whether the server answers."""
    silent_server(storage)
    for _ in range(10):
        clock.now += wait(storage)
        probe = claimed(storage)
        storage.exchange(settled(probe, "again", 0, wait=1000.0), lease=LEASE, take=False)
    assert 30.0 == pytest.approx(wait(storage))
    storage.probe_soon()
    assert 0.1 == pytest.approx(
        wait(storage, settled(claimed(storage), "again", 0, wait=1000.0)), abs=0.2
    )


def test_a_restart_keeps_the_time_that_the_server_asked_for(storage: Storage) -> None:
    """Retry-After is for all of a program, however often it is started."""
    add(storage, "anna", "ben")
    done = settled(claimed(storage), "again", 429, wait=60.0, hold=60.0)
    storage.exchange(done, lease=LEASE, take=False)
    storage.probe_soon()
    assert 60.0 == wait(storage)


def test_waits_move_along_when_the_clock_jumps_back(storage: Storage, clock: Clock) -> None:
    """Nothing waits a day longer because a clock was a day ahead."""
    add(storage, "anna", "ben", "ben")
    held = claimed(storage, settled(claimed(storage), "again", 503, wait=100.0))
    clock.now -= 86_400
    assert LEASE == wait(storage)
    clock.now += LEASE
    second = claimed(storage)
    assert held.row == second.row
    # The next of the same customer was queued in what is the future now.
    third = claimed(storage, settled(second, "delivered", 200))
    assert 100.0 - LEASE == wait(storage, settled(third, "delivered", 200))


def test_a_hold_moves_along_when_the_clock_jumps_back(storage: Storage, clock: Clock) -> None:
    """Nor does a server's Retry-After become a day longer."""
    add(storage, "anna", "ben")
    done = settled(claimed(storage), "again", 429, wait=60.0, hold=60.0)
    assert 60.0 == wait(storage, done)
    clock.now -= 86_400
    assert 60.0 == wait(storage)


def test_what_is_too_old_dies_at_its_next_failure(storage: Storage, clock: Clock) -> None:
    """Its age counts from when it was queued, or queued again."""
    add(storage, "anna")
    clock.now += MAX_AGE + 1
    done = settled(claimed(storage), "again", 503)
    assert "dead" == storage.exchange(done, lease=LEASE).fate
    storage.retry_dead()
    done = settled(claimed(storage), "again", 503)
    assert "again" == storage.exchange(done, lease=LEASE, take=False).fate
    # A pause is not the event's fault.
    clock.now += MAX_AGE + 1
    done = settled(claimed(storage), "pause", 401)
    assert "again" == storage.exchange(done, lease=LEASE).fate
