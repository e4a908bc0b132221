"""CMSClient, the whole public door: checks the call, builds the event, asks its delivery."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NoReturn, Optional, Union
from urllib.parse import urlsplit

from typing_extensions import Self

from cms_python import results, settings
from cms_python.api import TrackingApi
from cms_python.api_client import ApiClient
from cms_python.configuration import Configuration
from cms_python.delivery import Delivery
from cms_python.delivery.direct import Direct
from cms_python.events import Event, EventKind, InvalidEvent, is_idempotency_key
from cms_python.results import TrackResult

__all__ = ["CMSClient"]


class CMSClient:
    """Tracks leads and sales. One client serves a whole program, all its threads and forks.

    Args:
        token: the API token, a JWT. By default ``configuration``'s, then ``CMS_BEARER_TOKEN``.
        host: an absolute http or https URL. By default ``configuration``'s, then ``CMS_HOST``,
            then ``https://app.cutmeshort.com``.
        timeout: the seconds that one call may take, everything counted but the system's look-up
            of the host's name. 10 by default.
        max_retries: how many more attempts a call may make after its first. 3 by default.
        delivery: how events leave. By default each call sends its event and waits for the answer.
            With an ``Outbox`` ``timeout`` bounds each attempt of its threads, and both bound a call
            that sends its event itself since the file cannot take it.
        configuration: proxy, CA file, client certificate and the rest of the connection.

    Raises:
        ValueError: an argument, or the variable of the environment in its place, cannot be used.
            The text says how to correct it and never repeats the token.
        TypeError: ``delivery`` is no ``Delivery``.

    Nothing is opened until the first call.

    Example:
        >>> with CMSClient(token="your_jwt_token") as client:
        ...     result = client.track_lead("signup_started", "user_42", click_id="id_123")
    """

    def __init__(
        self,
        token: Optional[str] = None,
        host: Optional[str] = None,
        *,
        timeout: float = 10.0,
        max_retries: int = 3,
        delivery: Optional[Delivery] = None,
        configuration: Optional[Configuration] = None,
    ) -> None:
        settings.check_limits(timeout, max_retries)
        base = Configuration() if configuration is None else configuration
        connection = settings.with_connection(base, host)
        self._host = connection.host
        frames = 1 if delivery is None else 2

        def make_direct() -> Direct:
            complete = settings.with_token(connection, token)
            _warn_of_plain_http(complete, 3 + frames)
            api = TrackingApi(ApiClient(complete))
            return Direct(api, timeout=timeout, max_retries=max_retries)

        if delivery is None:
            delivery = make_direct()
        elif isinstance(delivery, Delivery):
            delivery.attach(make_direct)
        else:
            raise TypeError(f"delivery must be a Delivery, not {type(delivery).__name__}")
        self._delivery: Delivery = delivery

    def track_lead(
        self,
        event_name: str,
        customer_external_id: str,
        click_id: Optional[str] = None,
        customer_name: Optional[str] = None,
        customer_email: Optional[str] = None,
        customer_avatar: Optional[str] = None,
        timestamp: Union[datetime, str, None] = None,
        mode: Optional[Literal["deferred"]] = None,
        *,
        idempotency_key: Optional[str] = None,
    ) -> TrackResult:
        """Tracks a lead: a sign-up, a trial, a qualified contact.

        Args:
            event_name: what happened, 1 to 255 characters.
            customer_external_id: your own id of the customer, 1 to 255 characters.
            click_id: the click that brought the customer, from the ``cms_id`` cookie, 1 to 255
                characters. May be left out once a deferred lead of this customer has stored it.
            customer_name: at most 255 characters.
            customer_email: at most 255 characters.
            customer_avatar: the URL of a picture, at most 2048 characters.
            timestamp: when it happened, a datetime or ISO 8601 text; without a zone it is local
                time. By default the time of arrival counts.
            mode: ``"deferred"`` stores which click brought the customer and records no lead yet.
            idempotency_key: 1 to 255 visible ASCII characters that name this event. By default
                each call makes a new one; give the same key to send the same event again.

        Returns:
            A dict; never raises for what the network or the API does.
            ``{"success": True, "message": str, "data": ...}`` when the event is recorded, else
            ``{"success": False, "error": str, "status_code": int, "type": str, ...}``:
            ``validation_error`` for wrong arguments, with ``details`` by argument and nothing
            sent; ``connection_error``, ``timeout_error``, ``tls_error``, ``redirect`` or
            ``invalid_response`` for the way there and back; the server's own type for its
            refusals. ``TrackFailure`` describes every key.

        Example:
            >>> result = client.track_lead("signup_started", "user_42", click_id="id_123")
            >>> result["success"]
            True
        """
        fields = {
            "event_name": event_name,
            "customer_external_id": customer_external_id,
            "click_id": click_id,
            "customer_name": customer_name,
            "customer_email": customer_email,
            "customer_avatar": customer_avatar,
            "timestamp": timestamp,
            "mode": mode,
        }
        return self._track("lead", fields, idempotency_key)

    def track_sale(
        self,
        click_id: str,
        event_name: str,
        customer_external_id: str,
        invoice_id: str,
        amount: int,
        currency: str,
        customer_name: Optional[str] = None,
        customer_email: Optional[str] = None,
        customer_avatar: Optional[str] = None,
        timestamp: Union[datetime, str, None] = None,
        *,
        idempotency_key: Optional[str] = None,
    ) -> TrackResult:
        """Tracks a sale: a payment by a customer who came through a click.

        Args:
            click_id: the click that brought the customer, from the ``cms_id`` cookie, 1 to 255
                characters.
            event_name: what was sold, 1 to 255 characters.
            customer_external_id: your own id of the customer, 1 to 255 characters.
            invoice_id: your own id of the invoice, 1 to 255 characters; one counts once.
            amount: whole cents, an int of at least 0: 4999 means 49.99.
            currency: a three-letter ISO 4217 code, in capitals or not.
            customer_name: at most 255 characters.
            customer_email: at most 255 characters.
            customer_avatar: the URL of a picture, at most 2048 characters.
            timestamp: when it happened, a datetime or ISO 8601 text; without a zone it is local
                time. By default the time of arrival counts.
            idempotency_key: 1 to 255 visible ASCII characters that name this event. By default
                each call makes a new one; give the same key to send the same event again.

        Returns:
            The same dicts as ``track_lead``, for the same reasons.

        Example:
            >>> result = client.track_sale(
            ...     "id_123", "purchase_completed", "user_42", "inv_987", 4999, "USD"
            ... )
            >>> result["success"]
            True
        """
        fields = {
            "click_id": click_id,
            "event_name": event_name,
            "customer_external_id": customer_external_id,
            "invoice_id": invoice_id,
            "amount": amount,
            "currency": currency,
            "customer_name": customer_name,
            "customer_email": customer_email,
            "customer_avatar": customer_avatar,
            "timestamp": timestamp,
        }
        return self._track("sale", fields, idempotency_key)

    def with_options(
        self, *, timeout: Optional[float] = None, max_retries: Optional[int] = None
    ) -> Self:
        """A copy with another ``timeout`` or ``max_retries``, for one call or some.

        It shares the connections. What is left out stays as it is. Raises ValueError for a limit
        that cannot be used, and TypeError if the client has a delivery of another kind, which keeps
        its own limits.

        Example:
            >>> result = client.with_options(timeout=2.0).track_lead("signup", "user_42", "id_123")
        """
        if not isinstance(self._delivery, Direct):
            raise TypeError("with_options() is for clients that send each event at once")
        other = object.__new__(type(self))
        other._host = self._host
        other._delivery = self._delivery.with_options(timeout, max_retries)
        return other

    @property
    def delivery(self) -> Delivery:
        """How its events leave: what was given as ``delivery``, or what sends each at once."""
        return self._delivery

    def flush(self, timeout: Optional[float] = None) -> bool:
        """Waits up to ``timeout`` seconds, by default for ever, until no event is queued.

        Returns whether that is so. A client that sends each event at once has none queued.

        Example:
            >>> client.flush(timeout=5.0)
            True
        """
        return self._delivery.flush(timeout)

    def close(self) -> None:
        """Lets go of the connections. May be called twice; a later call opens new ones.

        With an ``Outbox`` it waits up to ``drain_timeout`` seconds (2.0) for what can still be
        sent; the rest stays in the file.

        Example:
            >>> client.close()
        """
        self._delivery.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"CMSClient(host={self._host!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a CMSClient holds a token and is not pickled: make one a process")

    def _track(
        self, kind: EventKind, fields: Mapping[str, Any], idempotency_key: Optional[str]
    ) -> TrackResult:
        try:
            event = Event.create(kind, fields, idempotency_key)
        except InvalidEvent as error:
            key = idempotency_key if is_idempotency_key(idempotency_key) else None
            return results.invalid(error, key and str.__str__(key))
        return self._delivery.deliver(event)


def _warn_of_plain_http(configuration: Configuration, stacklevel: int) -> None:
    url = urlsplit(configuration.host or "")
    if url.scheme == "http" and not settings.is_this_machine(url.hostname or ""):
        warnings.warn(
            "host is plain http: the token travels unencrypted. Use https://.",
            stacklevel=stacklevel,
        )
