"""The `taproot` program: one command line, its subcommands loaded when they are asked for.

Each subcommand lives in a package of its own and exposes a click command named `command`
in its `cli` module. Exit status: 0 all held; 1 a promise failed; 2 set-up or usage;
3 a peer or the network failed.
"""

from __future__ import annotations

import importlib

import click

from taproot import __version__
from taproot.console import guard

# name -> (module, one line for --help)
COMMANDS = {
    "bench": (
        "taproot.bench.cli",
        "Measure: instructions, heap bytes, records, bytes on the wire.",
    ),
    "ca": ("taproot.ca.cli", "Make roots, intermediates and leaf certificates for tests."),
    "device": ("taproot.device.cli", "Look at a board, deploy to it."),
    "dps-key": ("taproot.device.dps_key", "Derive a device key from a DPS group key."),
    "drill": ("taproot.drill.cli", "Rehearse a root migration with real devices: the main job."),
    "emulator": ("taproot.emulator.cli", "Run a local IoT Hub and DPS (not a Microsoft product)."),
    "micropython": ("taproot.micropython_cli", "Say where the test interpreters are, or run one."),
    "probe": (
        "taproot.probe.cli",
        "Ask a TLS server what a device needs to know before it meets it.",
    ),
    "simulate": ("taproot.simulate.cli", "Simulate a fleet with the firmware's own policies."),
    "trust": ("taproot.trust.cli", "Build, sign, publish and watch bundles of trusted roots."),
}


class LazyGroup(click.Group):
    """Imports a subcommand only when it runs, so that `--help` needs no extra."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        try:
            return importlib.import_module(module).command
        except ModuleNotFoundError as error:
            missing = error.name or "?"
            if missing.startswith(("taproot", "azure_iot")):
                raise
            raise click.ClickException(
                f"'taproot {cmd_name}' needs the Python package '{missing}': "
                f'install it with  pip install "taproot[emulator,bench]"'
            ) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in sorted(COMMANDS)])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="taproot")
def command() -> None:
    """Keep devices connected to Azure IoT Hub through every change of root certificate.

    Example: taproot drill --devices 1
    """


def main() -> None:
    """Run the command line; every failure a user can cause ends in one clear line."""
    guard(command)
