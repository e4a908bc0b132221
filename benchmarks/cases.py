"""The clients that benchmarks/calls.py compares, each in its best current practice.

Every one posts the same sale, keeps its connection open, and reads the JSON that comes back. What
this module imports would be missing from what an import is measured to take, hence nothing here.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Call = Callable[[int], object]

MOST_THREADS = 32
HEADERS = {"Authorization": "Bearer a-token", "Content-Type": "application/json"}


def body(number: int) -> dict[str, object]:
    """What all of them send."""
    return {
        "clickId": f"click_{number}",
        "eventName": "purchase_completed",
        "customerExternalId": f"user_{number}",
        "invoiceId": f"inv_{number}",
        "amount": 4999,
        "currency": "USD",
    }


def ours(url: str, amount: Any = 4999, succeeds: bool = True) -> Call:
    from cms_python import CMSClient

    client = CMSClient("a-token", url)

    def call(number: int) -> None:
        result = client.track_sale(
            f"click_{number}",
            "purchase_completed",
            f"user_{number}",
            f"inv_{number}",
            amount,
            "USD",
        )
        assert result["success"] is succeeds, result

    return call


def refused(url: str) -> Call:
    return ours(url, amount=1.5, succeeds=False)


def published(url: str) -> Call:
    from cms_python import CMSClient

    client = CMSClient(token="a-token", host=url)

    def call(number: int) -> None:
        # Its dicts have other keys than those of this package, which is read in its place.
        result: Any = client.track_sale(
            f"click_{number}", "purchase_completed", f"user_{number}", f"inv_{number}", 4999, "USD"
        )
        assert result["status"] is True, result

    return call


def bare_urllib3(url: str) -> Call:
    import json

    import urllib3

    pool = urllib3.PoolManager(maxsize=MOST_THREADS)
    url += "/track/sale"

    def call(number: int) -> None:
        content = json.dumps(body(number)).encode()
        response = pool.request("POST", url, body=content, headers=HEADERS)
        assert json.loads(response.data)["success"] is True

    return call


def http_client(url: str) -> Call:
    import json
    from http.client import HTTPConnection

    connection = HTTPConnection(url.rpartition("/")[2])

    def call(number: int) -> None:
        content = json.dumps(body(number)).encode()
        connection.request("POST", "/track/sale", body=content, headers=HEADERS)
        assert json.loads(connection.getresponse().read())["success"] is True

    return call


def requests(url: str) -> Call:
    from requests import Session  # pyright: ignore[reportMissingModuleSource], not installed here
    from requests.adapters import HTTPAdapter  # pyright: ignore[reportMissingModuleSource], not installed here

    session = Session()
    session.headers["Authorization"] = HEADERS["Authorization"]
    session.mount("http://", HTTPAdapter(pool_maxsize=MOST_THREADS))
    url += "/track/sale"

    def call(number: int) -> None:
        response = session.post(url, json=body(number), timeout=10)
        assert response.json()["success"] is True

    return call


def httpx(url: str) -> Call:
    from httpx import Client, Limits  # pyright: ignore[reportMissingImports], not installed here

    limits = Limits(max_keepalive_connections=MOST_THREADS)
    client = Client(headers={"Authorization": HEADERS["Authorization"]}, limits=limits)
    url += "/track/sale"

    def call(number: int) -> None:
        assert client.post(url, json=body(number)).json()["success"] is True

    return call


def dub(url: str) -> Call:
    from dub import Dub  # pyright: ignore[reportMissingImports], not installed here

    client = Dub(token="a-token", server_url=url)

    def call(number: int) -> None:
        result = client.track.sale(
            request={
                "click_id": f"click_{number}",
                "event_name": "purchase_completed",
                "customer_external_id": f"user_{number}",
                "invoice_id": f"inv_{number}",
                "amount": 4999,
                "currency": "USD",
            }
        )
        assert result.event_name == "purchase_completed"

    return call


class Case:
    """`imports` is what a program has at its top; `prepare` makes the client, for the server's URL.

    Without `prepare` there is nothing but the import. `package` is what has to be installed, and
    `shared` whether one client serves many threads.
    """

    def __init__(
        self,
        label: str,
        imports: str,
        prepare: Callable[[str], Call] | None = None,
        package: str = "",
        shared: bool = True,
    ) -> None:
        self.label = label
        self.imports = imports
        self.prepare = prepare
        self.package = package
        self.shared = shared


OURS, BARE, REFUSED, PUBLISHED = "ours", "urllib3", "refused", "published"
IMPORTS, MODELS, ONE_MODEL = "imports", "models", "one model"
ONE_MODEL_SOURCE = """
import urllib3
from typing import Optional
from pydantic import AwareDatetime, BaseModel, Field
class One(BaseModel):
    name: str = Field(min_length=1)
    at: Optional[AwareDatetime] = None
"""
CASES = {
    OURS: Case("this package", "from cms_python import CMSClient", ours),
    BARE: Case("urllib3, bare", "import json, urllib3", bare_urllib3),
    "http.client": Case(
        "http.client", "import json; from http.client import HTTPConnection", http_client, "", False
    ),
    "requests": Case("requests", "from requests import Session", requests, "requests"),
    "httpx": Case("httpx", "from httpx import Client", httpx, "httpx"),
    PUBLISHED: Case(
        "published 1.0.0",
        "from cms_python import CMSClient",
        published,
        "cms-python-client==1.0.0",
    ),
    "dub": Case("Dub", "from dub import Dub", dub, "dub"),
    REFUSED: Case("this package, a refused call", "from cms_python import CMSClient", refused),
    IMPORTS: Case("urllib3 and pydantic", "import urllib3, pydantic"),
    # pydantic loads most of itself when something of it is asked for, the rest for a first model.
    MODELS: Case("urllib3, pydantic.BaseModel", "import urllib3; from pydantic import BaseModel"),
    ONE_MODEL: Case("urllib3, one model", ONE_MODEL_SOURCE),
}
