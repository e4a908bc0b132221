# Generated from openapi.yaml. Edit templates/ and run `make generate`.
from typing import Any, Optional

from pydantic import Field

from cms_python.models.base_model import Model


class TrackResponse(Model, extra="allow"):
    """The answer to a recorded event. Every field may be missing.

    ``docs/TrackResponse.md`` describes each field.
    """

    success: Optional[bool] = Field(default=None)
    message: Optional[str] = Field(default=None)
    data: Optional[Any] = Field(default=None)
    status: Optional[Any] = Field(default=None)
    request_id: Optional[str] = Field(default=None)
