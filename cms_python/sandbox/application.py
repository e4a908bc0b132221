"""HTTP on one side, the rules on the other: addresses, methods, sizes and headers."""

from __future__ import annotations

import logging
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from werkzeug.wrappers import Request, Response

from cms_python.sandbox.answers import Answer, Refusal
from cms_python.sandbox.api import PREFIX, Api, refuse_method
from cms_python.sandbox.assets import asset
from cms_python.sandbox.entries import Entry, make_entry
from cms_python.sandbox.faults import Faults
from cms_python.sandbox.rules import Call, Rules
from cms_python.sandbox.store import Store
from cms_python.sandbox.stream import Streams, message
from cms_python.sandbox.transport import CONNECTION, Hangup

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_logger = logging.getLogger("cms_python.sandbox")
_BODY_LIMIT = 1024 * 1024


class Application:
    """The WSGI application of the sandbox."""

    def __init__(
        self,
        rules: Rules,
        kinds: Mapping[str, str],
        store: Store,
        faults: Faults,
        streams: Streams,
        host: str,
    ) -> None:
        self._rules = rules
        self._kinds = kinds
        self._store = store
        self._faults = faults
        self._streams = streams
        self._api = Api([*kinds.values()], store, faults, streams)
        self._own_names = {"127.0.0.1", "localhost", "::1", host.lower()}
        # Told to listen on every address, it has more names than it can know.
        self._is_open = host in {"0.0.0.0", "::"}  # noqa: S104 - a comparison
        # Set when the sandbox stops, so that no answer is withheld any longer.
        self._stopping = threading.Event()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; whatever happens, in the documented shape.

        Raises:
            Hangup: A fault wants the connection closed without an answer.
        """
        request = Request(environ)
        request_id = f"req_{uuid.uuid4().hex}"
        if request.path.startswith("/track/"):
            response = self._answer_tracking(request, request_id)
        else:
            response = self._answer_other(request, request_id)
        return response(environ, start_response)

    def stop(self) -> None:
        """Let go of the requests whose answers are withheld."""
        self._stopping.set()

    # Requests to the API

    def _answer_tracking(self, request: Request, request_id: str) -> Response:
        answer = _guarded(lambda: self._answer_or_fail(request, request_id), request_id)
        headers = _headers(answer, request_id)
        self._record(request, answer, headers, request_id)
        self._stopping.wait(answer.delay)
        if answer.fault == "silence":
            # All that can still come on this connection is its end.
            request.environ[CONNECTION].recv(1, socket.MSG_PEEK)
        if answer.status == 0:
            raise Hangup
        return Response(answer.body, answer.status, headers)

    def _answer_or_fail(self, request: Request, request_id: str) -> Answer:
        self._check_names(request)
        seconds, fault = self._faults.take()
        if fault is not None and fault.kind != "drop_after":
            return replace(fault.answer(request_id), delay=seconds)
        answer = _guarded(lambda: self._obey_rules(request, request_id), request_id)
        if fault is not None:
            return replace(answer, status=0, fault=fault.kind, delay=seconds)
        return replace(answer, fault="delay", delay=seconds) if seconds else answer

    def _obey_rules(self, request: Request, request_id: str) -> Answer:
        kind = self._kinds.get(request.path)
        if kind is None:
            raise Refusal("not_found", "There is nothing at this address.")
        if request.method != "POST":
            refuse_method("POST")
        return self._rules.answer(_call(request, kind, request_id))

    def _record(
        self, request: Request, answer: Answer, headers: dict[str, str], request_id: str
    ) -> None:
        try:
            entry = make_entry(request, self._kinds.get(request.path), answer, headers, request_id)
            self._store.add_entry(entry, self._tell)
        except Exception:
            # The answer is worth more than the note of it.
            _logger.exception("The sandbox could not keep a request; this is a bug in the sandbox.")

    def _tell(self, entry: Entry) -> None:
        if self._streams.is_read():
            self._streams.tell(message("event", entry.to_json(), entry.id))

    # Requests about the sandbox

    def _answer_other(self, request: Request, request_id: str) -> Response:
        try:
            self._check_names(request)
            response = self._respond(request)
        except Exception as error:  # noqa: BLE001 - it is answered, and logged
            answer = _refusal_of(error).answer(request_id)
            response = Response(answer.body, answer.status, _headers(answer, request_id))
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    def _respond(self, request: Request) -> Response:
        if request.path.startswith(PREFIX):
            return self._api.answer(request)
        if request.path != "/":
            raise Refusal("not_found", "There is nothing at this address.")
        if request.method not in {"GET", "HEAD"}:
            refuse_method("GET")
        return asset("index.html")

    # All requests

    def _check_names(self, request: Request) -> None:
        # A page in the developer's browser can reach this server through a host name that it
        # made point here (DNS rebinding); such a request names a host or an origin of its own.
        host = request.headers.get("Host", "")
        if not self._is_own(f"//{host}") and not (self._is_open and _is_near(host)):
            raise Refusal("forbidden", "The Host header does not name this sandbox.")
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"http://{host}" and not self._is_own(origin):
            raise Refusal("forbidden", "The Origin header names a foreign site.")

    def _is_own(self, address: str) -> bool:
        return _host_name(address) in self._own_names


def _host_name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _is_near(host: str) -> bool:
    # No stranger can make these point here: an IP address, or a name without a dot, as containers
    # have for each other.
    name = _host_name(f"//{host}") or ""
    try:
        ip_address(name)
    except ValueError:
        return "." not in name and name != ""
    return True


def _guarded(work: Callable[[], Answer], request_id: str) -> Answer:
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - as above
        return _refusal_of(error).answer(request_id)


def _refusal_of(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    _logger.error("The sandbox failed; this is a bug in the sandbox.", exc_info=error)
    return Refusal("internal_server_error", "The sandbox failed.")


def _headers(answer: Answer, request_id: str) -> dict[str, str]:
    headers = {"Content-Type": answer.media_type, "X-Request-Id": request_id, **answer.headers}
    if answer.replayed:
        headers["Idempotent-Replayed"] = "true"
    if answer.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def _call(request: Request, kind: str, request_id: str) -> Call:
    body = request.get_data()
    if len(body) > _BODY_LIMIT:
        raise Refusal("payload_too_large", "The body is larger than 1 MiB.")
    return Call(
        path=request.path,
        kind=kind,
        body=body,
        authorization=request.headers.get("Authorization", ""),
        content_type=request.headers.get("Content-Type", ""),
        idempotency_key=request.headers.get("Idempotency-Key"),
        request_id=request_id,
    )
