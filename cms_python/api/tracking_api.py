# Generated from openapi.yaml. Edit templates/ and run `make generate`.
from collections.abc import Callable
from typing import Any, Literal, Optional, Union

from cms_python.api_client import ApiClient
from cms_python.api_response import ApiResponse
from cms_python.models.lead_payload import LeadPayload
from cms_python.models.sale_payload import SalePayload
from cms_python.models.track_response import TrackResponse

EventKind = Literal["lead", "sale"]
Payload = Union[LeadPayload, SalePayload]

# What an event of each kind is sent as.
PAYLOADS: dict[EventKind, type[Payload]] = {"lead": LeadPayload, "sale": SalePayload}


class TrackingApi:
    """The API, one method an endpoint. One call is one request, never retried.

    ``api_client`` makes the requests; by default an ``ApiClient()``.

    Every failure is an ``ApiException``; ``docs/TrackingApi.md`` lists them by status.
    """

    def __init__(self, api_client: Optional[ApiClient] = None) -> None:
        self.api_client = api_client or ApiClient()

    def send(
        self,
        payload: Payload,
        idempotency_key: Optional[str] = None,
        *,
        _request_timeout: float = 10.0,
    ) -> ApiResponse[Any]:
        """Calls the method of the payload's endpoint. Returns the whole answer."""
        method = _METHODS[type(payload)]
        return method(self, payload, idempotency_key, _request_timeout=_request_timeout)

    def track_lead(
        self,
        lead_payload: LeadPayload,
        idempotency_key: Optional[str] = None,
        *,
        _request_timeout: float = 10.0,
    ) -> TrackResponse:
        """Record a lead. Takes at most ``_request_timeout`` seconds."""
        return self.track_lead_with_http_info(
            lead_payload, idempotency_key, _request_timeout=_request_timeout
        ).data

    def track_lead_with_http_info(
        self,
        lead_payload: LeadPayload,
        idempotency_key: Optional[str] = None,
        *,
        _request_timeout: float = 10.0,
    ) -> ApiResponse[TrackResponse]:
        """Record a lead. Returns the whole answer."""
        return self.api_client.call(
            "POST",
            "/track/lead",
            body=lead_payload,
            headers={"Idempotency-Key": idempotency_key},
            timeout=_request_timeout,
            response_type=TrackResponse,
        )

    def track_sale(
        self,
        sale_payload: SalePayload,
        idempotency_key: Optional[str] = None,
        *,
        _request_timeout: float = 10.0,
    ) -> TrackResponse:
        """Record a sale. Takes at most ``_request_timeout`` seconds."""
        return self.track_sale_with_http_info(
            sale_payload, idempotency_key, _request_timeout=_request_timeout
        ).data

    def track_sale_with_http_info(
        self,
        sale_payload: SalePayload,
        idempotency_key: Optional[str] = None,
        *,
        _request_timeout: float = 10.0,
    ) -> ApiResponse[TrackResponse]:
        """Record a sale. Returns the whole answer."""
        return self.api_client.call(
            "POST",
            "/track/sale",
            body=sale_payload,
            headers={"Idempotency-Key": idempotency_key},
            timeout=_request_timeout,
            response_type=TrackResponse,
        )


_METHODS: dict[type[Payload], Callable[..., ApiResponse[Any]]] = {
    LeadPayload: TrackingApi.track_lead_with_http_info,
    SalePayload: TrackingApi.track_sale_with_http_info,
}
