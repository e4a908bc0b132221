"""One client serves all threads and forks of a program, for as long as it runs."""

from __future__ import annotations

import gc
import logging
import os
import signal
import ssl
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import trustme
from fault_server import (
    Behaviour,
    FaultServer,
    Visit,
    answer,
    close_after_answer,
    close_after_reading,
    echo,
    echo_once,
    every_time,
    garbage,
    plain_http,
    reset_after_reading,
    silent,
    tunnel,
)
from forking import exit_status, fork, forks, threads_beside_fork
from needed import needs
from waiting import handling, restless_threads

from cms_python import ApiClient, CMSClient, Configuration, TrackingApi
from cms_python.delivery.direct import Direct

CALLS = 100
SOAK_CALLS = int(os.environ.get("CMS_SOAK_CALLS", "1000"))
OPEN_FILES = Path("/proc/self/fd")


def lead(client: CMSClient, name: str) -> object:
    """The data that comes back, which is the event's name where the answer is the caller's own."""
    result = client.track_lead(name, "user_42", click_id="id_123")
    assert result["success"] is True, result
    return result["data"]


def lead_each(client: CMSClient, names: list[str]) -> None:
    assert names == [lead(client, name) for name in names]


def names_of(caller: str) -> list[str]:
    return [f"{caller}-{number}" for number in range(CALLS)]


def arrivals(server: FaultServer) -> Counter[str]:
    return Counter(request.json["eventName"] for request in server.requests)


def connections_of(server: FaultServer, caller: str) -> set[int]:
    return {
        request.connection
        for request in server.requests
        if request.json["eventName"].startswith(caller)
    }


# Threads


def test_32_threads_share_a_client() -> None:
    """Each of 3,200 events arrives once, and each caller gets the answer to its own."""
    callers = [f"thread-{number}" for number in range(32)]
    with FaultServer() as server, ThreadPoolExecutor(32) as pool:
        client = CMSClient("token", server.url, timeout=30)
        list(pool.map(lambda caller: lead_each(client, names_of(caller)), callers))
        client.close()
    assert Counter(name for caller in callers for name in names_of(caller)) == arrivals(server)
    assert 32 * CALLS == len(set(server.keys))
    assert server.connections <= 32


def test_threads_share_a_client_whose_connections_break() -> None:
    """Where the server closes connections as it likes, nothing is lost and nobody mixed up."""
    callers = [f"thread-{number}" for number in range(8)]
    behaviour = every_time(echo, close_after_answer, echo, reset_after_reading, echo)
    with FaultServer(behaviour) as server:
        client = CMSClient("token", server.url, timeout=60, max_retries=10)
        with client, ThreadPoolExecutor(8) as pool:
            names = {caller: names_of(caller)[:20] for caller in callers}
            list(pool.map(lambda caller: lead_each(client, names[caller]), callers))
    assert {name for each in names.values() for name in each} == set(arrivals(server))
    keys = {(request.json["eventName"], request.key) for request in server.requests}
    assert 8 * 20 == len(keys)


def test_threads_meet_at_an_unused_client() -> None:
    """The first calls of many threads at once share one pool of connections."""
    barrier = threading.Barrier(16)

    def call_at_once(number: int) -> object:
        barrier.wait(timeout=20)
        return lead(client, f"first-{number}")

    with FaultServer() as server, ThreadPoolExecutor(16) as pool:
        client = CMSClient("token", server.url)
        answers = list(pool.map(call_at_once, range(16)))
        assert [f"first-{number}" for number in range(16)] == answers
        used = server.connections
        lead(client, "later")
        client.close()
    assert used == server.connections


def test_close_while_other_threads_call() -> None:
    """close() in the midst of calls fails none of them, nor makes one send twice."""
    callers = [f"thread-{number}" for number in range(4)]
    with FaultServer() as server, restless_threads(), ThreadPoolExecutor(4) as pool:
        client = CMSClient("token", server.url, timeout=30, max_retries=0)
        calls = [pool.submit(lead_each, client, names_of(caller)) for caller in callers]
        while not all(call.done() for call in calls):
            client.close()
        for call in calls:
            call.result()
        client.close()
        server.wait_until_idle()
    assert 4 * CALLS == len(server.requests)


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from cms_python import CMSClient, Outbox
url, path = sys.argv[1:]
for delivery in (None, Outbox(path)):
    client = CMSClient("token", url, timeout=30, delivery=delivery)
    for _ in range(2):
        calls = [gevent.spawn(client.track_lead, "signup", "user_42", "id_123") for _ in range(20)]
        gevent.joinall(calls, raise_error=True)
        assert all(call.value["success"] for call in calls)
        assert client.flush(timeout=20)
        client.close()
print("done")
"""


@needs("gevent")
def test_greenlets_share_a_client(tmp_path: Path) -> None:
    """Where gevent makes greenlets of threads, as gunicorn can, none waits for another's answer."""
    all_are_waiting = threading.Event()
    with FaultServer(echo_once(all_are_waiting)) as server:
        command = [sys.executable, "-c", GREENLETS, server.url, str(tmp_path / "events.db")]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
            server.wait_for_requests(20)
            all_are_waiting.set()
            assert ("done\n", "") == process.communicate(timeout=60)
        assert 80 == len(set(server.keys)) == len(server.keys)


# Imports

CALLS_OF_ALL_KINDS = """
import sys
from cms_python import CMSClient, Outbox
url, not_https, path = sys.argv[1:]
before = set(sys.modules)
for delivery in (None, Outbox(path)):
    with CMSClient("token", url, delivery=delivery) as client:
        for moment in ("2026-01-31T09:30:00Z", "never"):
            print(client.track_lead("signup", "user_42", timestamp=moment)["success"])
        assert client.flush(timeout=20)
with CMSClient("token", not_https) as client:
    print(client.track_sale("id_123", "bought", "user_42", "inv_1", 4999, "USD")["type"])
print(sorted(set(sys.modules) - before))
"""


def test_no_call_imports_anything(tmp_path: Path) -> None:
    """A signal's handler would find half a module; a fork's child would wait for the rest."""
    with FaultServer() as server, FaultServer(plain_http) as other:
        arguments = [server.url, other.url.replace("http", "https"), str(tmp_path / "events.db")]
        ran = subprocess.run(
            [sys.executable, "-c", CALLS_OF_ALL_KINDS, *arguments],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert ("True\nFalse\n" * 2 + "tls_error\n[]\n", "") == (ran.stdout, ran.stderr)


# Signals


@forks
@threads_beside_fork
def test_a_signals_handler_tracks_while_the_first_call_makes_its_connections(
    tmp_path: Path,
) -> None:
    """A SIGTERM that is tracked, or a debugger's signal, does not wait for what it interrupted."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    # Whoever reads the CA file waits here, inside the first call, until the signal is sent.
    ca_file = tmp_path / "ca.pem"
    os.mkfifo(ca_file)

    def handle(*_: object) -> None:
        ca_file.unlink()
        ca_file.write_bytes(authority.cert_pem.bytes())
        lead(client, "from the handler")

    def interrupt() -> None:
        with ca_file.open("wb") as pipe:
            pipe.write(authority.cert_pem.bytes())
            pipe.flush()
            os.kill(os.getpid(), signal.SIGUSR1)

    def track() -> None:
        signal.signal(signal.SIGUSR1, handle)
        signal.siginterrupt(signal.SIGUSR1, False)
        threading.Thread(target=interrupt).start()
        lead(client, "interrupted")

    with FaultServer(tls=context) as server:
        configuration = Configuration(host=server.url, ssl_ca_cert=str(ca_file))
        client = CMSClient("token", configuration=configuration)
        assert exit_status(fork(track)) == 0
    assert Counter(["from the handler", "interrupted"]) == arrivals(server)


# Forks


@forks
@threads_beside_fork
def test_4_children_share_a_used_client() -> None:
    """Each child and the parent send on connections of their own; each event arrives once."""
    callers = [f"child-{number}" for number in range(4)]
    with FaultServer() as server, CMSClient("token", server.url, timeout=30) as client:
        lead(client, "parent-before")
        children = [fork(partial(lead_each, client, names_of(caller))) for caller in callers]
        lead_each(client, names_of("parent"))
        assert [0] * 4 == [exit_status(child) for child in children]
    expected = [name for caller in [*callers, "parent"] for name in names_of(caller)]
    assert Counter([*expected, "parent-before"]) == arrivals(server)
    assert len(expected) + 1 == len(set(server.keys))
    used = [connections_of(server, caller) for caller in [*callers, "parent"]]
    assert sum(map(len, used)) == len(set().union(*used))
    assert {1} == connections_of(server, "parent")


@forks
@threads_beside_fork
def test_a_fork_while_another_thread_holds_the_lock() -> None:
    """A child does not wait for a lock whose holder it has not got."""
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with api_client.rest_client._lock:
            held.set()
            release.wait(timeout=30)

    with FaultServer() as server:
        api_client = ApiClient(Configuration(host=server.url, access_token="token"))
        direct = Direct(TrackingApi(api_client), timeout=10, max_retries=0)
        holder = threading.Thread(target=hold)
        holder.start()
        assert held.wait(timeout=20)
        with CMSClient("token", server.url, delivery=direct) as client:
            child = fork(lambda: lead(client, "child"))
            assert 0 == exit_status(child)
            release.set()
            holder.join()
            lead(client, "parent")
    assert Counter(["child", "parent"]) == arrivals(server)


@forks
@threads_beside_fork
def test_a_fork_while_another_thread_waits_for_its_answer() -> None:
    """The child calls on a connection of its own, and the parent's thread gets its own answer."""
    answer_now = threading.Event()

    held = echo_once(answer_now)

    def hold_the_first(visit: Visit) -> None:
        (held if visit.number == 1 else echo)(visit)

    with FaultServer(hold_the_first) as server, ThreadPoolExecutor(1) as pool:
        client = CMSClient("token", server.url, timeout=30, max_retries=0)
        waiting = pool.submit(lead, client, "parent")
        server.wait_for_requests(1)
        child = fork(lambda: lead_each(client, names_of("child")))
        assert 0 == exit_status(child)
        answer_now.set()
        assert "parent" == waiting.result(timeout=30)
        client.close()
    assert Counter(["parent", *names_of("child")]) == arrivals(server)
    assert not connections_of(server, "parent") & connections_of(server, "child")


@forks
@threads_beside_fork
def test_a_fork_of_a_fork() -> None:
    """A grandchild has connections of its own as well."""

    def descend() -> None:
        lead(client, "child")
        assert 0 == exit_status(fork(lambda: lead(client, "grandchild")))
        lead(client, "child-again")

    with FaultServer() as server, CMSClient("token", server.url) as client:
        lead(client, "parent")
        assert 0 == exit_status(fork(descend))
        lead(client, "parent-again")
    assert [1, 2, 3, 2, 1] == [request.connection for request in server.requests]


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no such signals")
def test_a_signals_handler_has_a_deadline_of_its_own(tmp_path: Path) -> None:
    """It tracks while a call waits for its connection, and takes no time away from that call."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    handled = threading.Event()

    def interrupt(visit: Visit) -> None:
        # Again if need be: a thread that was just about to block handles it only when that is over.
        for _ in range(20):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            if handled.wait(timeout=1):
                break
        tunnel(visit)

    def handle() -> None:
        with FaultServer(silent) as hanging, CMSClient("token", hanging.url, timeout=0.1) as other:
            assert other.track_lead("from the handler", "user_42")["success"] is False
        handled.set()

    with FaultServer(interrupt) as proxy, FaultServer(tls=context) as server:
        own = Configuration(proxy=proxy.url, ssl_ca_cert=str(tmp_path / "ca.pem"))
        client = CMSClient("token", server.url, timeout=20, configuration=own)
        with client, handling(signal.SIGUSR1, handle):
            lead(client, "interrupted")
    assert ["interrupted"] == list(arrivals(server))


# For a long time


def open_files() -> int:
    return len(list(OPEN_FILES.iterdir()))


@pytest.mark.skipif(not OPEN_FILES.exists(), reason="open files are counted in /proc")
def test_a_soak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of calls, good and bad, leave no file open and let no memory grow."""
    # pytest would keep each record of the log.
    monkeypatch.setattr(logging.getLogger("cms_python"), "propagate", False)
    faults: list[Behaviour] = [
        *[echo] * 5,
        close_after_answer,
        reset_after_reading,
        close_after_reading,
        garbage,
        answer(500, "{}"),
        answer(200, "not JSON"),
    ]
    with FaultServer(every_time(*faults)) as server, ThreadPoolExecutor(4) as pool:
        # What earlier tests have left behind must not go in the midst of this one.
        gc.collect()
        files = open_files()
        client = CMSClient("token", server.url, timeout=30, max_retries=0)

        def soak(calls: int) -> int:
            """Makes so many calls. Returns the bytes that are in use after them."""
            for _ in range(0, calls, 100):
                results = list(pool.map(lambda _: client.track_lead("soak", "user_42"), range(100)))
                assert any(result["success"] for result in results)
                server.forget()
                # Four connections, and some that the server has not got round to closing.
                assert open_files() < files + 100
            client.close()
            server.wait_until_idle()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            warm = soak(300)
            grown = soak(SOAK_CALLS) - warm
        finally:
            tracemalloc.stop()
        assert files == open_files()
    # A leak of 50 bytes a call would be more.
    assert grown < 100_000
