"""Starts the sandbox, tracks against it, and shows each result and what the server stored.

python -m pip install "cms-python-client[sandbox]"
python examples/quickstart.py
"""

import json

from cms_python import CMSClient, Configuration, TrackResult
from cms_python.sandbox import Sandbox


def show(title: str, result: TrackResult) -> None:
    print(f"\n{title}\n{json.dumps(result, indent=2)}")


# The sandbox is on this machine: a proxy that the environment names would not find it.
here = Configuration(proxy="")

with Sandbox() as sandbox, CMSClient("your_jwt_token", sandbox.url, configuration=here) as client:
    print(f"The sandbox listens at {sandbox.url}.")
    show(
        "1. A lead",
        client.track_lead(
            click_id="id_123",
            event_name="signup_started",
            customer_external_id="user_42",
            customer_name="Jane Doe",
            customer_email="jane@example.com",
        ),
    )
    show(
        "2. A deferred lead: the click is stored, no lead is counted yet",
        client.track_lead(
            click_id="id_456",
            event_name="lead_captured",
            customer_external_id="user_43",
            mode="deferred",
        ),
    )
    show(
        "3. Its follow-up, which needs no click id",
        client.track_lead(event_name="kyc_completed", customer_external_id="user_43"),
    )
    show(
        "4. A sale of 49.99 USD",
        client.track_sale(
            click_id="id_123",
            event_name="purchase_completed",
            customer_external_id="user_42",
            invoice_id="inv_987",
            amount=4999,
            currency="USD",
        ),
    )
    show(
        "5. A sale that is refused before it is sent: 49.99 is not whole cents",
        client.track_sale(
            click_id="id_123",
            event_name="purchase_completed",
            customer_external_id="user_42",
            invoice_id="inv_988",
            amount=49.99,  # type: ignore[arg-type]  # the mistake that is shown
            currency="USD",
        ),
    )
    print("\nWhat the server stored")
    for event in sandbox.events:
        print(f"  {event.kind} {event.event_name} of {event.customer_external_id}", end=" ")
        print(f"through {event.click_id}" + (f": {event.amount} cents" if event.amount else ""))
