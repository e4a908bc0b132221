"""The group of all commands, and how each ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from cms_python import __version__
from cms_python.cli import outbox
from cms_python.cli.check import check
from cms_python.cli.common import DEBUG, INTERRUPTED, refuse_token
from cms_python.cli.completion import answer_shell, completion
from cms_python.cli.importing import import_
from cms_python.cli.sandbox import sandbox
from cms_python.cli.track import COMMANDS

__all__ = ["app", "run"]


@click.group(
    name="cms-python",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="cms-python")
@refuse_token
@click.pass_context
def app(context: click.Context) -> None:
    """Checks a set-up, sends leads and sales, imports files, looks after the outbox."""
    if os.environ.get("NO_COLOR"):
        context.color = False


for command in (check, *COMMANDS, import_, outbox.group, sandbox, completion):
    app.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Runs a command. Returns its exit code; an unexpected error is one line on stderr."""
    context_meta: dict[str, object] = {}
    try:
        answered = answer_shell(app)
        if answered is not None:
            return answered
        with app.make_context("cms-python", list(arguments)) as context:
            context_meta = context.meta
            return int(app.invoke(context) or 0)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # Who read the output has seen enough, as with `| head`.
        _drop_output()
        return 0
    except Exception as error:
        _drop_output()
        if context_meta.get(DEBUG):
            raise
        reason = getattr(error, "strerror", None) or type(error).__name__
        click.echo(f"Error: {reason}. --debug shows where.", err=True)
        return 1


def _drop_output() -> None:
    """Keeps what could not be written from failing again when Python ends."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
