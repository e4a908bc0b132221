"""The Celery application of test_celery.py, and its processes that track.

Workers load it by `celery -A celery_child worker`, producers run `python celery_child.py COMMAND
ARGUMENT...`. An event is a number; its name is the number, and each has a customer of its own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from celery import Celery

from cms_python import CMSClient, Event, TrackResult
from cms_python.delivery.celery import CeleryDelivery, configure_worker

PERSONAL = "jane.doe@example.com"

app = Celery("celery_child", broker=os.environ["TEST_BROKER"])
app.conf.update(
    broker_transport_options=json.loads(os.environ["TEST_TRANSPORT_OPTIONS"]),
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=4,
    # An application's own settings for its tasks, which would drop events, are not ours.
    task_acks_late=False,
    task_time_limit=1,
    task_ignore_result=False,
    **json.loads(os.environ.get("TEST_SETTINGS", "{}")),
)
app.autodiscover_tasks(["cms_python.delivery"], related_name="celery")


def note(event: Event, result: TrackResult) -> None:
    """Writes down what was settled, a line each."""
    line = f"{event.payload.event_name} {'delivered' if result['success'] is True else 'dead'}\n"
    with Path(os.environ["TEST_NOTES"]).open("a", encoding="ascii") as notes:
        notes.write(line)


if "TEST_NOTES" in os.environ:
    configure_worker(app, on_result=note, dead_letter_queue="dead_letters")


def say(text: object) -> None:
    os.write(1, f"{text}\n".encode())


def queue(client: CMSClient, number: int) -> None:
    result = client.track_lead(
        str(number), f"customer-{number}", click_id="id_123", customer_email=PERSONAL
    )
    assert result["success"] is True, result
    assert result["data"]["queued"] is True, result


def track(path: str, first: str, count: str) -> None:
    """Says each number once its call has returned; at half of them waits for a line."""
    client = CMSClient(delivery=CeleryDelivery(app, path))
    for number in range(int(first), int(first) + int(count)):
        if number == int(first) + int(count) // 2:
            sys.stdin.readline()
        queue(client, number)
        say(number)
    # The others may still be handing on what this one has queued.
    client.flush(timeout=120)
    client.close()


def queue_on_both_sides(client: CMSClient, of_child: int, own: int) -> None:
    """Forks; the child tracks one event, the process another, and the broker gets both."""
    child = os.fork()
    if child == 0:
        queue(client, of_child)
        os._exit(0 if client.flush(timeout=30) else 1)
    queue(client, own)
    assert client.flush(timeout=30)
    assert os.waitpid(child, 0)[1] == 0


def track_across_a_fork(path: str) -> None:
    """Tracks in a process, in a child of it, and in the process once more."""
    client = CMSClient(delivery=CeleryDelivery(app, path))
    queue(client, 1)
    assert client.flush(timeout=30)
    queue_on_both_sides(client, 2, 3)
    queue(client, 4)
    assert client.flush(timeout=30)
    client.close()


def track_after_a_fork(path: str) -> None:
    """Says when the client is made, waits for a line, and tracks in a child and in the process."""
    client = CMSClient(delivery=CeleryDelivery(app, path))
    say("made")
    sys.stdin.readline()
    queue_on_both_sides(client, 1, 2)
    client.close()


COMMANDS = {each.__name__: each for each in (track, track_across_a_fork, track_after_a_fork)}

if __name__ == "__main__":
    assert "CMS_BEARER_TOKEN" not in os.environ
    COMMANDS[sys.argv[1]](*sys.argv[2:])
