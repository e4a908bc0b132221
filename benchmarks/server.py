"""The server of the benchmarks, in a process of its own: it takes whatever is posted.

    python benchmarks/server.py 0 0.05

prints a URL for each delay, in seconds, after which it answers there. It keeps connections open.
"""

from __future__ import annotations

import asyncio
import re
import selectors
import sys
from functools import partial

LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
# Every client of the benchmarks takes this for a success: ours, the published one, and Dub's.
BODY = (
    b'{"success": true, "status": true, "message": "Recorded", "data": "evt_1",'
    b' "eventName": "purchase_completed", "customer": null, "sale": null}'
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
) + BODY


class Answering(asyncio.Protocol):
    """One connection. A client sends its next request when it has the answer to the last."""

    transport: asyncio.Transport

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.unread += data
        size = whole(self.unread)
        if not size:
            return
        self.unread = self.unread[size:]
        if self.delay:
            asyncio.get_running_loop().call_later(self.delay, self.transport.write, ANSWER)
        else:
            self.transport.write(ANSWER)


def whole(unread: bytes) -> int:
    """The size of the request that has arrived, or 0 while some of it is missing."""
    end = unread.find(b"\r\n\r\n")
    if end < 0:
        return 0
    length = LENGTH.search(unread, 0, end)
    size = end + 4 + int(length[1] if length else 0)
    return size if len(unread) >= size else 0


async def serve(delays: list[float]) -> None:
    loop = asyncio.get_running_loop()
    for delay in delays:
        answering = partial(Answering, delay)
        server = await loop.create_server(answering, "127.0.0.1", 0, backlog=256)
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    # epoll waits whole milliseconds, so a delay of 50 would become one of 51; select does not.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    loop.run_until_complete(serve([float(delay) for delay in sys.argv[1:]]))


if __name__ == "__main__":
    main()
