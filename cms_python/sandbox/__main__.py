"""Runs the sandbox from the command line: ``python -m cms_python.sandbox``."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from cms_python.sandbox import Sandbox


def main() -> int:
    """Serve until Ctrl-C or SIGTERM."""
    options = _parser().parse_args()
    # SIGTERM, the way a supervisor says stop, goes the same way out as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Sandbox(options.port, token=options.token) as sandbox:
            _introduce(sandbox.url, options.token)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        raise SystemExit(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cms_python.sandbox",
        description="Run a local server that honours the API's contract.",
    )
    parser.add_argument(
        "--port", type=_port, default=0, help="the port to listen on (default: any free one)"
    )
    parser.add_argument("--token", help="the only bearer token to accept (default: any)")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("must be a number from 0 to 65535")
    return int(text)


def _introduce(url: str, token: str | None) -> None:
    # The address stands alone on the first line so that a script can read it.
    hint = "the token you chose" if token else "anything"
    sys.stdout.write(
        f"{url}\n"
        f"Point your application here: export CMS_HOST={url}\n"
        f"It needs CMS_BEARER_TOKEN set to {hint}. Ctrl-C stops the sandbox.\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
