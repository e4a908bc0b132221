"""Runs the sandbox from the command line: ``python -m cms_python.sandbox``."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from typing import Optional

from cms_python.sandbox import Sandbox


def main(
    arguments: Optional[Sequence[str]] = None, prog: str = "python -m cms_python.sandbox"
) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    options = _parser(prog).parse_args(arguments)
    # SIGTERM, the way a supervisor says stop, goes the same way out as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sandbox = Sandbox(
        options.port,
        host=options.host,
        token=options.token,
        db=options.db,
        duplicates=options.duplicates,
    )
    _set_faults(sandbox, options)
    try:
        with sandbox:
            _introduce(sandbox.url, options.token)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        raise SystemExit(str(error)) from None


def _set_faults(sandbox: Sandbox, options: argparse.Namespace) -> None:
    if options.delay:
        sandbox.delay_next(options.delay, times=None)
    for status, times in options.fail:
        sandbox.fail_next(status, times)
    if options.fail_rate:
        sandbox.fail_randomly(options.fail_rate)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Run a local server that honours the API's contract, with a page that shows "
        "what it was sent.",
        epilog=f"Examples: {prog} --port 8000, {prog} --db sandbox.db --fail 503:2",
    )
    add = parser.add_argument
    add("--port", type=_port, default=0, help="the port to listen on (default: any free one)")
    add("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    add("--token", help="the only bearer token to accept (default: any)")
    add("--db", metavar="FILE", help="a SQLite file that keeps everything for the next start")
    add(
        "--duplicates",
        choices=("conflict", "replay"),
        default="conflict",
        help="how to answer an invoice that comes again under another idempotency key: with 409, "
        "or with the first answer (default: %(default)s)",
    )
    add(
        "--fail",
        type=_failure,
        action="append",
        default=[],
        metavar="STATUS[:TIMES]",
        help="answer the next TIMES requests (default: 1) with STATUS; may be repeated",
    )
    add(
        "--fail-rate",
        type=_share,
        metavar="SHARE",
        help="answer this share of the requests, such as 0.1, with 503",
    )
    add("--delay", type=_seconds, metavar="SECONDS", help="withhold every answer so long")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("must be a number from 0 to 65535")
    return int(text)


def _failure(text: str) -> tuple[int, int]:
    status, _, times = text.partition(":")
    if not status.isdecimal() or not 400 <= int(status) <= 599:
        raise argparse.ArgumentTypeError("must begin with a status from 400 to 599")
    if not (times or "1").isdecimal() or int(times or "1") < 1:
        raise argparse.ArgumentTypeError("must end with a number from 1 on, as in 503:2")
    return int(status), int(times or "1")


def _share(text: str) -> float:
    return _number(text, 1.0)


def _seconds(text: str) -> float:
    return _number(text, 3600.0)


def _number(text: str, largest: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= largest:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to {largest:g}")
    return number


def _introduce(url: str, token: str | None) -> None:
    # The address stands alone on the first line so that a script can read it.
    hint = "the token you chose" if token else "anything"
    sys.stdout.write(
        f"{url}\n"
        f"Open it in a browser to see what arrives, and point your application there:\n"
        f"export CMS_HOST={url}\n"
        f"It needs CMS_BEARER_TOKEN set to {hint}. Ctrl-C stops the sandbox.\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
