"""`taproot micropython`: where the test interpreters are, and running one."""

from __future__ import annotations

import os

import click

from taproot import interpreters


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--build", default="unix64", show_default=True, help="unix64, unix32, stock, …")
@click.option("--path", "show_path", is_flag=True, help="Print the path and end.")
@click.option("--frozen", is_flag=True, help="Use the frozen copy of azure_iot, not the source.")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def command(build: str, show_path: bool, frozen: bool, args: tuple[str, ...]) -> None:
    """Run one of the project's MicroPython interpreters.

    Example: taproot micropython --path
    """
    found = interpreters.path(build)
    if show_path:
        click.echo(found)
        return
    os.execve(found, [str(found), *args], interpreters.environment(frozen, dict(os.environ)))
