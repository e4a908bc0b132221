"""The schema check: openapi-core against the contract that the package ships.

Importing openapi-core takes a good part of a second, so this module is imported when a sandbox
starts and not before.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from openapi_core import OpenAPI
from openapi_core.datatypes import RequestParameters
from openapi_core.validation.request.exceptions import ParameterValidationError
from werkzeug.datastructures import Headers

_CONTRACT = Path(__file__).parent.parent / "openapi.yaml"
# Python's `$` also matches before a final line break; the `$` of JSON Schema does not.
_REALLY_THE_END = r"(?!\n)"
_MESSAGES = {
    "type": "must be of type {}",
    "minLength": "must have a length of at least {}",
    "maxLength": "must have a length of at most {}",
    "pattern": "must match {}",
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "enum": "must be one of {}",
    "format": "must be a {} with a zone, such as 2026-01-31T09:30:00Z",
}


class Contract:
    """Checks requests against openapi.yaml. Safe to share between threads."""

    def __init__(self, document: dict[str, Any]) -> None:
        # The servers named in the contract are not this one.
        here = {**document, "servers": [{"url": "/"}]}
        self._validator = OpenAPI.from_dict(_with_strict_ends(here)).request_validator
        # openapi-core changes state of its own while it follows a $ref.
        self._lock = threading.Lock()

    def problems(
        self, path: str, body: bytes, authorization: str, idempotency_key: str | None
    ) -> dict[str, str]:
        """Name every field that breaks the contract, with the reason but never the value."""
        headers = Headers({"Authorization": authorization})
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        request = _Request(path, body, RequestParameters(header=headers))
        found: dict[str, list[str]] = {}
        with self._lock:
            for error in self._validator.iter_errors(request):
                for name, message in _explain(error):
                    messages = found.setdefault(name, [])
                    if message not in messages:
                        messages.append(message)
        return {name: "; ".join(messages) for name, messages in found.items()}


@lru_cache(maxsize=1)
def load_contract() -> Contract:
    """The contract in the package, read once a process."""
    return Contract(yaml.safe_load(_CONTRACT.read_text(encoding="utf-8")))


@dataclass
class _Request:
    """A request as openapi-core wants to see it."""

    path: str
    body: bytes
    parameters: RequestParameters
    host_url: str = "http://sandbox"
    method: str = "post"
    content_type: str = "application/json"


def _with_strict_ends(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_strict_ends(item) for item in node]
    if not isinstance(node, dict):
        return node
    copy = {key: _with_strict_ends(value) for key, value in node.items()}
    if isinstance(copy.get("pattern"), str) and copy["pattern"].endswith("$"):
        copy["pattern"] += _REALLY_THE_END
    return copy


def _explain(error: Exception) -> Iterator[tuple[str, str]]:
    start = str(getattr(error, "name", "")) if isinstance(error, ParameterValidationError) else ""
    schema_errors = getattr(error.__cause__, "schema_errors", None)
    if not schema_errors:
        yield start or "body", "is not as the contract says"
    for schema_error in schema_errors or ():
        yield from _explain_schema_error(schema_error, start)


def _explain_schema_error(error: Any, start: str) -> Iterator[tuple[str, str]]:
    rule, expected = error.validator, error.validator_value
    if rule == "required":
        for name in expected:
            if name not in error.instance:
                yield name, "is required"
    elif rule == "additionalProperties":
        for name in error.instance:
            if name not in error.schema["properties"]:
                yield name, "is not a field of this event"
    else:
        name = ".".join(str(part) for part in error.absolute_path) or start or "body"
        yield name, _message(rule, expected)


def _message(rule: str, expected: Any) -> str:
    if isinstance(expected, list):
        expected = ", ".join(map(str, expected))
    shown = str(expected).replace(_REALLY_THE_END, "")
    return _MESSAGES.get(rule, "is not as the contract says").format(shown)
