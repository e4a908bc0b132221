"""A shop's web process: customers sign up, and some of them buy."""

import sys
import time
from itertools import count

from celery_shop import client

CUSTOMERS = 5


def serve(customer: int) -> None:
    """What the requests of one customer would do."""
    click_id, name = f"click_{customer}", f"user_{customer}"
    client.track_lead("signup_started", name, click_id=click_id)
    if customer % 2:
        invoice = f"inv_{customer}"
        client.track_sale(click_id, "purchase_completed", name, invoice, 4999, "USD")


def main() -> None:
    stays = "--stay" in sys.argv
    for customer in count(1) if stays else range(1, CUSTOMERS + 1):
        serve(customer)
        if stays:
            time.sleep(1)
    # A script that ends for good sees to it that the broker has all; a server need not.
    client.flush(timeout=30)
    client.close()


if __name__ == "__main__":
    main()
