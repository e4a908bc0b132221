# Generated from openapi.yaml. Edit templates/ and run `make generate`.
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from pydantic_core import to_json
from typing_extensions import Self


class Model(BaseModel):
    """What all payloads and answers share: strict types, and the way to the wire and back.

    In Python a field has its snake_case name, on the wire its camelCase one. Nothing is coerced:
    a wrong type raises ``pydantic.ValidationError``, whose text does not repeat the input.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, strict=True, hide_input_in_errors=True
    )

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, as JSON values under their names on the wire."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def to_json(self) -> str:
        """The JSON text that goes on the wire."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    @classmethod
    def from_dict(cls, obj: dict[str, Any]) -> Self:
        """The model of ``obj``, a dict with names of the wire or of Python."""
        return cls.model_validate_json(to_json(obj))

    @classmethod
    def from_json(cls, json_str: str) -> Self:
        """The model of ``json_str``, a JSON text."""
        return cls.model_validate_json(json_str)
