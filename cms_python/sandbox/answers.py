"""The answers of the API: what a success and a refusal look like on the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STATUS_BY_KIND = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "payload_too_large": 413,
    "unprocessable_entity": 422,
    "idempotency_key_reused": 422,
    "internal_server_error": 500,
}


@dataclass(frozen=True)
class Answer:
    """A status and the exact bytes of the body, so that a replay can repeat them.

    What follows them is for the sandbox itself: whether the request made an event count, whether
    it repeated one, and which fault made the answer what it is. A status of 0 is no answer: the
    connection is closed.
    """

    status: int
    body: bytes
    replayed: bool = False
    counted: bool = False
    duplicate: bool = False
    fault: str | None = None
    delay: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"


class Refusal(Exception):
    """Ends the work on a request; its kind, the ``type`` on the wire, decides the status."""

    def __init__(
        self,
        kind: str,
        sentence: str,
        details: dict[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.sentence = sentence
        self.details = details
        self.headers = headers or {}

    def answer(self, request_id: str) -> Answer:
        """The refusal in the documented shape of an error."""
        status = STATUS_BY_KIND[self.kind]
        body = failure(status, self.kind, self.sentence, request_id, self.details)
        return Answer(status, body, headers=self.headers)


def failure(
    status: int, kind: str, sentence: str, request_id: str, details: dict[str, str] | None = None
) -> bytes:
    """The body of an error, in the documented shape."""
    body = {
        "success": False,
        "error": sentence,
        "type": kind,
        "statusCode": status,
        "details": details,
        "requestId": request_id,
    }
    return json.dumps(body).encode()


def success(message: str, data: dict[str, Any], request_id: str) -> Answer:
    """A carried out request in the documented shape."""
    body = {"success": True, "message": message, "data": data, "requestId": request_id}
    return Answer(200, json.dumps(body).encode())
