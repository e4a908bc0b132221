"""Server-sent events: what happens, told to every open page at once."""

from __future__ import annotations

import selectors
import socket
import threading
from collections import deque
from collections.abc import Iterable, Iterator

#: Seconds of silence after which a stream says that it is still there.
HEARTBEAT_SECONDS = 15.0
# Messages that a reader may be behind. One that is slower is let go; it comes back, says what it
# saw last, and gets the rest from the store.
_BACKLOG = 2000
# How long a reader may take to accept what is sent.
_WRITE_SECONDS = 10.0


class Stream:
    """The messages for one reader, on the way from many threads to that of its connection."""

    def __init__(self, first: Iterable[str]) -> None:
        self._messages = deque(first)
        self._overflowed = False
        # One byte here wakes the reader's thread, which waits for its connection as well.
        self._sleeper, self._waker = socket.socketpair()
        self._waker.setblocking(False)

    def put(self, message: str) -> None:
        """Add a message, unless the reader has fallen too far behind."""
        if len(self._messages) >= _BACKLOG:
            self._overflowed = True
        else:
            self._messages.append(message)
        try:
            self._waker.send(b"!")
        except OSError:
            return  # it has been woken often enough, or is gone

    def read(self, connection: socket.socket) -> Iterator[bytes]:
        """Give out messages until the reader leaves, falls behind, or the server stops."""
        connection.settimeout(_WRITE_SECONDS)
        with selectors.DefaultSelector() as selector:
            selector.register(self._sleeper, selectors.EVENT_READ)
            selector.register(connection, selectors.EVENT_READ)
            while not self._overflowed:
                yield from self._pending()
                ready = [key.fileobj for key, _ in selector.select(HEARTBEAT_SECONDS)]
                # The reader of a stream has nothing more to say: this is the end of it.
                if connection in ready:
                    return
                if ready:
                    self._sleeper.recv(4096)
                else:
                    yield b": still here\n\n"

    def _pending(self) -> Iterator[bytes]:
        while self._messages:
            yield self._messages.popleft().encode()

    def close(self) -> None:
        """Let go of the sockets."""
        self._sleeper.close()
        self._waker.close()


class Streams:
    """All open streams."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: set[Stream] = set()

    def open(self, first: Iterable[str]) -> Stream:
        """Begin a stream with these messages; ``close()`` ends it."""
        stream = Stream(first)
        with self._lock:
            self._streams.add(stream)
        return stream

    def close(self, stream: Stream) -> None:
        """Let go of a stream."""
        with self._lock:
            self._streams.discard(stream)
        stream.close()

    def is_read(self) -> bool:
        """Tell whether there is any reader."""
        return bool(self._streams)

    def tell(self, message: str) -> None:
        """Send a message to every reader."""
        with self._lock:
            for stream in self._streams:
                stream.put(message)


def message(event: str, data: str, number: int | None = None) -> str:
    """A message in the format of server-sent events; the data is one line."""
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {event}\ndata: {data}\n\n"
