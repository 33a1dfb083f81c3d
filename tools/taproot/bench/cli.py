"""`taproot bench KIND`: each kind is a module of its own, imported when asked for."""

from __future__ import annotations

import importlib

import click

# name -> (module, one line for --help)
KINDS = {
    "emulator": ("taproot.bench.emulator", "The emulator under load."),
    "faults": ("taproot.bench.faults", "What the MQTT client survives, and how."),
    "mqtt": ("taproot.bench.mqtt", "Instructions, heap, records and rate of the MQTT client."),
    "size": ("taproot.bench.size", "Flash and heap of the device package, by module and by job."),
    "tls": ("taproot.bench.tls", "Heap and wire cost of TLS connections."),
    "trust": ("taproot.bench.trust", "Verification cost and heap of trust packages."),
}


class _Kinds(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(KINDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in KINDS:
            return None
        module = KINDS[cmd_name][0]
        try:
            return importlib.import_module(module).command
        except ModuleNotFoundError as error:
            if error.name == module:
                raise click.ClickException(
                    f"'taproot bench {cmd_name}' is not there yet"
                ) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Kinds"):
            formatter.write_dl([(name, KINDS[name][1]) for name in sorted(KINDS)])


@click.command(cls=_Kinds)
def command() -> None:
    """Measure, and set every figure against its goal.

    Example: taproot bench mqtt --only size
    """
