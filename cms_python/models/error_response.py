# Generated from openapi.yaml. Edit templates/ and run `make generate`.
from typing import Any, Optional

from pydantic import Field

from cms_python.models.base_model import Model


class ErrorResponse(Model, extra="allow"):
    """The answer to a request that was not carried out.

    ``docs/ErrorResponse.md`` describes each field.
    """

    success: Optional[bool] = Field(default=None)
    error: Optional[str] = Field(default=None)
    type: Optional[str] = Field(default=None)
    status_code: Optional[int] = Field(default=None)
    details: Optional[Any] = Field(default=None)
