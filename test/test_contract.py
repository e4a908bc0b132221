"""openapi.yaml, and what is generated from it."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types
import pytest
import urllib3
import yaml
from openapi_core import OpenAPI
from openapi_core.contrib.werkzeug import WerkzeugOpenAPIRequest
from openapi_spec_validator import validate
from pydantic import BaseModel
from pydantic.types import AwareDatetime
from werkzeug.test import EnvironBuilder

import cms_python
from cms_python import TrackingApi, configuration, events, models, results
from cms_python.sandbox import Sandbox

ROOT = Path(__file__).parent.parent
CONTRACT: dict[str, Any] = yaml.safe_load((ROOT / "openapi.yaml").read_text(encoding="utf-8"))
SCHEMAS: dict[str, Any] = CONTRACT["components"]["schemas"]
FIELDS = [(schema, field) for schema in SCHEMAS for field in SCHEMAS[schema]["properties"]]
OPERATIONS = [
    (path, operation) for path, item in CONTRACT["paths"].items() for operation in item.values()
]
TYPES = {"string": str, "integer": int, "boolean": bool, None: Any}


def model(schema: str) -> type[BaseModel]:
    return getattr(models, schema)  # type: ignore[no-any-return]  # by name


def facts_of_the_contract(schema: str, field: str) -> dict[str, Any]:
    facts = SCHEMAS[schema]["properties"][field]
    is_moment = facts.get("format") == "date-time"
    return {
        "type": AwareDatetime if is_moment else TYPES[facts.get("type")],
        "required": field in SCHEMAS[schema].get("required", []),
        "enum": facts.get("enum"),
        "bounds": {
            name: facts[name]
            for name in ("minLength", "maxLength", "minimum", "maximum", "pattern")
            if name in facts
        },
        "shown": not facts.get("x-personal-data", False),
    }


def facts_of_the_model(schema: str, field: str) -> dict[str, Any]:
    (info,) = (each for each in model(schema).model_fields.values() if each.alias == field)
    plain = [each for each in get_args(info.annotation) if each is not type(None)]
    kind = plain[0] if plain and get_origin(info.annotation) is not Literal else info.annotation
    enum = list(get_args(kind)) if get_origin(kind) is Literal else None
    bounds: dict[str, Any] = {}
    for each in info.metadata:
        for name, kind_of_bound, attribute in (
            ("minLength", annotated_types.MinLen, "min_length"),
            ("maxLength", annotated_types.MaxLen, "max_length"),
            ("minimum", annotated_types.Ge, "ge"),
            ("maximum", annotated_types.Le, "le"),
        ):
            if isinstance(each, kind_of_bound):
                bounds[name] = getattr(each, attribute)
        if pattern := getattr(each, "pattern", None):
            bounds["pattern"] = pattern
    return {
        "type": str if enum else kind,
        "required": info.is_required(),
        "enum": enum,
        "bounds": bounds,
        "shown": info.repr,
    }


def test_the_contract_is_valid_openapi() -> None:
    """Any tool can read it."""
    validate(CONTRACT)
    assert CONTRACT["openapi"] == "3.0.3"


@pytest.mark.parametrize(("schema", "field"), FIELDS)
def test_a_field_of_the_contract_is_the_same_in_the_model(schema: str, field: str) -> None:
    """Type, need, enumeration, bounds and pattern stand once and are the same everywhere."""
    assert facts_of_the_contract(schema, field) == facts_of_the_model(schema, field)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_model_has_the_fields_of_the_contract_and_no_others(schema: str) -> None:
    """No field is missing and none is made up; strangers are refused or kept as it says."""
    aliases = {field.alias for field in model(schema).model_fields.values()}
    assert aliases == set(SCHEMAS[schema]["properties"])
    strangers = "allow" if SCHEMAS[schema]["additionalProperties"] else "forbid"
    assert model(schema).model_config.get("extra") == strangers
    assert model(schema).model_config.get("strict") is True


@pytest.mark.parametrize(("schema", "field"), FIELDS)
def test_each_field_is_described_with_an_example(schema: str, field: str) -> None:
    """A reader of the contract needs no other text."""
    facts = SCHEMAS[schema]["properties"][field]
    assert facts["description"].endswith(".")
    assert "example" in facts


def test_requests_forbid_unknown_fields_and_answers_allow_them() -> None:
    """A typing mistake is refused; a server that grows is not."""
    assert [SCHEMAS[name]["additionalProperties"] for name in SCHEMAS] == [False, False, True, True]


@pytest.mark.parametrize(("path", "operation"), OPERATIONS)
def test_each_operation_is_a_method_of_the_api(path: str, operation: dict[str, Any]) -> None:
    """trackLead is TrackingApi.track_lead, with and without the whole answer."""
    kind = operation["x-kind"]
    name = f"track_{kind}"
    assert operation["operationId"] == f"track{kind.capitalize()}"
    assert path == f"/track/{kind}"
    assert operation["tags"] == ["Tracking"]
    for method in (name, f"{name}_with_http_info"):
        parameters = inspect.signature(getattr(TrackingApi, method)).parameters
        assert list(parameters)[1:] == [
            f"{kind}_payload", "idempotency_key", "_request_timeout"
        ]  # fmt: skip


@pytest.mark.parametrize(("_path", "operation"), OPERATIONS)
def test_each_operation_lists_the_statuses_of_the_api(
    _path: str, operation: dict[str, Any]
) -> None:
    """All that may be answered is written down."""
    expected = [200, 400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 504]
    assert [int(status) for status in operation["responses"]] == expected


def test_the_idempotency_key_is_checked_as_the_contract_says() -> None:
    """The header's bounds stand in the contract; the check of the argument is the same."""
    schema = CONTRACT["components"]["parameters"]["IdempotencyKey"]["schema"]
    bounds = (schema["minLength"], schema["maxLength"], schema["pattern"])
    assert bounds == (1, 255, r"^[\x21-\x7e]+$")
    for length, usable in ((0, False), (1, True), (255, True), (256, False)):
        assert events.is_idempotency_key("k" * length) is usable
    for code in range(300):
        assert events.is_idempotency_key(chr(code)) is (0x21 <= code <= 0x7E)


def test_the_servers_are_those_of_the_contract() -> None:
    """The default host is the first of them."""
    assert configuration.SERVERS == tuple(server["url"] for server in CONTRACT["servers"])
    assert configuration.SERVERS[0] == "https://app.cutmeshort.com"


def test_the_types_of_errors_are_those_of_the_contract() -> None:
    """What a failure says where the server names no type is one of the server's own names."""
    listed = SCHEMAS["ErrorResponse"]["properties"]["type"]["x-extensible-enum"]
    assert list(results.TYPES.values()) == listed


LEAD = {"clickId": "id_1", "eventName": "signup", "customerExternalId": "user_1"}
SALE = {**LEAD, "invoiceId": "inv_1", "amount": 5, "currency": "EUR"}
BODIES: list[tuple[str, Any]] = [
    ("lead", LEAD),
    ("lead", {**LEAD, "mode": "deferred", "timestamp": "2026-01-31T09:30:00+02:00"}),
    ("sale", SALE),
    ("sale", {**SALE, "amount": 0, "customerEmail": ""}),
    ("lead", {}),
    ("lead", []),
    ("lead", {**LEAD, "unknown": 1}),
    ("lead", {**LEAD, "eventName": " "}),
    ("lead", {**LEAD, "eventName": "e" * 256}),
    ("lead", {**LEAD, "eventName": None}),
    ("lead", {**LEAD, "mode": "later"}),
    ("lead", {**LEAD, "timestamp": "2026-01-31T09:30:00"}),
    ("lead", {**LEAD, "timestamp": "yesterday"}),
    ("sale", LEAD),
    ("sale", {**SALE, "amount": -1}),
    ("sale", {**SALE, "amount": True}),
    ("sale", {**SALE, "amount": "5"}),
    ("sale", {**SALE, "amount": 2**53}),
    ("sale", {**SALE, "currency": "eur"}),
    ("sale", {**SALE, "customerAvatar": "a" * 2049}),
]


@pytest.mark.parametrize(("kind", "body"), BODIES)
def test_the_sandbox_judges_as_openapi_core_does(sandbox: Sandbox, kind: str, body: Any) -> None:
    """A second judge, which shares neither our models nor our code, comes to the same verdict."""
    judge = OpenAPI.from_dict({**CONTRACT, "servers": [{"url": sandbox.url}]})
    headers = {"Authorization": "Bearer any", "Content-Type": "application/json"}
    builder = EnvironBuilder(
        f"/track/{kind}",
        sandbox.url,
        method="POST",
        data=json.dumps(body),
        headers=list(headers.items()),
    )
    request = WerkzeugOpenAPIRequest(builder.get_request())
    errors = list(judge.request_validator.iter_errors(request))
    answer = urllib3.request(
        "POST", f"{sandbox.url}/track/{kind}", body=json.dumps(body), headers=headers
    )
    assert (answer.status == 422) is bool(errors)


def test_the_shipped_contract_is_the_one_at_the_top() -> None:
    """The sandbox judges by the same text that the models are made from."""
    shipped = Path(cms_python.__file__).with_name("openapi.yaml")
    assert shipped.read_bytes() == (ROOT / "openapi.yaml").read_bytes()
