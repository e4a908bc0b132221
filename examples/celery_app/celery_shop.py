"""What web processes and workers share: the Celery application, and the client."""

import os

from celery import Celery

from cms_python import CMSClient
from cms_python.delivery.celery import CeleryDelivery, configure_worker

app = Celery("shop", broker=os.environ.get("BROKER_URL", "redis://localhost:6379/0"))
app.conf.update(
    imports=["cms_python.delivery.celery"],  # the task cms_python.deliver
    broker_connection_retry_on_startup=True,
)
configure_worker(app, dead_letter_queue="cms_dead")

# Nothing is opened here: a web server may import this and fork.
client = CMSClient(delivery=CeleryDelivery(app, outbox=os.environ.get("SHOP_OUTBOX", "events.db")))
