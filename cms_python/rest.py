# Generated from openapi.yaml. Edit templates/ and run `make generate`.
import json
import os
import threading
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from cms_python.configuration import SERVERS, Configuration
from cms_python.exceptions import InvalidResponseException
from cms_python.transport import Connections, read_body, send

MAX_ANSWER_BYTES = 1024 * 1024
# Nothing that reads, copies or shows an answer may run out of stack.
DEEPEST_JSON = 64

# NaN and Infinity, which JSON does not have, are read as null.
_DECODER = json.JSONDecoder(parse_constant=lambda _name: None)


@dataclass(frozen=True)
class RESTResponse:
    """An answer, read whole. Header names are in lower case."""

    status: int
    reason: str
    headers: Mapping[str, str] = field(repr=False)
    data: bytes = field(repr=False)

    def json(self) -> Any:
        """The body as JSON. Raises ValueError where it is none, or nested beyond reason."""
        try:
            # Some servers begin with a byte order mark.
            value = _DECODER.decode(self.data.decode().lstrip("\ufeff"))
        except RecursionError:
            raise ValueError("JSON nested too deeply") from None
        # Most answers have too few brackets to be nested so deeply.
        brackets = self.data.count(b"{") + self.data.count(b"[")
        if brackets >= DEEPEST_JSON and _depth(value) > DEEPEST_JSON:
            raise ValueError("JSON nested too deeply")
        return value


class RESTClient:
    """Sends bytes and reads bytes. Its connections are made at first use, and anew after a fork."""

    _connections: Optional[Connections]

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.forget()
        _clients.add(self)

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes, timeout: float
    ) -> RESTResponse:
        """Sends once and reads the answer, in ``timeout`` seconds. Raises ApiException."""
        pool, prefix = self._connections or self._connect()
        answer = send(pool, method, prefix + path, headers=headers, body=body, timeout=timeout)
        names = {name.lower(): value for name, value in answer.headers.items()}
        data = read_body(answer, MAX_ANSWER_BYTES + 1)
        if len(data) > MAX_ANSWER_BYTES and 200 <= answer.status < 300:
            raise InvalidResponseException(answer.status, "The answer is over 1 MiB long.", names)
        return RESTResponse(answer.status, answer.reason or "", names, data)

    def close(self) -> None:
        """Closes the idle connections. A later request opens new ones."""
        connections, self._connections = self._connections, None
        if connections:
            connections.close()

    def forget(self) -> None:
        """Lets go of what a fork copied: sockets that the parent uses, a lock it may hold."""
        self._lock = threading.RLock()
        self._connections = None

    def _connect(self) -> Connections:
        with self._lock:
            connections = self._connections
            if connections is None:
                host = self.configuration.host or SERVERS[0]
                made = Connections.to(host, self.configuration)
                # A signal's handler that tracked meanwhile, in this thread, made its own.
                connections = self._connections = self._connections or made
            return connections


def _depth(value: Any) -> int:
    """How many levels of arrays and objects there are, or one more than is allowed."""
    depth, level = 0, [value]
    while level and depth <= DEEPEST_JSON:
        depth += 1
        level = [inner for each in level for inner in _children(each)]
    return depth


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


_clients: "weakref.WeakSet[RESTClient]" = weakref.WeakSet()


def _forget_all() -> None:
    for client in _clients:
        client.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
