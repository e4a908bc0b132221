"""What the commands share: their help, the connection's options, and how they print."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Optional, TypeVar, cast

import click

from cms_python import CMSClient, Delivery
from cms_python.configuration import SERVERS

__all__ = [
    "DEBUG",
    "INTERRUPTED",
    "Command",
    "Connection",
    "Interruption",
    "Setting",
    "Unusable",
    "connection_options",
    "fail",
    "interruptions",
    "print_json",
    "refuse_token",
    "without_retries",
]

DEBUG = "cms_python.debug"
INTERRUPTED = 130
# A token is a JWT of a few hundred characters.
LONGEST_TOKEN = 64 * 1024

_F = TypeVar("_F", bound=Callable[..., Any])


class Command(click.Command):
    """A command whose help ends with examples, and that knows --debug."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                callback=_set_debug,
                help="Show the traceback of an unexpected error.",
            )
        )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the examples as they are to be typed."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"  {example}\n")


def _set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().meta[DEBUG] = True


def _refuse(_: click.Context, __: click.Parameter, value: Optional[str]) -> None:
    if value is not None:
        raise click.UsageError(
            "a token has no place among the arguments, which others on this machine can read: set"
            " CMS_BEARER_TOKEN, pass --token-file FILE, or wait to be asked."
        )


class Interruption:
    """Whether somebody has asked the command to stop."""

    is_asked = False

    def ask(self, *_: object) -> None:
        """Notes it. As the handler of a signal it may come within itself, and takes no lock."""
        self.is_asked = True


@contextmanager
def interruptions() -> Iterator[Interruption]:
    """Notes Ctrl-C, and SIGTERM, the way a supervisor says stop, while an outbox sends.

    An exception could come at a moment at which the outbox holds a lock.
    """
    noted, before = Interruption(), {}
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        # In the background of a script a shell has Ctrl-C ignored.
        if handler in {signal.SIG_DFL, signal.default_int_handler}:
            before[number] = signal.signal(number, noted.ask)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# Who tries it is told what to do instead.
refuse_token = click.option(
    "--token",
    hidden=True,
    is_eager=True,
    expose_value=False,
    # It may also stand at the end, without a value.
    is_flag=False,
    flag_value="",
    callback=_refuse,
)


class Unusable(click.ClickException):
    """What was named, such as a file, cannot be used as it is; ends the command like wrong use."""

    exit_code = 2


class Setting(NamedTuple):
    """A value, and where it came from, such as ``CMS_HOST``."""

    value: str
    source: str


@dataclass(frozen=True)
class Connection:
    """What the options and the environment say of the way to the API."""

    host_option: Optional[str]
    token_file: Optional[Path]
    timeout: float
    max_retries: int

    @property
    def host(self) -> Setting:
        """The host as it was given; CMSClient checks it."""
        if self.host_option is not None:
            return Setting(self.host_option, "--host")
        given = os.environ.get("CMS_HOST")
        return Setting(given, "CMS_HOST") if given else Setting(SERVERS[0], "the default")

    def token(self) -> Optional[Setting]:
        """The token of --token-file, or of CMS_BEARER_TOKEN; None where there is neither.

        Raises click.ClickException if the file cannot be read.
        """
        if self.token_file is None:
            given = os.environ.get("CMS_BEARER_TOKEN")
            return Setting(given, "CMS_BEARER_TOKEN") if given else None
        try:
            with self.token_file.open(encoding="utf-8") as file:
                return Setting(file.read(LONGEST_TOKEN).strip(), f"--token-file {self.token_file}")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            fail(f"--token-file {self.token_file} cannot be read: {reason}.")

    def token_or_prompt(self) -> str:
        """The token, asked for at a terminal where it is not set. Raises click.UsageError."""
        setting = self.token()
        if setting is not None:
            return setting.value
        if sys.stdin.isatty() and sys.stderr.isatty():
            return str(click.prompt("Token", hide_input=True, err=True)).strip()
        raise click.UsageError("there is no token: set CMS_BEARER_TOKEN or pass --token-file FILE")

    def client(self, delivery: Optional[Delivery] = None) -> CMSClient:
        """A client of it. Raises click.UsageError for what cannot be used."""
        token = self.token_or_prompt()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                made = CMSClient(
                    token,
                    self.host.value,
                    timeout=self.timeout,
                    max_retries=self.max_retries,
                    delivery=delivery,
                )
            except ValueError as error:
                raise click.UsageError(f"{error}.") from None
        for each in caught:
            click.echo(f"Warning: {each.message}", err=True)
        return made


def connection_options(function: _F) -> _F:
    """Gives a command the connection's options; it gets a Connection as ``connection``."""

    @click.option("--host", metavar="URL", help="The API's address. By default CMS_HOST's.")
    @refuse_token
    @click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="A file with the token in it. By default CMS_BEARER_TOKEN is the token.",
    )
    @click.option(
        "--timeout",
        type=click.FloatRange(0.001, 86400),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="How long one call may take, everything counted.",
    )
    @click.option(
        "--max-retries",
        type=click.IntRange(0),
        default=3,
        show_default=True,
        metavar="NUMBER",
        help="How many more attempts a call may make after its first.",
    )
    @functools.wraps(function)
    def wrapped(
        *args: Any,
        host: Optional[str],
        token_file: Optional[Path],
        timeout: float,
        max_retries: int,
        **kwargs: Any,
    ) -> Any:
        connection = Connection(host, token_file, timeout, max_retries)
        return function(*args, connection=connection, **kwargs)

    # click reads the options off the function itself.
    return cast(_F, wrapped)


def without_retries(command: click.Command) -> click.Command:
    """Hides an option from a command that asks once, or whose outbox has attempts of its own."""
    for option in command.params:
        if isinstance(option, click.Option) and option.name == "max_retries":
            option.hidden = True
    return command


def print_json(value: object) -> None:
    """Writes a value to stdout, for people and machines."""
    # There is no stdout where it was closed, and some encodings know few characters.
    encoding = getattr(sys.stdout, "encoding", None) or ""
    is_unicode = encoding.lower().startswith("utf")
    click.echo(json.dumps(value, indent=2, ensure_ascii=not is_unicode, default=str))


def fail(sentence: str) -> NoReturn:
    """Ends the command with exit code 1 and a line on stderr."""
    raise click.ClickException(sentence)
