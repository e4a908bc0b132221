"""urllib3's connections, made to keep a deadline, to survive a fork, to say what went wrong."""

from __future__ import annotations

# Or the first connection would import it: in the midst of a fork, for the child to wait for ever.
import encodings.idna  # noqa: F401
import http.client
import io
import queue
import re
import socket
import ssl
import threading
from base64 import b64encode
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple, Optional, cast
from urllib.parse import unquote, urlsplit

from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, InvalidHeader, ReadTimeoutError

from cms_python.configuration import Configuration
from cms_python.exceptions import (
    ApiException,
    ConnectionException,
    InvalidResponseException,
    TimeoutException,
    TlsException,
)

__all__ = ["Connections", "read_body", "send"]

_FOREIGN_ERRORS = (
    HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
)
_TIMEOUTS = (socket.timeout, TimeoutError, ReadTimeoutError)
_TLS_CLOSED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
_BROKEN_OFF = (http.client.RemoteDisconnected, http.client.IncompleteRead)
_NOT_HTTP = (http.client.HTTPException, InvalidHeader, ValueError)

# One request is one attempt: nothing is sent twice, and no redirect is followed.
_ONCE = Retry(total=False)


class _Current(threading.local):
    """The request that a thread is at: `deadline` is when it must be over."""

    deadline: float = 0.0


_current = _Current()

LONGEST_TIMEOUT = 24 * 60 * 60.0
# Bytes that are read of an answer, all of its head and its framing counted.
LARGEST_ANSWER = 4 * 1024 * 1024


class Connections(NamedTuple):
    """A pool of connections to one host, and what stands before each path on them."""

    pool: HTTPConnectionPool
    prefix: str

    @classmethod
    def to(cls, host: str, configuration: Configuration) -> Connections:
        """A pool for an absolute URL; connects to nothing yet. Raises TlsException."""
        url, proxy = urlsplit(host), urlsplit(configuration.proxy or "")
        options: dict[str, Any] = {"maxsize": configuration.connection_pool_maxsize}
        if "https" in (url.scheme, proxy.scheme):
            options["ssl_context"] = _ssl_context(configuration)
        if configuration.proxy:
            credentials = unquote(proxy.netloc.rpartition("@")[0]).encode()
            options["proxy_ssl_context"] = options.get("ssl_context")
            if credentials:
                basic = f"Basic {b64encode(credentials).decode()}"
                options["proxy_headers"] = {"Proxy-Authorization": basic}
            manager: PoolManager = ProxyManager(configuration.proxy, **options)
        else:
            manager = PoolManager(**options)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        # A proxy needs the whole URL to forward plain http; to https it tunnels.
        forwarded = configuration.proxy and url.scheme == "http"
        prefix = host if forwarded else url.path
        return cls(manager.connection_from_url(host), prefix.rstrip("/"))

    def close(self) -> None:
        """Closes idle connections at once, and each in use as soon as it is given back.

        The pool's own close() would fail a call that has the pool and no connection yet.
        """
        cast(_IdleConnections, self.pool.pool).retire()


def send(
    pool: HTTPConnectionPool,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes,
    timeout: float,
) -> BaseHTTPResponse:
    """Sends once and reads the head of the answer. ``timeout`` seconds are for the body as well.

    Raises ApiException.
    """
    if timeout <= 0:
        raise TimeoutException("There was no time left to send it.", sent=False)
    timeout = min(timeout, LONGEST_TIMEOUT)
    # Of the call that a signal's handler, which tracks, came into.
    outer = _current.deadline
    _current.deadline = monotonic() + timeout
    try:
        return pool.urlopen(
            method,
            url,
            body=body,
            headers=headers,
            retries=_ONCE,
            redirect=False,
            timeout=timeout,
            preload_content=False,
            assert_same_host=False,
        )
    except _FOREIGN_ERRORS as error:
        failure = _translated(error, sent=True)
    finally:
        _current.deadline = outer
    # Raised out here, it does not drag along the other error, its frames and their sockets.
    raise failure


def read_body(answer: BaseHTTPResponse, limit: int) -> bytes:
    """Up to ``limit`` bytes of the body, or somewhat more. Raises ApiException for a broken 2xx."""
    data = bytearray()
    failure: Optional[ApiException] = None
    try:
        for part in answer.stream(65536, decode_content=False):
            data += part
            if len(data) >= limit:
                break
        else:
            # Read to its end, it has given its connection back.
            return bytes(data)
    except _FOREIGN_ERRORS as error:
        failure = _translated(error, sent=True)
    answer.close()
    # The status of an error says enough; a good one needs its body to be believed.
    if failure and 200 <= answer.status < 300:
        raise failure
    return bytes(data)


def _translated(error: BaseException, *, sent: bool) -> ApiException:
    """Our exception for one of urllib3, http.client, ssl or the system, without its text.

    Their texts hold URLs, which may hold a proxy's password, and what a server wrote.
    """
    root = _root(error)
    if isinstance(root, _TIMEOUTS):
        did = "answer" if sent else "accept a connection"
        return TimeoutException(f"The server did not {did} in time.", sent)
    if isinstance(root, ssl.SSLError) and not isinstance(root, _TLS_CLOSED):
        return TlsException(f"No trusted connection could be made: {_detail(root)}.", sent)
    if sent and isinstance(root, _NOT_HTTP) and not isinstance(root, _BROKEN_OFF):
        return InvalidResponseException(0, "What answers does not speak HTTP.")
    if sent:
        return ConnectionException(f"The connection broke off: {_detail(root)}.", sent)
    return ConnectionException(f"No connection could be made: {_detail(root)}.", sent)


def _root(error: BaseException) -> BaseException:
    """The innermost of the errors that are wrapped, as cause or as argument, in one another."""
    wrapped = (error.__cause__, *error.args)
    inner = next((each for each in wrapped if isinstance(each, Exception)), None)
    return _root(inner) if inner else error


def _detail(error: BaseException) -> str:
    """What the system or the TLS library says of an error, else the name of its kind."""
    refusal = re.match(r"Tunnel connection failed: (\d{3})", str(error))
    if refusal:
        return f"the proxy answered {refusal[1]}"
    said = getattr(error, "verify_message", None) or getattr(error, "strerror", None)
    return str(said or type(error).__name__).rstrip(".")


def _ssl_context(configuration: Configuration) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if configuration.cert_file:
            # Without a password OpenSSL would ask for one, at the terminal.
            context.load_cert_chain(configuration.cert_file, configuration.key_file, password="")
        return context
    except (OSError, TypeError, ValueError) as error:
        detail = _detail(error)
    raise TlsException(f"The CA file or client certificate cannot be used: {detail}.", sent=False)


class _TimedReader(io.RawIOBase):
    """A socket's bytes, as long as the current request has time."""

    def __init__(self, sock: socket.socket) -> None:
        self.has_ended = False
        self._size = 0
        self._sock = sock
        # Keeps the socket open when the connection is closed before the answer is read.
        self._hold = sock.makefile("rb", buffering=0)
        self._deadline = _current.deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Optional[int]:
        # A socket's own timeout holds for each read alone, and a server may send byte by byte.
        left = self._deadline - monotonic()
        if left <= 0:
            raise socket.timeout
        self._sock.settimeout(left)
        size = self._sock.recv_into(buffer)
        self.has_ended = size == 0
        self._size += size
        if self._size > LARGEST_ANSWER:
            # Such as a chunk of -1 bytes, which is read until the server ends.
            raise http.client.HTTPException("an answer without end")
        return size

    def close(self) -> None:
        self._hold.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        self._reader = _TimedReader(sock)
        # All that is asked of the socket is makefile().
        super().__init__(cast(socket.socket, self._reader), *args, **kwargs)

    def begin(self) -> None:
        super().begin()
        # http.client takes 102 and 103 for the answer, which would be left to the next request.
        while 101 < self.status < 200:
            self.headers = self.msg = cast(http.client.HTTPMessage, None)
            super().begin()
        # It also takes a header that breaks off for a whole one.
        if self._reader.has_ended:
            raise http.client.RemoteDisconnected("the header broke off")


class _Connection(HTTPConnection):
    response_class = _TimedResponse
    _gathered: Optional[list[bytes]] = None

    def request(self, *args: Any, **options: Any) -> None:
        # Head and body in one piece cost a system call less, and mostly a packet.
        self._gathered = []
        try:
            super().request(*args, **options)
            data = b"".join(self._gathered)
        finally:
            self._gathered = None
        self.send(data)

    def send(self, data: Any) -> None:
        if self._gathered is None:
            super().send(data)
        else:
            self._gathered.append(data)

    def connect(self) -> None:
        # Each address of the host would get the whole timeout, and so would each step after it:
        # a proxy's handshake, its answer, the server's handshake.
        try:
            host = self.host.strip("[]")
            addresses = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
            steps = len(addresses) + (3 if self.proxy else isinstance(self, HTTPSConnection))
            self.timeout = max(_current.deadline - monotonic(), 0.001) / steps
            return super().connect()
        except _FOREIGN_ERRORS as error:
            failure = _translated(error, sent=False)
        raise failure


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class _IdleConnections(queue.LifoQueue[Any]):
    """The last in is the first out, without the lock that a fork may copy while it is held."""

    def __init__(self, maxsize: int = 0) -> None:
        # Not maxsize, which gevent's queue has as a property that makes None of 0.
        self._room = maxsize
        self._idle: deque[Any] = deque()

    def get(self, *_: Any, **__: Any) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, item: Any, *_: Any, **__: Any) -> None:
        if len(self._idle) < self._room:
            self._idle.append(item)
        elif item is not None:
            item.close()

    def retire(self) -> None:
        """Closes what is idle, and from now on what comes back."""
        self._room = 0
        while self._idle:
            with suppress(queue.Empty):
                self.put(self.get())


class _Pool(HTTPConnectionPool):
    # urllib3 declares a protocol that its own classes do not quite fit.
    ConnectionCls = _Connection  # pyright: ignore[reportAssignmentType]
    QueueCls = _IdleConnections


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection  # pyright: ignore[reportAssignmentType], as above
    QueueCls = _IdleConnections
