"""A direct call does not grow unnoticed: the functions that it calls are counted.

Time is no measure for a test, but in one thread the number of calls to Python and C functions is
the same each time. It is counted in two parts.

- Ours: calls made by the functions of cms_python, and by what they call of pydantic and the
  standard library. It was the same on Python 3.9 to 3.13 with urllib3 2.1 to 2.8. Comprehensions
  are left out, which are functions before Python 3.12 and none after.
- The transport's: what urllib3 and http.client call for us, as a ratio to what they call for a bare
  `PoolManager.request` of the same interpreter. How many that is depends on their versions, so no
  number is recorded; the ratio stays within two hundredths.

Each may grow by 10 % over what is recorded below. Where a call has become cheaper by as much, the
recorded number is to be lowered, so that it may not creep back up.
"""

from __future__ import annotations

import http
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest
import urllib3
from fault_server import FaultServer, answer
from urllib3.util import Timeout

import cms_python
from cms_python import CMSClient
from cms_python.events import is_idempotency_key

OWN_CALLS = 113
TRANSPORT_RATIO = 0.83
SLACK = 0.10
# A collection of garbage may run somebody's finalizer in the midst of a call; the least has none.
REPEATS = 20


def folder_of(package: Any) -> str:
    return str(Path(package.__file__).parent)


OWN = folder_of(cms_python)
TRANSPORT = (folder_of(urllib3), folder_of(http))


class Counting:
    """Counts calls by whose they are: of the nearest function that is ours or the transport's."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._owners = ["nobody"]

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            self._owners.append(self._owner(frame.f_code.co_filename))
            # A comprehension or generator expression, such as <listcomp>.
            self.counts[self._owners[-1]] += not frame.f_code.co_name.startswith("<")
        elif event == "c_call":
            self.counts[self._owners[-1]] += 1
        elif event == "return" and len(self._owners) > 1:
            self._owners.pop()

    def _owner(self, file: str) -> str:
        if file.startswith(OWN):
            return "ours"
        return "transport" if file.startswith(TRANSPORT) else self._owners[-1]


def counted(call: Callable[[], object]) -> Counter[str]:
    """The least calls that it took, once its connection is open and everything is warm."""
    for _ in range(REPEATS):
        call()
    return min(
        (counted_once(call) for _ in range(REPEATS)), key=lambda counts: sum(counts.values())
    )


def counted_once(call: Callable[[], object]) -> Counter[str]:
    counting, before = Counting(), sys.getprofile()
    sys.setprofile(counting)
    try:
        call()
    finally:
        sys.setprofile(before)
    return counting.counts


class Calls(NamedTuple):
    """A direct call, and the same request by urllib3 alone."""

    direct: Callable[[], object]
    bare: Callable[[], object]


@pytest.fixture(scope="module")
def calls() -> Iterator[Calls]:
    with FaultServer(answer()) as server, CMSClient("a-token", server.url) as client:
        headers = {"Authorization": "Bearer a-token", "Content-Type": "application/json"}

        def direct() -> None:
            result = client.track_sale("id_1", "bought", "user_1", "inv_1", 4999, "USD")
            assert result["success"] is True, result

        def bare() -> None:
            body = json.dumps({"clickId": "id_1", "amount": 4999})
            response = pool.request("POST", f"{server.url}/track/sale", body=body, headers=headers)
            assert json.loads(response.data)["success"] is True

        with urllib3.PoolManager() as pool:
            yield Calls(direct, bare)


def check_own(call: Callable[[], object]) -> None:
    own = counted(call)["ours"]
    assert own == pytest.approx(OWN_CALLS, rel=SLACK), "see this module's docstring"


def check_transport(call: Callable[[], object], bare: Callable[[], object]) -> None:
    ratio = counted(call)["transport"] / counted(bare)["transport"]
    assert ratio == pytest.approx(TRANSPORT_RATIO, rel=SLACK), "see this module's docstring"


def test_our_part_of_a_direct_call_stays_as_small_as_recorded(calls: Calls) -> None:
    """What checks, keys, deadlines and the reading of the answer take does not creep up."""
    check_own(calls.direct)


def test_urllib3_does_no_more_for_us_than_for_a_bare_request(calls: Calls) -> None:
    """The way in which we ask urllib3 costs less than its own pool manager's."""
    check_transport(calls.direct, calls.bare)


def test_a_call_whose_own_part_grew_by_an_eighth_is_noticed(calls: Calls) -> None:
    """Whoever makes checks or keys dearer by more than a tenth hears of it here."""

    def grown() -> None:
        calls.direct()
        for _ in range(5):
            # A function of ours, which calls two others.
            is_idempotency_key("a-key")

    with pytest.raises(AssertionError, match="docstring"):
        check_own(grown)


def test_a_call_whose_transport_grew_by_an_eighth_is_noticed(calls: Calls) -> None:
    """Whoever asks more of urllib3, by more than a tenth, hears of it here."""

    def grown() -> None:
        calls.direct()
        for _ in range(15):
            # A function of urllib3, which calls four others.
            Timeout(1)

    with pytest.raises(AssertionError, match="docstring"):
        check_transport(grown, calls.bare)
