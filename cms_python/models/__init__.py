# Generated from openapi.yaml. Edit templates/ and run `make generate`.
from cms_python.models.error_response import ErrorResponse
from cms_python.models.lead_payload import LeadPayload
from cms_python.models.sale_payload import SalePayload
from cms_python.models.track_response import TrackResponse

__all__ = ["ErrorResponse", "LeadPayload", "SalePayload", "TrackResponse"]
