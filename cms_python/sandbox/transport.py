"""Threads and sockets: werkzeug's threaded server, with connections that stay open."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from io import BytesIO
from typing import Any

from werkzeug.exceptions import ClientDisconnected
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wrappers import Response
from werkzeug.wsgi import get_input_stream

_logger = logging.getLogger("cms_python.sandbox")
# The rest of a body is read and thrown away, so that its sender gets to see why it was refused.
_KEPT_BYTES = 1024 * 1024 + 1
_READ_LIMIT = 256 * 1024 * 1024
_STOP_SECONDS = 2.0


# Where an application finds the socket of the client in its environment.
CONNECTION = "cms_python.sandbox.connection"


class Hangup(Exception):
    """Closes the connection without an answer."""


class Handler(WSGIRequestHandler):
    """Answers the requests of one connection.

    Werkzeug's own ``run_wsgi`` closes the connection after each answer, because it can't tell
    whether the body has been read to its end. This one reads it to its end.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    error_content_type = "application/json"
    error_message_format = (
        '{"success": false, "error": "The request is not valid HTTP.", "type": "bad_request", '
        '"statusCode": %(code)d, "details": null}'
    )

    def run_wsgi(self) -> None:
        """Answer one request, and leave the connection ready for the next or closed."""
        environ = self.make_environ()
        try:
            body, ended = _read_body(environ)
        except (ClientDisconnected, OSError):
            # Where the body ends is not certain: its rest must not be taken for a request.
            self.send_error(400)
            return
        environ.update({"wsgi.input": BytesIO(body), "wsgi.input_terminated": True})
        environ[CONNECTION] = self.connection
        try:
            response = Response.from_app(self.server.app, environ)
        except Hangup:
            self.close_connection = True
            return
        with closing(response):
            self._send(response, ended)

    def _send(self, response: Response, ended: bool) -> None:
        is_stream = response.mimetype == "text/event-stream"
        content = response.iter_encoded() if is_stream else (response.get_data(),)
        self.send_response(response.status_code)
        for name, value in response.headers:
            self.send_header(name, value)
        if is_stream or not ended:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            for piece in content:
                self.wfile.write(piece)

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's name
        """Say nothing: an access log would drown a test's output, and could show secrets."""


class Server(ThreadedWSGIServer):
    """Knows its open connections, so that it can end them."""

    def __init__(self, host: str, port: int, app: Callable[..., Any]) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._connections: dict[threading.Thread, socket.socket] = {}
        # Werkzeug ends the process when it can't bind; given a bound socket it need not try. It
        # duplicates the one it is given.
        with socket.create_server((host, port), family=family, backlog=128) as listening:
            super().__init__(host, port, app, Handler, fd=listening.fileno())

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a new connection a thread of its own, and forget those that have ended."""
        alive = {thread: of for thread, of in self._connections.items() if thread.is_alive()}
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="cms-sandbox-connection",
            daemon=True,
        )
        self._connections = {**alive, thread: request}
        thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - inherited
        """Report a failed connection to the log instead of stderr."""
        _logger.debug("A connection failed.", exc_info=True)

    def stop(self) -> None:
        """Stop listening, let requests in work have their answers, end every connection."""
        self.shutdown()
        self.server_close()
        deadline = time.monotonic() + _STOP_SECONDS
        self._end_connections(socket.SHUT_RD, deadline - _STOP_SECONDS / 2)
        self._end_connections(socket.SHUT_RDWR, deadline)

    def _end_connections(self, how: int, deadline: float) -> None:
        # The end of what there is to read wakes a thread that waits for another request.
        for connection in self._connections.values():
            with suppress(OSError):  # the client may have been faster
                connection.shutdown(how)
        for thread in self._connections:
            thread.join(max(0.0, deadline - time.monotonic()))


def _read_body(environ: dict[str, Any]) -> tuple[bytes, bool]:
    """Read a body, keep no more of it than tells that it is too large, and tell if it has ended.

    Closing with something unread would make the system reset the connection, and the client
    might never see why it was refused.
    """
    chunked = "wsgi.input_terminated" in environ
    if "HTTP_TRANSFER_ENCODING" in environ and not chunked:
        raise OSError("unknown transfer encoding")
    if not chunked and not environ.get("CONTENT_LENGTH", "0").isdecimal():
        raise OSError("invalid content length")
    stream = get_input_stream(environ)
    kept, read = bytearray(), 0
    while read < _READ_LIMIT:
        piece = stream.read(65536)
        if not piece:
            return bytes(kept), True
        kept += piece[: _KEPT_BYTES - len(kept)]
        read += len(piece)
    return bytes(kept), False
