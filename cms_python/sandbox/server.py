"""The sandbox itself: rules, store and transport put together, started and stopped."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

from cms_python.sandbox.application import Application
from cms_python.sandbox.rules import Rules
from cms_python.sandbox.store import RecordedEvent, Store
from cms_python.sandbox.transport import Server

if TYPE_CHECKING:
    from typing_extensions import Self


class Sandbox:
    """A local server that honours the API's contract.

    Args:
        port: The port to listen on. The default, 0, takes a free one.
        host: The address to listen on, and besides the names of this machine (127.0.0.1,
            localhost, [::1]) the only one that a request's Host and Origin may name.
        token: The only bearer token to accept. By default any that is not empty passes.

    Nothing is opened before ``start()``, or ``with``, which also stops:

        with Sandbox() as sandbox:
            client = CMSClient("any-token", host=sandbox.url)
            client.track_lead(click_id="id_123", event_name="signup", customer_external_id="42")
            assert "id_123" == sandbox.events[0].click_id

    What was recorded stays readable after the sandbox has stopped.
    """

    def __init__(self, port: int = 0, *, host: str = "127.0.0.1", token: str | None = None) -> None:
        self._port = port
        self._host = host
        self._token = token
        self._store = Store()
        self._lock = threading.Lock()
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
        """The leads and sales that counted so far, in the order of arrival, as a copy.

        A deferred lead is no event but an entry of ``deferred_clicks``; neither a repeated lead
        nor a repeated invoice is stored again.
        """
        return self._store.events()

    @property
    def deferred_clicks(self) -> dict[str, str]:
        """The click id that deferred leads stored, by ``customerExternalId``, as a copy."""
        return self._store.deferred_clicks()

    def reset(self) -> None:
        """Forget events, stored clicks and idempotency keys; keep running."""
        self._store.reset()

    def start(self) -> None:
        """Listen and serve in the background. Does nothing when already running.

        Raises:
            OSError: The address can't be listened on, for instance because it is in use.
        """
        # Imported here because openapi-core takes long to import.
        from cms_python.sandbox.contract import load_contract

        with self._lock:
            if self._server is not None:
                return
            rules = Rules(load_contract(), self._store, self._token)
            self._server = self._listen(Application(rules, self._host))
            self._thread = threading.Thread(
                target=self._server.serve_forever, args=(0.05,), name="cms-sandbox", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Close the socket and every connection. Does nothing when not running."""
        with self._lock:
            if self._server is None or self._thread is None:
                return
            self._server.stop()
            self._thread.join()
            self._server = self._thread = None

    def _listen(self, application: Application) -> Server:
        try:
            return Server(self._host, self._port, application)
        except OSError as error:
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
