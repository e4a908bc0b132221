"""Tracks a sale of 49.99 USD under a new invoice id.

    CMS_BEARER_TOKEN=your_jwt_token python examples/sale_example.py

CMS_HOST names another server, such as a sandbox started by `python -m cms_python.sandbox`.
"""

import sys
from datetime import datetime, timezone

from cms_python import CMSClient


def main() -> int:
    try:
        client = CMSClient()
    except ValueError as error:
        print(error)
        return 2
    now = datetime.now(timezone.utc)
    with client:
        result = client.track_sale(
            click_id="id_123",
            event_name="purchase_completed",
            customer_external_id="user_42",
            invoice_id=f"inv_{now:%Y%m%d%H%M%S%f}",
            amount=4999,  # cents
            currency="USD",
            customer_email="jane@example.com",
            timestamp=now,
        )
    if result["success"] is True:
        print(f"Sale: {result['message']} {result['data']}")
        return 0
    print(f"Sale: failed, {result['type']} ({result['status_code']}): {result['error']}")
    if result["ambiguous"]:
        print(f"It may have been recorded: send it again under {result['idempotency_key']}.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
