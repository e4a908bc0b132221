"""The schema check: openapi-schema-validator against the contract that the package ships.

Importing it takes a good part of a second, so this module is imported when a sandbox starts and not
before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from openapi_schema_validator import OAS30WriteValidator, oas30_format_checker

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
        #: The kind of event that each path takes.
        self.kinds: dict[str, str] = {}
        self._bodies: dict[str, Any] = {}
        self._headers: dict[str, dict[str, Any]] = {}
        for path, item in _resolved(document["paths"], document).items():
            operation = item["post"]
            self.kinds[path] = operation["x-kind"]
            body = operation["requestBody"]["content"]["application/json"]["schema"]
            # Made once: to make them anew costs far more than to use them.
            self._bodies[path] = _validator(body)
            self._headers[path] = {
                parameter["name"]: _validator(parameter["schema"])
                for parameter in operation["parameters"]
                if parameter["in"] == "header"
            }

    def problems(self, path: str, payload: Any, headers: Mapping[str, str]) -> dict[str, str]:
        """Name every field that breaks the contract, with the reason but never the value."""
        errors = list(_explain_all(self._bodies[path].iter_errors(payload), "body"))
        for name, validator in self._headers[path].items():
            if name in headers:
                errors += _explain_all(validator.iter_errors(headers[name]), name)
        found: dict[str, list[str]] = {}
        for name, message in errors:
            messages = found.setdefault(name, [])
            if message not in messages:
                messages.append(message)
        return {name: "; ".join(messages) for name, messages in found.items()}


@lru_cache(maxsize=1)
def load_contract() -> Contract:
    """The contract in the package, read once a process."""
    return Contract(yaml.safe_load(_CONTRACT.read_text(encoding="utf-8")))


def _resolved(node: Any, document: dict[str, Any]) -> Any:
    """A copy without references, whose patterns mean what they say."""
    if isinstance(node, list):
        return [_resolved(item, document) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target: Any = document
        for name in node["$ref"].lstrip("#/").split("/"):
            target = target[name]
        return _resolved(target, document)
    copy = {key: _resolved(value, document) for key, value in node.items()}
    if isinstance(copy.get("pattern"), str) and copy["pattern"].endswith("$"):
        copy["pattern"] += _REALLY_THE_END
    return copy


def _validator(schema: dict[str, Any]) -> Any:
    return OAS30WriteValidator(schema, format_checker=oas30_format_checker)


def _explain_all(errors: Iterator[Any], whole: str) -> Iterator[tuple[str, str]]:
    for error in errors:
        yield from _explain(error, whole)


def _explain(error: Any, whole: str) -> Iterator[tuple[str, str]]:
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
        name = ".".join(str(part) for part in error.absolute_path) or whole
        yield name, _message(rule, expected)


def _message(rule: str, expected: Any) -> str:
    if isinstance(expected, list):
        expected = ", ".join(map(str, expected))
    shown = str(expected).replace(_REALLY_THE_END, "")
    if rule == "pattern" and not shown.startswith("^"):
        # Something in the text has to match, and that is how the contract asks for any letter.
        return "must not be blank"
    return _MESSAGES.get(rule, "is not as the contract says").format(shown)
