"""``cms-python sandbox``: the same as ``python -m cms_python.sandbox``."""

from __future__ import annotations

import click

from cms_python.cli.common import Command

__all__ = ["sandbox"]


@click.command(
    cls=Command,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sandbox(arguments: tuple[str, ...]) -> int:
    """Runs a local server that honours the API's contract."""
    try:
        from cms_python.sandbox.__main__ import main
    except ImportError as error:
        click.echo(str(error), err=True)
        return 2
    return main(arguments, prog="cms-python sandbox")
