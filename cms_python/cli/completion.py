"""``cms-python completion``: lets the shell complete commands, options and files."""

from __future__ import annotations

import os
from typing import Optional

import click
from click.shell_completion import get_completion_class, shell_complete

from cms_python.cli.common import Command, fail

__all__ = ["answer_shell", "completion"]

PROGRAM = "cms-python"
# The name that click looks for, and that its scripts set.
VARIABLE = "_CMS_PYTHON_COMPLETE"


@click.command(
    cls=Command,
    examples=[
        'eval "$(cms-python completion bash)"    # in ~/.bashrc',
        'eval "$(cms-python completion zsh)"     # in ~/.zshrc',
        "cms-python completion fish > ~/.config/fish/completions/cms-python.fish",
    ],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Prints the script that makes SHELL complete cms-python."""
    completer = get_completion_class(shell)
    if completer is None:
        fail(f"This release of click cannot complete in {shell}: update it.")
    root = context.find_root().command
    try:
        script = completer(root, {}, PROGRAM, VARIABLE).source()
    except (OSError, RuntimeError) as error:
        # Older releases of click insist on a bash that they can ask for its version.
        fail(str(error))
    click.echo(script)


def answer_shell(root: click.Command) -> Optional[int]:
    """Answers a shell that asks for completions. Returns the exit code, None if none asks."""
    instruction = os.environ.get(VARIABLE)
    if not instruction:
        return None
    return shell_complete(root, {}, PROGRAM, VARIABLE, instruction)
