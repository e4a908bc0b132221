# Generated from openapi.yaml. Edit templates/ and run `make generate`.
from typing import Optional

from pydantic import AwareDatetime, Field

from cms_python.models.base_model import Model


class SalePayload(Model, extra="forbid"):
    """A payment by a customer who came through a click.

    ``docs/SalePayload.md`` describes each field.
    """

    click_id: str = Field(min_length=1, max_length=255, pattern=r"[^\s\x1c-\x1f\ufeff]")
    event_name: str = Field(min_length=1, max_length=255, pattern=r"[^\s\x1c-\x1f\ufeff]")
    customer_external_id: str = Field(min_length=1, max_length=255, pattern=r"[^\s\x1c-\x1f\ufeff]")
    invoice_id: str = Field(min_length=1, max_length=255, pattern=r"[^\s\x1c-\x1f\ufeff]")
    amount: int = Field(ge=0, le=9007199254740991)
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    timestamp: Optional[AwareDatetime] = Field(default=None)
    customer_name: Optional[str] = Field(default=None, max_length=255, repr=False)
    customer_email: Optional[str] = Field(default=None, max_length=255, repr=False)
    customer_avatar: Optional[str] = Field(default=None, max_length=2048, repr=False)
