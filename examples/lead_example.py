"""Tracks a lead, then a deferred lead with its follow-up.

    CMS_BEARER_TOKEN=your_jwt_token python examples/lead_example.py

CMS_HOST names another server, such as a sandbox started by `python -m cms_python.sandbox`.
"""

import sys

from cms_python import CMSClient, TrackResult


def show(title: str, result: TrackResult) -> bool:
    """Prints what became of a call, and tells whether the event was tracked."""
    if result["success"] is True:
        print(f"{title}: {result['message']} {result['data']}")
        return True
    print(f"{title}: failed, {result['type']} ({result['status_code']}): {result['error']}")
    return False


def main() -> int:
    try:
        client = CMSClient()
    except ValueError as error:
        print(error)
        return 2
    with client:
        tracked = [
            show(
                "Standard lead",
                client.track_lead(
                    click_id="id_123",
                    event_name="signup_started",
                    customer_external_id="user_42",
                    customer_name="Jane Doe",
                    customer_email="jane@example.com",
                ),
            ),
            show(
                "Deferred lead",
                client.track_lead(
                    click_id="id_123",
                    event_name="lead_captured",
                    customer_external_id="user_43",
                    mode="deferred",
                ),
            ),
            show(
                "Follow-up",
                client.track_lead(event_name="kyc_completed", customer_external_id="user_43"),
            ),
        ]
    return 0 if all(tracked) else 1


if __name__ == "__main__":
    sys.exit(main())
