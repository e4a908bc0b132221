"""The JSON API under /_sandbox/: what came so far, what comes now, and what shall fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, NoReturn

from werkzeug.wrappers import Request, Response

from cms_python import money
from cms_python.sandbox.answers import Refusal
from cms_python.sandbox.assets import asset
from cms_python.sandbox.curl import curl_command
from cms_python.sandbox.entries import Entry
from cms_python.sandbox.faults import Fault, Faults
from cms_python.sandbox.store import KEPT, MINUTES, Query, Store
from cms_python.sandbox.stream import Streams, message
from cms_python.sandbox.transport import CONNECTION

PREFIX = "/_sandbox/"
_QUERY_FIELDS = {"after", "before", "kind", "search", "limit"}
_LARGEST_ID = 2**63 - 1

Action = Callable[[Request], Response]


class Api:
    """Answers what is asked about the sandbox itself."""

    def __init__(
        self, kinds: Sequence[str], store: Store, faults: Faults, streams: Streams
    ) -> None:
        self._kinds = kinds
        self._store = store
        self._faults = faults
        self._streams = streams
        self._actions: dict[str, dict[str, Action]] = {
            "healthz": {"GET": lambda _: _json({"status": "ok"})},
            "kinds": {"GET": lambda _: _json(self._kinds)},
            "events": {"GET": self._list_events},
            "stats": {"GET": self._show_stats},
            "clicks": {"GET": self._list_clicks},
            "stream": {"GET": self._stream},
            "reset": {"POST": self._reset},
            "faults": {
                "GET": self._show_faults,
                "PUT": self._replace_faults,
                "DELETE": self._clear_faults,
            },
        }

    def answer(self, request: Request) -> Response:
        """Find the action that a request asks for, and carry it out."""
        actions = self._actions_at(request.path[len(PREFIX) :])
        method = "GET" if request.method == "HEAD" else request.method
        if method not in actions:
            refuse_method(*actions)
        if method != "GET" and request.mimetype != "application/json":
            # A form on a foreign page can't send this type without asking first.
            raise Refusal(
                "bad_request",
                "This must be sent as application/json.",
                {"Content-Type": "must be application/json"},
            )
        return actions[method](request)

    def _actions_at(self, address: str) -> dict[str, Action]:
        if address.startswith("page/"):
            return {"GET": lambda _: asset(address[len("page/") :])}
        if address.startswith("events/") and address.endswith("/curl"):
            number = address[len("events/") : -len("/curl")]
            return {"GET": lambda request: self._show_curl(request, number)}
        actions = self._actions.get(address)
        if actions is None:
            raise Refusal("not_found", "There is nothing at this address.")
        return actions

    # What came

    def _list_events(self, request: Request) -> Response:
        query = _read_query(request, self._kinds)
        with self._store.transaction():
            entries = self._store.entries(query)
            last_id, _ = self._store.last_ids()
        if not query.newest and len(entries) == query.limit:
            last_id = entries[-1].id  # there may be more, so this is where to go on
        return _json({"events": [vars(entry) for entry in entries], "last_id": last_id})

    def _show_curl(self, request: Request, number: str) -> Response:
        entry = self._entry(number)
        if not entry.body_complete:
            raise Refusal("not_found", "The body of this request was too large to be kept.")
        return Response(curl_command(entry, request.host_url), mimetype="text/plain")

    def _entry(self, number: str) -> Entry:
        if number.isdecimal() and len(number) < len(str(_LARGEST_ID)):
            query = Query(after=int(number) - 1, before=int(number) + 1)
            for entry in self._store.entries(query):
                return entry
        raise Refusal("not_found", "There is no such event, or not any more.")

    def _show_stats(self, _: Request) -> Response:
        with self._store.transaction():
            tallies = self._store.tallies()
            clicks = self._store.deferred_clicks()
        names = [*(f"{kind}s" for kind in self._kinds), "refused", "duplicates"]
        return _json(
            {
                **{name: tallies.get(name, 0) for name in names},
                "deferred_clicks": len(clicks),
                "revenue": list(_revenue(tallies)),
                "per_minute": list(_per_minute(tallies)),
            }
        )

    def _list_clicks(self, _: Request) -> Response:
        with self._store.transaction():
            stored = self._store.deferred_clicks()
            entries = self._store.entries(Query())
        found: dict[str, dict[str, list[int]]] = {}
        for customer, click in stored.items():
            found.setdefault(click, {})[customer] = []
        for entry in entries:
            if entry.counted and entry.click_id and entry.customer_external_id:
                customers = found.setdefault(entry.click_id, {})
                customers.setdefault(entry.customer_external_id, []).append(entry.id)
        return _json([_describe_click(click, found[click], stored) for click in found])

    # What comes

    def _stream(self, request: Request) -> Response:
        text = request.headers.get("Last-Event-ID", request.args.get("after", ""))
        seen = _read_number("after", text) if text else None
        connection = request.environ[CONNECTION]

        def messages() -> Iterator[bytes]:
            with self._store.transaction():
                stream = self._streams.open(self._missed(seen))
            try:
                # What may have changed while nobody looked, and whatever changes from now on.
                self._faults.tell(lambda state: stream.put(faults_message(state)))
                yield from stream.read(connection)
            finally:
                self._streams.close(stream)

        return Response(messages(), content_type="text/event-stream; charset=utf-8")

    def _missed(self, seen: int | None) -> Iterator[str]:
        yield "retry: 1000\n\n"
        if seen is None:
            return
        last_id, reset_id = self._store.last_ids()
        if seen < reset_id or seen > last_id:
            # There has been a reset since, or even another sandbox.
            yield message("reset", "{}", reset_id)
            seen = reset_id
        for entry in self._store.entries(Query(after=seen)):
            yield message("event", entry.to_json(), entry.id)

    # What shall change

    def _reset(self, _: Request) -> Response:
        reset(self._store, self._faults, self._streams)
        return _json({})

    def _show_faults(self, _: Request) -> Response:
        return _json(self._faults.state())

    def _replace_faults(self, request: Request) -> Response:
        self._faults.replace(_read_faults(request.get_data()))
        return _json(self._faults.state())

    def _clear_faults(self, _: Request) -> Response:
        self._faults.replace([])
        return _json(self._faults.state())


def reset(store: Store, faults: Faults, streams: Streams) -> None:
    """Forget everything, the faults to come as well, and tell so."""
    faults.replace([])
    store.reset(lambda number: streams.tell(message("reset", "{}", number)))


def faults_message(state: dict[str, Any]) -> str:
    """The state of the faults, for a stream."""
    return message("faults", json.dumps(state))


def refuse_method(*allowed: str) -> NoReturn:
    """Refuse a request whose method is not one of those."""
    methods = ", ".join(allowed)
    raise Refusal(
        "method_not_allowed", f"This address takes {methods} only.", headers={"Allow": methods}
    )


def _json(content: Any) -> Response:
    return Response(json.dumps(content), content_type="application/json")


def _read_query(request: Request, kinds: Sequence[str]) -> Query:
    given = request.args
    for name in given:
        if name not in _QUERY_FIELDS:
            _refuse(name, f"must be one of {', '.join(sorted(_QUERY_FIELDS))}")
    kind = given.get("kind")
    if kind is not None and kind not in kinds:
        _refuse("kind", f"must be {' or '.join(kinds)}")
    limit = _read_number("limit", given.get("limit", str(KEPT)))
    if not 1 <= limit <= KEPT:
        _refuse("limit", f"must be a number from 1 to {KEPT}")
    return Query(
        after=_read_number("after", given.get("after", "0")),
        before=_read_number("before", given["before"]) if "before" in given else None,
        kind=kind,
        search=given.get("search", ""),
        limit=limit,
        newest="after" not in given,
    )


def _read_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 19 or int(text) > _LARGEST_ID:
        _refuse(name, "must be a number from 0 on")
    return int(text)


def _read_faults(body: bytes) -> list[Fault]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal("bad_request", "The body is not valid JSON.") from None
    if (
        not isinstance(given, dict)
        or [*given] != ["faults"]
        or not isinstance(given["faults"], list)
    ):
        _refuse("faults", "must be a list of faults, and nothing else in the body")
    try:
        return [Fault.read(fault) for fault in given["faults"]]
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        _refuse(name, rest)


def _refuse(name: str, reason: str) -> NoReturn:
    raise Refusal("bad_request", f"{name} {reason}.", {name: reason})


def _revenue(tallies: dict[str, int]) -> Iterator[dict[str, Any]]:
    for name in sorted(tallies):
        kind, _, currency = name.partition(" ")
        if kind == "revenue":
            yield {
                "currency": currency,
                "amount": tallies[name],
                "exponent": money.exponent(currency),
                "display": money.display(tallies[name], currency),
            }


def _per_minute(tallies: dict[str, int]) -> Iterator[dict[str, Any]]:
    now = datetime.now(timezone.utc).replace(second=0, microsecond=0)
    for ago in reversed(range(int(MINUTES.total_seconds()) // 60)):
        minute = (now - timedelta(minutes=ago)).isoformat()
        yield {"minute": minute, "count": tallies.get(f"minute {minute[:16]}", 0)}


def _describe_click(
    click: str, customers: dict[str, list[int]], stored: dict[str, str]
) -> dict[str, Any]:
    return {
        "click_id": click,
        "customers": [
            {
                "customer_external_id": customer,
                "deferred": stored.get(customer) == click,
                "event_ids": event_ids,
            }
            for customer, event_ids in customers.items()
        ],
    }
