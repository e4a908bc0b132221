# Generated from openapi.yaml. Edit templates/ and run `make generate`.
from collections.abc import Mapping
from typing import Any, NoReturn, Optional, TypeVar

from typing_extensions import Self

from cms_python.api_response import ApiResponse
from cms_python.configuration import Configuration
from cms_python.exceptions import InvalidResponseException, exception_type
from cms_python.models.base_model import Model
from cms_python.rest import RESTClient, RESTResponse

T = TypeVar("T", bound=Model)


class ApiClient:
    """Turns models into requests and answers into models. One serves many threads.

    ``configuration`` says where requests go, and how; by default a ``Configuration()``.
    """

    def __init__(self, configuration: Optional[Configuration] = None) -> None:
        self.configuration = configuration or Configuration()
        self.rest_client = RESTClient(self.configuration)
        self._headers = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": self.configuration.user_agent,
        }
        if self.configuration.access_token is not None:
            self._headers["Authorization"] = f"Bearer {self.configuration.access_token}"

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Model,
        headers: Mapping[str, Optional[str]],
        timeout: float,
        response_type: type[T],
    ) -> ApiResponse[T]:
        """Sends one request and reads its answer. Raises ApiException for any but a good one.

        ``method`` is POST or the like, ``path`` what follows the host, ``body`` a payload. Of the
        ``headers`` those that are None are left out. ``timeout`` is in seconds, for all of the
        request. ``response_type`` is the model of the answer.
        """
        given = {name: value for name, value in headers.items() if value is not None}
        answer = self.rest_client.request(
            method,
            path,
            headers={**self._headers, **given},
            body=body.to_json().encode(),
            timeout=timeout,
        )
        if not 200 <= answer.status < 300:
            raise exception_type(answer.status)(
                answer.status, answer.reason, answer.headers, answer.data, _json_or_none(answer)
            )
        content = _object(answer)
        return ApiResponse(answer.status, answer.headers, answer.data, content, response_type)

    def close(self) -> None:
        """Closes the idle connections. A later call opens new ones."""
        self.rest_client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an ApiClient holds a token and is not pickled: make one a process")


def _object(answer: RESTResponse) -> dict[str, Any]:
    """The JSON object that a good answer holds; an empty body counts as an empty object."""
    content = _json_or_none(answer) if answer.data.strip() else {}
    if not isinstance(content, dict):
        reason = "The answer is not a JSON object."
        raise InvalidResponseException(answer.status, reason, answer.headers, answer.data)
    return content


def _json_or_none(answer: RESTResponse) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None
