"""``cms-python lead`` and its like for each kind: one event, its arguments as options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from cms_python import CMSClient, Delivery, Event, TrackResult
from cms_python.api.tracking_api import PAYLOADS
from cms_python.cli.common import Command, Connection, connection_options, print_json
from cms_python.results import success

__all__ = ["COMMANDS"]

_ARGUMENT = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
_CENTS = re.compile(r"-?[0-9]{1,18}")
# What the docstring says of datetimes is of no use here.
_OWN_HELP = {
    "timestamp": "When it happened, in ISO 8601, such as 2026-01-31T09:30:00Z; without a zone it is"
    " local time. By default the time of arrival counts.",
}
_EXAMPLES: dict[str, Sequence[str]] = {
    "lead": (
        "cms-python lead --event-name signup_started --customer-external-id user_42 \\",
        "    --click-id id_123",
        "cms-python lead --event-name lead_captured --customer-external-id user_42 \\",
        "    --click-id id_123 --mode deferred",
        "cms-python lead --event-name kyc_completed --customer-external-id user_42 --dry-run",
    ),
    "sale": (
        "cms-python sale --event-name purchase_completed --customer-external-id user_42 \\",
        "    --click-id id_123 --invoice-id inv_987 --amount 4999 --currency USD",
    ),
}


def cents(text: str) -> int:
    if _CENTS.fullmatch(text) is None:
        raise click.BadParameter("must be whole cents: 777 means 7.77.")
    return int(text)


class _Preview(Delivery):
    """Shows what would be sent."""

    def deliver(self, event: Event) -> TrackResult:
        data = {
            "path": f"/track/{event.kind}",
            "idempotency_key": event.idempotency_key,
            "body": event.payload.to_dict(),
        }
        return success("Dry run: nothing was sent", data)


def _command(kind: str) -> click.Command:
    """The command that tracks an event of a kind and takes the method's arguments as options."""
    method: Callable[..., TrackResult] = getattr(CMSClient, f"track_{kind}")

    @click.option(
        "--dry-run", is_flag=True, help="Show what would be sent, and send nothing. Needs no token."
    )
    @connection_options
    def track(connection: Connection, dry_run: bool, **fields: Any) -> int:
        with _preview_client(connection) if dry_run else connection.client() as client:
            result: TrackResult = getattr(client, method.__name__)(**fields)
        print_json(result)
        return 0 if result["success"] is True else 1

    for option in reversed(_options(method)):
        track = option(track)
    summary = (inspect.getdoc(method) or "").partition("\n")[0]
    examples = _EXAMPLES.get(kind, ())
    return click.command(kind, cls=Command, help=summary, examples=examples)(track)


def _options(method: Callable[..., Any]) -> list[Callable[[Any], Any]]:
    hints, help_texts = get_type_hints(method), {**_help_texts(method), **_OWN_HELP}
    # The first is the client.
    _, *arguments = inspect.signature(method).parameters.values()
    return [
        click.option(
            f"--{argument.name.replace('_', '-')}",
            type=_type(hints[argument.name]),
            required=argument.default is argument.empty,
            help=help_texts.get(argument.name),
        )
        for argument in arguments
    ]


def _type(hint: Any) -> Any:
    for each in (hint, *get_args(hint)):
        if each is int:
            return cents
        if get_origin(each) is Literal:
            return click.Choice(get_args(each))
    return click.STRING


def _help_texts(method: Callable[..., Any]) -> dict[str, str]:
    """What the docstring says of each argument."""
    section = (inspect.getdoc(method) or "").partition("Args:\n")[2].partition("\n\n")[0]
    return {name: _sentence(text) for name, text in _ARGUMENT.findall(section)}


def _sentence(text: str) -> str:
    plain = " ".join(text.replace("``", "").split())
    return plain[:1].upper() + plain[1:]


def _preview_client(connection: Connection) -> CMSClient:
    try:
        return CMSClient(host=connection.host.value, delivery=_Preview())
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None


COMMANDS = [_command(kind) for kind in PAYLOADS]
