"""`taproot drill`: rehearse a root migration with real devices."""

from __future__ import annotations

from pathlib import Path

import click

from taproot.console import Report
from taproot.drill.scenario import rehearse
from taproot.drill.world import HEAPS, Options


@click.command()
@click.option(
    "--devices",
    default=1,
    show_default=True,
    type=click.IntRange(1, 20),
    help="How many migrating devices.",
)
@click.option(
    "--keep", type=click.Path(path_type=Path, file_okay=False), help="Keep the run's folder here."
)
@click.option(
    "--seed",
    default=1,
    show_default=True,
    type=click.IntRange(0),
    help="Random choices of the run.",
)
@click.option(
    "--build",
    default="unix64",
    show_default=True,
    type=click.Choice(sorted(HEAPS)),
    help="Interpreter.",
)
@click.option(
    "--chain",
    default="rsa",
    show_default=True,
    type=click.Choice(["rsa", "ecc"]),
    help="Kind of certificates.",
)
@click.option(
    "--keep-floor",
    is_flag=True,
    help="The last bundle does not raise min_version: old roots stay a fall-back.",
)
@click.option(
    "--kills",
    default=4,
    show_default=True,
    type=click.IntRange(0, 50),
    help="Power cuts on the way.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    devices: int,
    keep: Path | None,
    seed: int,
    build: str,
    chain: str,
    keep_floor: bool,
    kills: int,
    as_json: bool,
) -> None:
    """Rehearse a root migration: devices that follow survive it, one that does not is refused.

    Devices are separate MicroPython processes running the frozen firmware; the hub is the local
    emulator over real TLS. Nothing leaves this machine.

    Example: taproot drill --seed 7
    """
    report = Report("taproot drill", as_json)
    rehearse(Options(devices, keep, seed, build, chain, keep_floor, kills), report)
    report.finish()
