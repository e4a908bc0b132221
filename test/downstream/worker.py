"""The processes behind a user's shop, and its tests, under the same checks as shop.py."""

from collections.abc import Mapping
from typing import Any

from celery import Celery
from typing_extensions import assert_never, reveal_type

from cms_python import CMSClient, Event, TrackResult
from cms_python.delivery import OnResult
from cms_python.delivery.celery import TASK, CeleryDelivery, configure_worker
from cms_python.delivery.jobs import Outcome, deliver
from cms_python.sandbox import RecordedEvent, Sandbox
from cms_python.testing import cms_client, cms_sandbox

__all__ = ["cms_client", "cms_sandbox"]


def handle(job: Mapping[str, Any], client: CMSClient) -> str:
    outcome = deliver(job, client, max_age=3600)
    reveal_type(outcome)  # Outcome
    reveal_type(outcome.verdict)  # Literal['delivered', 'again', 'dead']
    reveal_type(outcome.job)  # dict[str, Any]
    reveal_type(outcome.wait)  # float
    reveal_type(outcome.event)  # Event | None
    reveal_type(outcome.result)  # TrackSuccess | TrackFailure | None
    if outcome.verdict == "delivered":
        return "Delivered"
    if outcome.verdict == "again":
        return f"Again in {outcome.wait} seconds"
    if outcome.verdict == "dead":
        return reason(outcome)
    assert_never(outcome.verdict)


def reason(outcome: Outcome) -> str:
    result = outcome.result
    return result["error"] if result is not None and "error" in result else "No reason"


def on_result(event: Event, result: TrackResult) -> None:
    print(event.kind, result["success"])


def make_client(app: Celery, told: OnResult) -> CMSClient:
    configure_worker(app, on_result=told, dead_letter_queue="cms_dead", max_age=3600)
    app.conf.task_routes = {TASK: {"queue": "cms"}}
    delivery = CeleryDelivery(app, outbox="events.db", queue="cms")
    reveal_type(delivery)  # CeleryDelivery
    reveal_type(delivery.dead())  # list[DeadEvent]
    return CMSClient(delivery=delivery)


def revenue(sandbox: Sandbox) -> int:
    reveal_type(sandbox.url)  # str
    reveal_type(sandbox.events)  # list[RecordedEvent]
    reveal_type(sandbox.events[0].amount)  # int | None
    reveal_type(sandbox.events[0].payload)  # dict[str, Any]
    reveal_type(sandbox.deferred_clicks)  # dict[str, str]
    return sum(map(cents, sandbox.events))


def cents(event: RecordedEvent) -> int:
    return event.amount or 0


def test_a_sale_is_tracked_again(cms_client: CMSClient, cms_sandbox: Sandbox) -> None:
    cms_sandbox.fail_next(503, times=2, retry_after=0)
    assert cms_client.track_sale("id_1", "bought", "user_1", "inv_1", 4999, "USD")["success"]
    assert revenue(cms_sandbox) == 4999


def main() -> None:
    with Sandbox(duplicates="replay") as sandbox, CMSClient("a-token", sandbox.url) as client:
        reveal_type(sandbox)  # Sandbox
        fields = {
            "click_id": "id_1",
            "event_name": "bought",
            "customer_external_id": "user_1",
            "invoice_id": "inv_1",
            "amount": 4999,
            "currency": "USD",
        }
        event = Event.create("sale", fields)
        print(handle(event.to_dict(), client), revenue(sandbox))
    with make_client(Celery("shop", broker="memory://"), on_result) as client:
        print(client)


if __name__ == "__main__":
    main()
