"""Now, over HTTP: attempts inside one deadline."""

from __future__ import annotations

import logging
import time
from time import monotonic
from typing import Optional

from cms_python import results, settings
from cms_python.api import TrackingApi
from cms_python.api_response import ApiResponse
from cms_python.delivery import Delivery, logs, retries
from cms_python.events import Event
from cms_python.exceptions import ApiException
from cms_python.models import TrackResponse
from cms_python.results import TrackFailure, TrackResult

__all__ = ["Direct"]

# Seconds below which the time that is left is not shared with a further attempt.
SHORTEST_ATTEMPT = 1.0
# Seconds without which an attempt could only end in doubt.
LEAST_ATTEMPT = 0.05

_log = logging.getLogger("cms_python")


class Direct(Delivery):
    """Sends each event at once and waits for the answer. A client without a delivery has one.

    ``api`` makes the requests. ``timeout`` bounds a delivery in seconds, all attempts and the waits
    between them together. After the first attempt at most ``max_retries`` more are made.
    """

    def __init__(self, api: TrackingApi, *, timeout: float, max_retries: int) -> None:
        settings.check_limits(timeout, max_retries)
        self._api = api
        self.timeout = timeout
        self._max_retries = max_retries
        self._failure_level = logging.WARNING

    def deliver(self, event: Event) -> TrackResult:
        """Returns when the API has answered, or when no further attempt helps or fits."""
        deadline = monotonic() + self.timeout
        latest = deadline - LEAST_ATTEMPT
        attempts, ambiguous = 0, False
        while True:
            attempts += 1
            try:
                response = self._attempt(event, attempts, deadline)
                refusal = results.refusal(response)
                if refusal is None:
                    return results.accepted(response)
                failed = refusal
            except ApiException as error:
                # Its frames lead back to this one, and hold sockets.
                failed = error.with_traceback(None)
            if failed.status == 409 and ambiguous:
                return results.success("Event tracked successfully by an earlier attempt")
            ambiguous = ambiguous or retries.may_have_arrived(failed)
            wait = self._wait(failed, attempts)
            if wait is not None and monotonic() + wait <= latest:
                time.sleep(wait)
                # A busy machine sleeps for longer.
                if monotonic() <= latest:
                    continue
            return self._given_up(event, failed, attempts, ambiguous)

    def with_options(
        self, timeout: Optional[float] = None, max_retries: Optional[int] = None
    ) -> Direct:
        """A delivery over the same connections, with other limits where they are given."""
        return Direct(
            self._api,
            timeout=self.timeout if timeout is None else timeout,
            max_retries=self._max_retries if max_retries is None else max_retries,
        )

    def once(self) -> Direct:
        """One attempt over the same connections, whose failure is no news."""
        made = self.with_options(max_retries=0)
        made._failure_level = logging.DEBUG
        return made

    def close(self) -> None:
        """Closes the idle connections. A later delivery opens new ones."""
        self._api.api_client.close()

    def _attempt(self, event: Event, attempts: int, deadline: float) -> ApiResponse[TrackResponse]:
        """One request, in the time that is left for it."""
        started = monotonic()
        left = deadline - started
        if attempts <= self._max_retries:
            # A server that hangs must leave time for another attempt.
            left = max(left / 2, min(left, SHORTEST_ATTEMPT))
        payload, key, status = event.payload, event.idempotency_key, 0
        try:
            response = self._api.send(payload, key, _request_timeout=left)
            status = response.status_code
            return response
        except ApiException as error:
            status = error.status
            raise
        finally:
            milliseconds = (monotonic() - started) * 1000
            _log.debug(
                "POST /track/%s: status %d, attempt %d, %.0f ms, key %s",
                event.kind,
                status,
                attempts,
                milliseconds,
                key,
            )

    def _wait(self, failed: ApiException, attempts: int) -> Optional[float]:
        """Seconds until the next attempt, None where none may help or is left."""
        if attempts > self._max_retries or not retries.is_retryable(failed):
            return None
        return max(retries.backoff(attempts), retries.retry_after(failed.headers) or 0.0)

    def _given_up(
        self, event: Event, failed: ApiException, attempts: int, ambiguous: bool
    ) -> TrackFailure:
        token = self._api.api_client.configuration.access_token
        failure = results.failure(
            failed,
            attempts=attempts,
            idempotency_key=event.idempotency_key,
            retryable=retries.is_retryable(failed),
            ambiguous=ambiguous,
            retry_after=retries.retry_after(failed.headers),
            hidden=[*event.personal_data(), *filter(None, [token])],
        )
        logs.gave_up(event, failure, self._failure_level)
        return failure
