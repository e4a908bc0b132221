# Generated from openapi.yaml. Edit templates/ and run `make generate`.
from typing import Literal, Optional

from pydantic import AwareDatetime, Field

from cms_python.models.base_model import Model


class LeadPayload(Model, extra="forbid"):
    """A lead, or with `mode` set to `deferred` the link between a click and a customer.

    ``docs/LeadPayload.md`` describes each field.
    """

    click_id: Optional[str] = Field(
        default=None, min_length=1, max_length=255, pattern=r"[^\s\x1c-\x1f\ufeff]"
    )
    event_name: str = Field(min_length=1, max_length=255, pattern=r"[^\s\x1c-\x1f\ufeff]")
    customer_external_id: str = Field(min_length=1, max_length=255, pattern=r"[^\s\x1c-\x1f\ufeff]")
    timestamp: Optional[AwareDatetime] = Field(default=None)
    customer_name: Optional[str] = Field(default=None, max_length=255, repr=False)
    customer_email: Optional[str] = Field(default=None, max_length=255, repr=False)
    customer_avatar: Optional[str] = Field(default=None, max_length=2048, repr=False)
    mode: Optional[Literal["deferred"]] = Field(default=None)
