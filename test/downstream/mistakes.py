"""A user's mistakes: mypy and pyright must find something wrong with just the marked lines."""

from celery import Celery

from cms_python import CMSClient, Delivery, Event, LeadPayload, Outbox, TrackSuccess
from cms_python.delivery.celery import CeleryDelivery, configure_worker
from cms_python.delivery.jobs import deliver
from cms_python.sandbox import Sandbox

client = CMSClient(token=5)  # error
client.track_sale("id_1", "bought", "user_1", "inv_1", 49.99, "USD")  # error
client.track_lead("signup", "user_1", mode="later")  # error
client.track_lead("signup", "user_1", "id_1", None, None, None, None, None, "key_1")  # error
client.track_lead("signup", "user_1")["error"]  # error
client.track_lead("signup", "user_1").message  # error
LeadPayload(customer_external_id="user_1")  # error
Outbox("events.db", on_full="drop")  # error
Outbox("events.db", on_result=print)
CMSClient(delivery="events.db")  # error
CeleryDelivery("shop", outbox="events.db")  # error
configure_worker(Celery("shop"), make_client=CMSClient("a-token"))  # error
configure_worker(Celery("shop"), on_result=len)  # error
deliver(Event.create("lead", {}))  # error
print(deliver({}).verdict == "lost")  # error
Sandbox(duplicates="again")  # error
Sandbox().fail_next("503")  # error
Sandbox().events[0].amount + 1  # error
told: TrackSuccess = client.track_lead("signup", "user_1")  # error


class Forgetful(Delivery):
    def deliver(self, event: Event) -> None:  # error
        print(event.customer)  # error
