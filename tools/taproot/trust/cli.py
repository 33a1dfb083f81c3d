"""The command `taproot trust`."""

from __future__ import annotations

from pathlib import Path

import click

from taproot.trust import cli_build, cli_fleet, cli_keys
from taproot.trust.cli_common import HomeGroup


@click.group(cls=HomeGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--home",
    "-C",
    type=click.Path(path_type=Path),
    default=Path("trust"),
    show_default=True,
    envvar="TAPROOT_TRUST_HOME",
    help="The operator's folder.",
)
@click.pass_context
def command(ctx: click.Context, home: Path) -> None:
    """Build, sign, publish and watch the roots a fleet trusts.

    The order of work: init, build, sign, package, factory; later add-root or remove-root, build,
    sign, package, publish, status.

    Example: taproot trust check-roots
    """
    ctx.obj = home


for _command in (
    cli_keys.init,
    cli_keys.keygen,
    cli_build.add_root,
    cli_build.remove_root,
    cli_build.distrust_root,
    cli_build.build,
    cli_keys.sign,
    cli_build.package,
    cli_build.verify_command,
    cli_build.inspect,
    cli_build.diff,
    cli_build.factory_command,
    cli_keys.rotate_keys,
    cli_fleet.publish,
    cli_build.parts_command,
    cli_fleet.status,
    cli_fleet.probe,
    cli_fleet.report_command,
    cli_fleet.ledger_group,
    cli_build.check_roots,
    cli_build.vectors_command,
):
    command.add_command(_command)
