"""The Python client for CutMeShort's conversion tracking.

Example:
    >>> from cms_python import CMSClient
    >>> client = CMSClient(token="your_jwt_token")
"""

import logging
from typing import TYPE_CHECKING, Any

from cms_python._version import __version__
from cms_python.api import TrackingApi
from cms_python.api_client import ApiClient
from cms_python.api_response import ApiResponse
from cms_python.client import CMSClient
from cms_python.configuration import Configuration
from cms_python.delivery import Delivery
from cms_python.events import Event
from cms_python.exceptions import (
    ApiException,
    BadRequestException,
    ConflictException,
    ConnectionException,
    ForbiddenException,
    InvalidResponseException,
    NotFoundException,
    OpenApiException,
    ServiceException,
    TimeoutException,
    TlsException,
    TooManyRequestsException,
    TransportException,
    UnauthorizedException,
    UnprocessableEntityException,
)
from cms_python.models import ErrorResponse, LeadPayload, SalePayload, TrackResponse
from cms_python.results import TrackFailure, TrackResult, TrackSuccess

if TYPE_CHECKING:
    from cms_python.delivery.outbox import Outbox

__all__ = [
    "ApiClient",
    "ApiException",
    "ApiResponse",
    "BadRequestException",
    "CMSClient",
    "Configuration",
    "ConflictException",
    "ConnectionException",
    "Delivery",
    "ErrorResponse",
    "Event",
    "ForbiddenException",
    "InvalidResponseException",
    "LeadPayload",
    "NotFoundException",
    "OpenApiException",
    "Outbox",
    "SalePayload",
    "ServiceException",
    "TimeoutException",
    "TlsException",
    "TooManyRequestsException",
    "TrackFailure",
    "TrackResponse",
    "TrackResult",
    "TrackSuccess",
    "TrackingApi",
    "TransportException",
    "UnauthorizedException",
    "UnprocessableEntityException",
    "__version__",
]

# An application that sets up no logging sees none of ours.
logging.getLogger("cms_python").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: it loads sqlite3, which tracking at once does not need.
    if name == "Outbox":
        from cms_python.delivery.outbox import Outbox

        return Outbox
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
