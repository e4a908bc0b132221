"""A user's program, under the strictest checks of mypy and pyright. Behind each reveal_type() is
the type that both must find; `Any` stands only where the API promises no shape."""

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Literal, Optional

from typing_extensions import assert_never, override, reveal_type

from cms_python import (
    ApiClient,
    ApiException,
    CMSClient,
    Configuration,
    Delivery,
    ErrorResponse,
    Event,
    LeadPayload,
    Outbox,
    SalePayload,
    TrackFailure,
    TrackingApi,
    TrackResult,
    TrackSuccess,
    TransportException,
)
from cms_python.delivery.outbox import DeadEvent, OutboxError
from cms_python.events import InvalidEvent
from cms_python.results import success


def sell(client: CMSClient, invoice: str, cents: int) -> Optional[str]:
    result = client.track_sale(
        click_id="id_1",
        event_name="bought",
        customer_external_id="user_1",
        invoice_id=invoice,
        amount=cents,
        currency="USD",
        timestamp=datetime.now(timezone.utc),
    )
    reveal_type(result)  # TrackSuccess | TrackFailure
    if result["success"] is True:
        reveal_type(result)  # TrackSuccess
        reveal_type(result["message"])  # str
        reveal_type(result["data"])  # Any
        return None
    reveal_type(result)  # TrackFailure
    reveal_type(result["status_code"])  # int
    reveal_type(result["retry_after"])  # float | None
    reveal_type(result["ambiguous"])  # bool
    reveal_type(result["details"])  # Any
    return result["idempotency_key"] if result["retryable"] else None


def sign_up(client: CMSClient, mode: Optional[Literal["deferred"]] = None) -> str:
    result = client.track_lead("signup", "user_1", click_id="id_1", mode=mode)
    if "error" in result:
        reveal_type(result)  # TrackFailure
        return result["error"]
    reveal_type(result)  # TrackSuccess
    return result["message"]


class Recording(Delivery):
    """Keeps events, as a user's own delivery may."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    @override
    def deliver(self, event: Event) -> TrackResult:
        reveal_type(event.payload)  # LeadPayload | SalePayload
        reveal_type(event.idempotency_key)  # str
        self.events.append(event)
        if event.kind == "lead":
            return success("Recorded")
        if event.kind == "sale":
            return refused(event)
        assert_never(event.kind)

    @override
    def flush(self, timeout: Optional[float] = None) -> bool:
        return not self.events


def refused(event: Event) -> TrackFailure:
    return {
        "success": False,
        "error": "Sales are not recorded",
        "status_code": 0,
        "type": "refused",
        "details": None,
        "retryable": False,
        "ambiguous": False,
        "attempts": 0,
        "idempotency_key": event.idempotency_key,
        "retry_after": None,
    }


def on_result(event: Event, result: TrackResult) -> None:
    if result["success"] is not True:
        print(event.created_at, result["error"])


def errors_of(outbox: Outbox) -> Iterator[str]:
    try:
        reveal_type(outbox.stats().oldest_age)  # float
        reveal_type(outbox.stats().paused)  # str | None
        reveal_type(outbox.dead())  # list[DeadEvent]
        for dead in outbox.dead():
            yield sentence(dead)
        for state, event in outbox.events():
            reveal_type(state)  # Literal['queued', 'dead']
            reveal_type(event)  # Event | None
    except OutboxError as error:
        yield str(error)


def sentence(dead: DeadEvent) -> str:
    reveal_type(dead.event)  # Event | None
    return f"{dead.status_code} {dead.error}"


def call_the_api(configuration: Configuration) -> Optional[str]:
    lead = LeadPayload(event_name="signup", customer_external_id="user_1", click_id="id_1")
    reveal_type(lead.click_id)  # str | None
    reveal_type(lead.timestamp)  # datetime | None
    reveal_type(lead.mode)  # Literal['deferred'] | None
    reveal_type(SalePayload.from_json("{}"))  # SalePayload
    with ApiClient(configuration) as api_client:
        api = TrackingApi(api_client)
        try:
            answer = api.track_lead_with_http_info(lead, "key_1")
            reveal_type(answer)  # ApiResponse[TrackResponse]
            reveal_type(answer.status_code)  # int
            return answer.data.message
        except TransportException as error:
            reveal_type(error.sent)  # bool
            return error.reason
        except ApiException as error:
            reveal_type(error.headers)  # Mapping[str, str]
            return ErrorResponse.from_json(error.body.decode()).error


def problems() -> dict[str, str]:
    try:
        event = Event.create("lead", {"event_name": "signup"})
        reveal_type(event)  # Event
    except InvalidEvent as error:
        reveal_type(error.details)  # dict[str, str]
        return error.details
    return {}


def main() -> None:
    with CMSClient(token="a-token", delivery=Recording()) as client:
        reveal_type(client)  # CMSClient
        print(sell(client, "inv_1", 4999), sign_up(client, mode="deferred"), client.flush())
    direct = CMSClient(token="a-token", host="https://custom.com", timeout=2.5)
    reveal_type(direct.with_options(max_retries=1))  # CMSClient
    print(list(errors_of(Outbox("events.db", on_result=on_result))), problems())
    queued: TrackSuccess = success("Event queued", {"event_id": 1})
    print(queued, call_the_api(Configuration(host="http://127.0.0.1:9")))


if __name__ == "__main__":
    main()
