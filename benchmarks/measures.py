"""What is measured, in a process of its own for each case. benchmarks/calls.py starts them.

Nothing but what is measured is imported before it is.
"""

from __future__ import annotations

import sys
import time

from cases import CASES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from cases import Call, Case

WARM_UP = 100
# So many clients are made, one after the other, for what a further one takes.
CLIENTS = 50


def start(case: Case, url: str) -> dict[str, float]:
    """What a process that makes one call takes: the import, the client, the call."""
    modules = len(sys.modules)
    stamps = [stamp()]
    exec(case.imports, {})
    stamps.append(stamp())
    found = {"modules": len(sys.modules) - modules, **between("import", *stamps)}
    if case.prepare is None:
        return found
    stamps.append(stamp())
    call = case.prepare(url)
    stamps.append(stamp())
    call(0)
    stamps.append(stamp())
    _, _, before, made, called = stamps
    found.update(between("client", before, made))
    found.update(between("first call", before, called))
    found.update(between("start", stamps[0], called))
    later = stamp()
    for _ in range(CLIENTS):
        case.prepare(url)
    found["later client, cpu"] = (stamp()[0] - later[0]) / CLIENTS
    return found


def stamp() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def between(
    name: str, earlier: tuple[float, float], later: tuple[float, float]
) -> dict[str, float]:
    return {f"{name}, cpu": later[0] - earlier[0], f"{name}, wall": later[1] - earlier[1]}


def calls(case: Case, url: str) -> NoReturn:
    """For each number that comes in, makes so many calls and prints what one of them took."""
    import json

    call = prepared(case, url)
    for number in range(WARM_UP):
        call(number)
    print("ready", flush=True)
    for line in sys.stdin:
        count = int(line)
        before = stamp()
        for number in range(count):
            call(number)
        cpu, wall = (later - earlier for earlier, later in zip(before, stamp()))
        print(json.dumps({"cpu": cpu / count, "wall": wall / count}), flush=True)
    raise SystemExit


def memory(case: Case, url: str, count: int) -> dict[str, float]:
    """The most memory, in bytes, that a process which made so many calls had in use."""
    call = prepared(case, url)
    for number in range(count):
        call(number)
    return {"peak": peak()}


def peak() -> int:
    if sys.platform == "linux":
        # The system's ru_maxrss also counts what the parent had in use when it started this one.
        with open("/proc/self/status") as status:  # noqa: PTH123, pathlib would add to the memory
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def threads(case: Case, url: str, total: int, least: int, *numbers: int) -> dict[str, float]:
    """The calls a second of so many threads, by their number, which share a total of calls."""
    shared = prepared(case, url) if case.shared else None
    return {
        str(number): rate(shared, case, url, number, max(least, total // number))
        for number in numbers
    }


def rate(shared: Call | None, case: Case, url: str, number: int, count: int) -> float:
    """Of threads that make so many calls each, one after the other."""
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    begun: list[float] = []
    # The last to arrive looks at the clock: this thread may not run before the calls are over.
    # One that failed to open its connection would be waited for in vain.
    barrier = Barrier(number + 1, lambda: begun.append(time.perf_counter()), timeout=60)

    def run() -> None:
        call = shared or prepared(case, url)
        # The connections are open before it begins.
        for each in range(2):
            call(each)
        barrier.wait()
        for each in range(count):
            call(each)

    with ThreadPoolExecutor(number) as executor:
        running = [executor.submit(run) for _ in range(number)]
        barrier.wait()
        for each in running:
            each.result()
        return number * count / (time.perf_counter() - begun[0])


def client_profile(case: Case, url: str) -> dict[str, float]:
    """The seconds that each function takes of what makes the first client of a process."""
    exec(case.imports, {})
    return profiled(lambda: prepared(case, url))


def call_profile(case: Case, url: str, count: int) -> dict[str, float]:
    """The seconds that each function takes of so many calls."""
    call = prepared(case, url)
    for number in range(WARM_UP):
        call(number)

    def run() -> None:
        for number in range(count):
            call(number)

    return profiled(run)


def profiled(run: Callable[[], object]) -> dict[str, float]:
    """By function; those that it calls are counted in."""
    from cProfile import Profile

    profile = Profile()
    profile.runcall(run)
    found: dict[str, float] = {}
    for entry in profile.getstats():
        code = entry.code
        name = code if isinstance(code, str) else f"{shortened(code.co_filename)}: {code.co_name}"
        found[name] = found.get(name, 0.0) + entry.totaltime
    return found


def shortened(path: str) -> str:
    return "/".join(path.replace("\\", "/").split("/")[-2:])


def prepared(case: Case, url: str) -> Call:
    assert case.prepare is not None
    return case.prepare(url)


MEASURES: dict[str, Callable[..., dict[str, float]]] = {
    "start": start,
    "calls": calls,
    "memory": memory,
    "threads": threads,
    "client_profile": client_profile,
    "call_profile": call_profile,
}


def main() -> None:
    measure, case, url, *numbers = sys.argv[1:]
    found = MEASURES[measure](CASES[case], url, *map(int, numbers))
    import json

    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
