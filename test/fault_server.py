"""A local server that misbehaves on purpose, and remembers every request that reached it.

    with FaultServer(in_turn(reset_after_reading, echo)) as server:
        client = CMSClient("token", server.url)

A behaviour is a function of a `Visit`: a connection on which the first bytes of a request have
arrived. It reads the request or not, sends what it likes, waits, closes, resets. Where it leaves
the connection open, the next request on it is the next visit.
"""

from __future__ import annotations

import gzip
import itertools
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from time import monotonic
from typing import Any, NamedTuple, Union

from typing_extensions import Self

__all__ = [
    "MEBIBYTE",
    "RECORDED",
    "WRAPPING",
    "Behaviour",
    "FaultServer",
    "Request",
    "Visit",
    "answer",
    "answer_late",
    "answer_then_more",
    "close_after_answer",
    "close_after_reading",
    "close_once",
    "cut_off",
    "deep_json",
    "drip_body",
    "drip_header",
    "echo",
    "echo_once",
    "endless_body",
    "endless_chunk",
    "endless_headers",
    "endless_informational",
    "every_time",
    "flood_of_informational",
    "full_queue",
    "garbage",
    "gzip_bomb",
    "huge",
    "in_turn",
    "informational",
    "nobody_listens",
    "plain_http",
    "raw",
    "redirect",
    "reset_after_reading",
    "reset_before_reading",
    "short_body",
    "silent",
    "silent_before_reading",
    "slow_tunnel",
    "stall_in_body",
    "trickle_body",
    "tunnel",
]

RECORDED = {"success": True, "message": "Recorded", "data": {"id": "evt_1"}}
PAUSE = 0.02
MEBIBYTE = 1024 * 1024
WRAPPING = '{"success": true, "data": "%s"}'


class Request(NamedTuple):
    """A request as it arrived. Header names are in lower case, connections count from 1."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def key(self) -> str | None:
        return self.headers.get("idempotency-key")


class _Over(Exception):
    """The client has left, or the server stops."""


class Visit:
    """A connection on which bytes have arrived, and all that a behaviour may do with it."""

    def __init__(self, server: FaultServer, sock: socket.socket, number: int) -> None:
        self.server = server
        self.sock = sock
        self.number = number
        self.open = True
        self._unread = b""

    def receive(self) -> None:
        """Waits for more bytes."""
        data = self.sock.recv(4096)
        if not data:
            raise _Over
        self._unread += data

    def request(self) -> Request:
        """Reads one request whole, and records it."""
        while b"\r\n\r\n" not in self._unread:
            self.receive()
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        length = int(headers.get("content-length", "0"))
        while len(self._unread) < length:
            self.receive()
        body, self._unread = self._unread[:length], self._unread[length:]
        request = Request(method, path, headers, body, self.number, monotonic())
        self.server.record(request)
        return request

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, parts: Iterator[bytes], pause: float = PAUSE) -> None:
        """Sends part after part until the client leaves."""
        for part in parts:
            self.send(part)
            self.wait(pause)

    def wait(self, seconds: float) -> None:
        """Waits, though not for longer than the server runs."""
        if self.server.stopping.wait(seconds):
            raise _Over

    def wait_for_leave(self) -> None:
        """Sends nothing more until the client leaves."""
        while True:
            self.receive()

    def close(self) -> None:
        """Ends the connection in good order."""
        self.open = False

    def reset(self) -> None:
        """Ends the connection by a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.open = False


Behaviour = Callable[[Visit], None]


class FaultServer:
    """Listens on this machine while its `with` block runs; a thread a connection, none left behind.

    `behaviour` decides each visit and may be replaced at any time. `requests` are those that were
    read whole. `tls` makes it speak TLS; `tls_failures` counts handshakes that came to nothing.
    """

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.behaviour = behaviour or echo
        self.requests: list[Request] = []
        self.connections = 0
        self.tls_failures = 0
        self.stopping = threading.Event()
        self._tls = tls
        self._changed = threading.Condition()
        self._open: dict[threading.Thread, socket.socket] = {}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._host = f"[{host}]" if ":" in host else host
        self._listener = socket.create_server((host, 0), family=family, backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="fault server")

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    @property
    def keys(self) -> list[str | None]:
        """The idempotency keys of the requests, in the order of arrival."""
        return [request.key for request in self.requests]

    def record(self, request: Request) -> None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def forget(self) -> None:
        """Forgets the requests so far."""
        with self._changed:
            self.requests = []

    def wait_for_requests(self, number: int) -> None:
        """Returns once so many requests have been read."""
        self._wait_for(lambda: len(self.requests) >= number)

    def wait_until_idle(self) -> None:
        """Returns once no connection is open."""
        self._wait_for(lambda: not self._open)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stopping.set()
        # Closing a listener does not wake a thread that accepts on it; a connection does.
        socket.create_connection(self._listener.getsockname()[:2]).close()
        self._acceptor.join()
        self._listener.close()
        with self._changed:
            threads = dict(self._open)
        for thread, sock in threads.items():
            with suppress(OSError):
                # An SSLSocket's own shutdown would pull the TLS state from under its thread.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            thread.join()

    def _wait_for(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, seconds), f"waited {seconds:g} s in vain"

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self.stopping.is_set():
                sock.close()
                return
            self.connections += 1
            thread = threading.Thread(
                target=self._serve, args=(sock, self.connections), name="fault server connection"
            )
            with self._changed:
                self._open[thread] = sock
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            # Answers go out in several pieces; each is meant to leave at once.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock = self._secured(sock)
            visit = Visit(self, sock, number)
            while visit.open:
                visit.receive()
                self.behaviour(visit)
        except (OSError, _Over):
            pass
        finally:
            sock.close()
            with self._changed:
                del self._open[threading.current_thread()]
                self._changed.notify_all()

    def _secured(self, sock: socket.socket) -> socket.socket:
        if not self._tls:
            return sock
        secured = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        with self._changed:
            self._open[threading.current_thread()] = secured
        try:
            secured.do_handshake()
        except OSError:
            self.tls_failures += 1
            # Closing with bytes unread would reset the connection, and the alert would be lost.
            with secured, suppress(OSError):
                socket.socket.shutdown(secured, socket.SHUT_WR)
                while socket.socket.recv(secured, 65536):
                    pass
            raise
        return secured


# Good servers


def answer(
    status: int = 200,
    body: Union[bytes, str, Mapping[str, Any]] = RECORDED,
    headers: Mapping[str, str] | None = None,
) -> Behaviour:
    """Reads the request and answers as told. A dict goes out as JSON."""

    def behave(visit: Visit) -> None:
        visit.request()
        visit.send(_response(status, body, headers))

    return behave


def echo(visit: Visit) -> None:
    """Answers a success whose data is the event's name."""
    name = visit.request().json["eventName"]
    visit.send(_response(200, {**RECORDED, "data": name}))


def echo_once(told: threading.Event) -> Behaviour:
    """Takes the request, and echoes once the event is set, or after 20 seconds."""

    def behave(visit: Visit) -> None:
        name = visit.request().json["eventName"]
        told.wait(timeout=20)
        visit.send(_response(200, {**RECORDED, "data": name}))

    return behave


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """One behaviour a visit, in this order; the last one stays."""
    turn = count()

    def behave(visit: Visit) -> None:
        behaviours[min(next(turn), len(behaviours) - 1)](visit)

    return behave


def every_time(*behaviours: Behaviour) -> Behaviour:
    """One behaviour a visit, in this order, over and over."""
    turn = count()

    def behave(visit: Visit) -> None:
        behaviours[next(turn) % len(behaviours)](visit)

    return behave


# Broken connections


def reset_before_reading(visit: Visit) -> None:
    """Resets the connection, whatever the client sends."""
    visit.reset()


def reset_after_reading(visit: Visit) -> None:
    """Resets the connection once the request is there."""
    visit.request()
    visit.reset()


def close_after_reading(visit: Visit) -> None:
    """Takes the request and hangs up."""
    visit.request()
    visit.close()


def close_once(told: threading.Event) -> Behaviour:
    """Takes the request, and hangs up once the event is set, or after 20 seconds."""

    def behave(visit: Visit) -> None:
        visit.request()
        told.wait(timeout=20)
        visit.close()

    return behave


def close_after_answer(visit: Visit) -> None:
    """Answers as if it kept the connection, and closes it."""
    echo(visit)
    visit.close()


def answer_then_more(more: bytes) -> Behaviour:
    """Answers, and says more that nobody asked for."""

    def behave(visit: Visit) -> None:
        visit.request()
        visit.send(_response(200, RECORDED) + more)

    return behave


def cut_off(visit: Visit) -> None:
    """Closes in the midst of the header."""
    visit.request()
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Ty")
    visit.close()


def short_body(visit: Visit) -> None:
    """Announces more than it sends before it closes."""
    visit.request()
    visit.send(_response(200, b'{"success": ', {"Content-Length": "1000"}))
    visit.close()


# Slow servers


def silent(visit: Visit) -> None:
    """Takes the request and never answers."""
    visit.request()
    visit.wait_for_leave()


def silent_before_reading(visit: Visit) -> None:
    """Accepts the connection and never says a byte, to TLS neither."""
    visit.wait_for_leave()


def answer_late(seconds: float, behaviour: Behaviour = echo) -> Behaviour:
    """Waits before it behaves otherwise."""

    def behave(visit: Visit) -> None:
        visit.wait(seconds)
        behaviour(visit)

    return behave


def drip_header(visit: Visit) -> None:
    """Sends a header that never ends, a byte at a time."""
    visit.request()
    visit.send(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    visit.drip(iter(lambda: b"d", b""))


def drip_body(status: int = 200, *, chunked: bool = False) -> Behaviour:
    """Sends a body that never ends, a byte at a time."""
    length = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": "1000000"}
    part = b"1\r\n \r\n" if chunked else b" "

    def behave(visit: Visit) -> None:
        visit.request()
        visit.send(_response(status, b"", length))
        visit.drip(iter(lambda: part, b""))

    return behave


def stall_in_body(visit: Visit) -> None:
    """Sends half of the body, then no more."""
    visit.request()
    visit.send(_response(200, b'{"success": ', {"Content-Length": "1000"}))
    visit.wait_for_leave()


def endless_informational(status: int) -> Behaviour:
    """Sends one 1xx answer after another, and never the real one."""

    def behave(visit: Visit) -> None:
        visit.request()
        visit.drip(iter(lambda: b"HTTP/1.1 %d Wait\r\n\r\n" % status, b""))

    return behave


def flood_of_informational(status: int) -> Behaviour:
    """Sends 1xx answers as fast as they are taken."""

    def behave(visit: Visit) -> None:
        visit.request()
        while True:
            visit.send(b"HTTP/1.1 %d Wait\r\n\r\n" % status * 500)

    return behave


def trickle_body(visit: Visit) -> None:
    """Sends the body byte by byte, so fast that no read has to wait."""
    visit.request()
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    visit.drip((b" " for _ in itertools.count()), pause=0.0002)


def informational(status: int, seconds: float = 0.0) -> Behaviour:
    """Sends a 1xx answer ahead of the real one, which comes after so many seconds."""

    def behave(visit: Visit) -> None:
        visit.send(b"HTTP/1.1 %d Hint\r\nLink: </style.css>\r\n\r\n" % status)
        visit.wait(seconds)
        echo(visit)

    return behave


# Answers that are none


def raw(data: bytes) -> Behaviour:
    """Reads the request, sends these bytes, and closes."""

    def behave(visit: Visit) -> None:
        visit.request()
        visit.send(data)
        visit.close()

    return behave


def plain_http(visit: Visit) -> None:
    """Answers 400 in plain HTTP whatever the client says, as a web server does to TLS."""
    visit.send(_response(400, "speak HTTP"))
    visit.close()


garbage = raw(b"220 mail.example.com ESMTP\r\n\x00\xff\xfe\r\n\r\n")


def endless_headers(visit: Visit) -> None:
    """Sends header after header without an end."""
    visit.request()
    visit.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        visit.send(b"X-Header: again\r\n" * 1000)


def endless_body(status: int = 200) -> Behaviour:
    """Sends a body without an end, as fast as it can."""

    def behave(visit: Visit) -> None:
        visit.request()
        visit.send(_response(status, b"", {"Transfer-Encoding": "chunked"}))
        while True:
            visit.send(b"10000\r\n" + b" " * 65536 + b"\r\n")

    return behave


def endless_chunk(visit: Visit) -> None:
    """Announces a chunk of -1 bytes, which http.client reads until the server ends: never."""
    visit.request()
    visit.send(_response(200, b"", {"Transfer-Encoding": "chunked"}) + b"-1\r\n")
    while True:
        visit.send(b" " * 65536)


def huge(size: int) -> Behaviour:
    """Answers a success in a JSON object of exactly so many bytes."""
    return answer(200, WRAPPING % ("x" * (size - len(WRAPPING % ""))))


def gzip_bomb(visit: Visit) -> None:
    """Answers a small body that unpacks into 100 MiB."""
    packed = gzip.compress(b" " * MEBIBYTE) * 100
    answer(200, packed, {"Content-Encoding": "gzip"})(visit)


def deep_json(visit: Visit) -> None:
    """Answers JSON that is nested too deeply to be parsed."""
    answer(200, '{"data": ' + "[" * 200_000 + "]" * 200_000 + "}")(visit)


def redirect(status: int, location: str | None) -> Behaviour:
    """Points elsewhere."""
    return answer(status, "moved", {"Location": location} if location is not None else None)


# A proxy


def slow_tunnel(seconds: float) -> Behaviour:
    """As a proxy: connects to the port that CONNECT asks for, on this machine whatever the name,
    and passes on all bytes both ways.

    It waits before it says so, and again before it passes on the first byte.
    """

    def behave(visit: Visit) -> None:
        port = visit.request().path.rpartition(":")[2]
        with socket.create_connection(("127.0.0.1", int(port))) as target:
            visit.wait(seconds)
            visit.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            visit.wait(seconds)
            back = threading.Thread(target=_pass_on, args=(target, visit.sock))
            back.start()
            _pass_on(visit.sock, target)
            back.join()
        visit.close()

    return behave


tunnel = slow_tunnel(0)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for sock in (source, target):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


# No server


@contextmanager
def nobody_listens() -> Iterator[str]:
    """The URL of a port that is taken, so that nobody else gets it, and refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


@contextmanager
def full_queue() -> Iterator[str]:
    """The URL of a server that is too busy to accept one more connection (on Linux)."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address):
            yield f"http://127.0.0.1:{address[1]}"


def _response(
    status: int,
    body: Union[bytes, str, Mapping[str, Any]],
    headers: Mapping[str, str] | None = None,
) -> bytes:
    if isinstance(body, Mapping):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    lines = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    if headers and "Transfer-Encoding" in headers:
        del lines["Content-Length"]
    lines.update(headers or {})
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Status\r\n{head}\r\n".encode("latin-1") + body
