"""The sandbox itself: rules, store and transport put together, started and stopped."""

from __future__ import annotations

import threading
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from cms_python.sandbox.api import faults_message, reset
from cms_python.sandbox.application import Application
from cms_python.sandbox.faults import Fault, Faults
from cms_python.sandbox.memory import Memory
from cms_python.sandbox.rules import Rules
from cms_python.sandbox.store import RecordedEvent, Store
from cms_python.sandbox.stream import Streams
from cms_python.sandbox.transport import Server

if TYPE_CHECKING:
    from typing_extensions import Self


class Sandbox:
    """A local server that honours the API's contract.

    Args:
        port: The port to listen on. The default, 0, takes a free one.
        host: The address to listen on, and besides the names of this machine (127.0.0.1,
            localhost, [::1]) the only one that a request's Host and Origin may name. On 0.0.0.0
            or :: any IP address and any name without a dot will do.
        token: The only bearer token to accept. By default any that is not empty passes.
        db: A SQLite file that keeps everything for the next start. By default memory does, and of
            requests and events only the newest 1,000.
        duplicates: What happens to an invoice that comes again under another idempotency key:
            "conflict" refuses it with 409, "replay" gives the first answer again. Either way it
            counts once.

    Nothing is opened before ``start()``, or ``with``, which also stops:

        with Sandbox() as sandbox:
            client = CMSClient("any-token", host=sandbox.url)
            client.track_lead(click_id="id_123", event_name="signup", customer_external_id="42")
            assert "id_123" == sandbox.events[0].click_id

    What was recorded stays readable after the sandbox has stopped.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        token: str | None = None,
        db: str | PathLike[str] | None = None,
        duplicates: Literal["conflict", "replay"] = "conflict",
    ) -> None:
        if duplicates not in ("conflict", "replay"):
            raise ValueError('duplicates must be "conflict" or "replay"')
        self._port = port
        self._host = host
        self._token = token
        self._duplicates = duplicates
        self._store = Memory() if db is None else _database(db)
        self._streams = Streams()
        self._faults = Faults(lambda state: self._streams.tell(faults_message(state)))
        self._lock = threading.Lock()
        self._application: Application | None = None
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address of the running sandbox, such as ``http://127.0.0.1:4010``.

        Raises:
            RuntimeError: The sandbox is not running.
        """
        server = self._server
        if server is None:
            raise RuntimeError(
                "The sandbox has no address while it is not running. Call start() first, or use "
                "`with Sandbox() as sandbox:`."
            )
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{server.port}"

    @property
    def events(self) -> list[RecordedEvent]:
        """The leads and sales that counted, the newest 1,000 in the order of arrival, as a copy.

        A deferred lead is no event but an entry of ``deferred_clicks``; neither a repeated lead
        nor a repeated invoice is stored again.
        """
        return self._store.events()

    @property
    def deferred_clicks(self) -> dict[str, str]:
        """The click id that deferred leads stored, by ``customerExternalId``, as a copy."""
        return self._store.deferred_clicks()

    def reset(self) -> None:
        """Forget requests, events, stored clicks, idempotency keys and faults; keep running."""
        reset(self._store, self._faults, self._streams)

    def fail_next(
        self, status: int, times: int | None = 1, retry_after: str | int | None = None
    ) -> None:
        """Answer the next requests with this status, 400 to 599, as a gateway would.

        Args:
            status: The status.
            times: How many requests; None for all of them.
            retry_after: The ``Retry-After`` header to send along: seconds, or any text.
        """
        wait = None if retry_after is None else str(retry_after)
        self._faults.add(Fault("status", status=status, times=times, retry_after=wait))

    def fail_randomly(self, probability: float, status: int = 503) -> None:
        """Answer a share of the requests with this status until cleared.

        Args:
            probability: The share, 0 to 1.
            status: The status, 400 to 599.
        """
        self._faults.add(Fault("status", status=status, probability=probability))

    def delay_next(self, seconds: float, times: int | None = 1) -> None:
        """Carry out the next requests at once, but withhold each answer.

        Args:
            seconds: How long.
            times: How many requests; None for all of them.
        """
        self._faults.add(Fault("delay", seconds=seconds, times=times))

    def lose_next_answer(self, times: int | None = 1) -> None:
        """Carry out the next requests, then close the connection instead of answering.

        Args:
            times: How many requests; None for all of them.
        """
        self._faults.add(Fault("drop_after", times=times))

    def drop_next(self, times: int | None = 1) -> None:
        """Close the connections of the next requests, which are not carried out.

        Args:
            times: How many requests; None for all of them.
        """
        self._faults.add(Fault("drop_before", times=times))

    def silence_next(self, times: int | None = 1) -> None:
        """Leave the next requests, which are not carried out, without an answer for good.

        Args:
            times: How many requests; None for all of them.
        """
        self._faults.add(Fault("silence", times=times))

    def clear_faults(self) -> None:
        """Behave again."""
        self._faults.replace([])

    def start(self) -> None:
        """Listen and serve in the background. Does nothing when already running.

        Raises:
            OSError: The address can't be listened on, for instance because it is in use, or the
                file can't be used.
        """
        # Imported here because the schema validator takes long to import.
        from cms_python.sandbox.contract import load_contract

        with self._lock:
            if self._server is not None:
                return
            contract = load_contract()
            rules = Rules(contract, self._store, self._token, self._duplicates)
            self._application = Application(
                rules, contract.kinds, self._store, self._faults, self._streams, self._host
            )
            self._store.open()
            self._server = self._listen(self._application)
            self._thread = threading.Thread(
                target=self._server.serve_forever, args=(0.05,), name="cms-sandbox", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Close the socket and every connection. Does nothing when not running.

        In a fork's child, let go of the sandbox, which goes on in the parent.
        """
        with self._lock:
            if self._server is None or self._thread is None or self._application is None:
                return
            if self._thread.is_alive():
                self._application.stop()
                self._server.stop()
                self._thread.join()
                self._store.close()
            else:
                # A fork's child has none of the threads to wait for. The rest is its parent's: it
                # closes its copy of the socket, and ends no connection.
                self._server.server_close()
            self._server = self._thread = self._application = None

    def _listen(self, application: Application) -> Server:
        try:
            return Server(self._host, self._port, application)
        except OSError as error:
            self._store.close()
            raise OSError(
                error.errno,
                f"The sandbox cannot listen on {self._host}, port {self._port} "
                f"({error.strerror}). Choose another port, or 0 for a free one",
            ) from error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        url = self.url if self._server is not None else None
        return f"Sandbox(url={url!r})"


def _database(path: str | PathLike[str]) -> Store:
    # Imported here because only who asks for a file needs sqlite3.
    from cms_python.sandbox.database import Database

    return Database(path)
