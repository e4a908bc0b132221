# Generated from openapi.yaml. Edit templates/ and run `make generate`.
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cms_python.exceptions import InvalidResponseException
from cms_python.models.base_model import Model

T = TypeVar("T", bound=Model)


@dataclass(frozen=True)
class ApiResponse(Generic[T]):
    """A 2xx answer whose body is a JSON object, or empty.

    ``status_code`` is the HTTP status; ``headers`` have lower-case names. ``content`` is the body
    as the server wrote it, ``raw_data`` its bytes, ``data`` its model, a ``response_type``.
    """

    status_code: int
    headers: Mapping[str, str] = field(repr=False)
    raw_data: bytes = field(repr=False)
    content: dict[str, Any] = field(repr=False)
    response_type: type[T]

    @property
    def data(self) -> T:
        """The answer's model. Raises InvalidResponseException where the answer has other types."""
        try:
            return self.response_type.from_dict(self.content)
        except ValueError:
            reason = f"The answer does not fit {self.response_type.__name__}."
        raise InvalidResponseException(self.status_code, reason, self.headers, self.raw_data)
