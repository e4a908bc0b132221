"""HTTP on one side, the rules on the other: addresses, methods, sizes and headers."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from werkzeug.wrappers import Request, Response

from cms_python.sandbox.answers import Answer, Refusal
from cms_python.sandbox.rules import KIND_BY_PATH, Call, Rules

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_logger = logging.getLogger("cms_python.sandbox")
_BODY_LIMIT = 1024 * 1024


class Application:
    """The WSGI application of the sandbox."""

    def __init__(self, rules: Rules, host: str) -> None:
        self._rules = rules
        self._own_names = {"127.0.0.1", "localhost", "::1", host.lower()}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; whatever happens, in the documented shape."""
        request_id = f"req_{uuid.uuid4().hex}"
        answer = self._answer(Request(environ), request_id)
        headers = {"X-Request-Id": request_id}
        if answer.replayed:
            headers["Idempotent-Replayed"] = "true"
        if answer.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if answer.status == 405:
            headers["Allow"] = "POST"
        response = Response(answer.body, answer.status, headers, mimetype="application/json")
        return response(environ, start_response)

    def _answer(self, request: Request, request_id: str) -> Answer:
        try:
            self._check_names(request)
            _check_route(request)
            return self._rules.answer(_call(request, request_id))
        except Refusal as refusal:
            return refusal.answer(request_id)
        except Exception:
            _logger.exception("The sandbox failed; this is a bug in the sandbox.")
            return Refusal("internal_server_error", "The sandbox failed.").answer(request_id)

    def _check_names(self, request: Request) -> None:
        # A page in the developer's browser can reach this server through a host name that it
        # made point here (DNS rebinding); such a request names a host or an origin of its own.
        if not self._is_own(f"//{request.headers.get('Host', '')}"):
            raise Refusal("forbidden", "The Host header does not name this sandbox.")
        origin = request.headers.get("Origin")
        if origin is not None and not self._is_own(origin):
            raise Refusal("forbidden", "The Origin header names a foreign site.")

    def _is_own(self, address: str) -> bool:
        try:
            return urlsplit(address).hostname in self._own_names
        except ValueError:
            return False


def _check_route(request: Request) -> None:
    if request.path not in KIND_BY_PATH:
        raise Refusal("not_found", "There is nothing at this address.")
    if request.method != "POST":
        raise Refusal("method_not_allowed", "This address takes POST only.")


def _call(request: Request, request_id: str) -> Call:
    body = request.get_data()
    if len(body) > _BODY_LIMIT:
        raise Refusal("payload_too_large", "The body is larger than 1 MiB.")
    return Call(
        path=request.path,
        body=body,
        authorization=request.headers.get("Authorization", ""),
        content_type=request.headers.get("Content-Type", ""),
        idempotency_key=request.headers.get("Idempotency-Key"),
        request_id=request_id,
    )
