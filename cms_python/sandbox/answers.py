"""The answers of the API: what a success and a refusal look like on the wire."""

from __future__ import annotations

import json
from dataclasses import dataclass
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
    """A status and the exact bytes of the body, so that a replay can repeat them."""

    status: int
    body: bytes
    replayed: bool = False


class Refusal(Exception):
    """Ends the work on a request; its kind, the ``type`` on the wire, decides the status."""

    def __init__(self, kind: str, sentence: str, details: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.sentence = sentence
        self.details = details

    def answer(self, request_id: str) -> Answer:
        """The refusal in the documented shape of an error."""
        status = STATUS_BY_KIND[self.kind]
        body = {
            "success": False,
            "error": self.sentence,
            "type": self.kind,
            "statusCode": status,
            "details": self.details,
            "requestId": request_id,
        }
        return Answer(status, json.dumps(body).encode())


def success(message: str, data: dict[str, Any], request_id: str) -> Answer:
    """A carried out request in the documented shape."""
    body = {"success": True, "message": message, "data": data, "requestId": request_id}
    return Answer(200, json.dumps(body).encode())
