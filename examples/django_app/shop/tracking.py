"""All that the shop tells the API of conversions."""

from __future__ import annotations

import logging
from typing import Optional

from django.conf import settings

from cms_python import CMSClient, Outbox, TrackResult
from shop.models import Customer, Order

LONGEST_CLICK_ID = 255

# One for the whole program. It opens nothing before its first event, so a server may load this
# module before it forks. Django has no hook for the end: the outbox sees to that by itself, and
# what it cannot send by then is sent after the next start.
client = CMSClient(delivery=Outbox(settings.OUTBOX))


def click_id_of(cookie: Optional[str]) -> str:
    """The click id in the cookie, or an empty text. Anybody can put anything there."""
    click_id = (cookie or "").strip()
    # Too long for the API, or not storable in every database: no click, and never an error.
    if not click_id.isprintable() or len(click_id) > LONGEST_CLICK_ID:
        return ""
    return click_id


def track_lead(customer: Customer) -> None:
    if not customer.click_id:
        return  # No click brought this customer.
    log_failure(
        client.track_lead(
            click_id=customer.click_id,
            event_name="signup_completed",
            customer_external_id=f"user_{customer.pk}",
            customer_email=customer.email,
            idempotency_key=f"signup-{customer.pk}",
        )
    )


def track_sale(order: Order) -> None:
    if not order.customer.click_id:
        return  # No click brought this customer.
    log_failure(
        client.track_sale(
            click_id=order.customer.click_id,
            event_name="purchase_completed",
            customer_external_id=f"user_{order.customer.pk}",
            invoice_id=str(order.number),
            # Exact: the total is a Decimal of two places, never a float.
            amount=int(order.total * 100),
            currency="USD",
            timestamp=order.placed_at,
            idempotency_key=f"order-{order.number}",
        )
    )


def log_failure(result: TrackResult) -> None:
    # A call never raises, so a sign-up or an order does not fail because of it.
    if result["success"] is False:
        logging.getLogger(__name__).warning("Not tracked: %s", result["error"])
