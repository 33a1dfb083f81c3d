"""`taproot simulate`: what a whole fleet does, by the firmware's own policies."""

from __future__ import annotations

import time
from pathlib import Path

import click

from taproot.console import Report
from taproot.simulate import reconnect as model

_PEAK = 2.0


@click.group()
def command() -> None:
    """Simulate a fleet with the firmware's own policies.

    Example: taproot simulate reconnect --devices 50000 --rate 100
    """


@command.command()
@click.option("--devices", default=50_000, show_default=True, help="devices of the fleet")
@click.option("--rate", default=100, show_default=True, help="connections a second the hub takes")
@click.option("--hint", default=0, help="fleet_size_hint of the devices (default: --devices)")
@click.option("--life", default=3600, show_default=True, help="life of a SAS token in seconds")
@click.option("--seed", default=1, show_default=True)
@click.option("--cold", is_flag=True, help="the fleet lost its power too")
@click.option(
    "--floor-age",
    default=1.0,
    show_default=True,
    help="days since the latest time that a device knows to have passed, up to twice that",
)
@click.option("--strict", is_flag=True, help="the hub counts refused tokens as connections, too")
@click.option(
    "--report",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="write the figures as Markdown, and what a wrong hint and a strict hub do to a fleet",
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
def reconnect(
    devices: int,
    rate: int,
    hint: int,
    life: int,
    seed: int,
    cold: bool,
    floor_age: float,
    strict: bool,
    path: Path | None,
    as_json: bool,
) -> None:
    """Drop a fleet's connections at once and see it come back.

    Then the same fleet boots with a time server that is wrong by -2 h, -400 d and +10 y.

    Example: taproot simulate reconnect --devices 5000 --rate 100
    """
    if devices < 100 or rate < 1 or life < 60 or hint < 0 or floor_age < 0:
        raise click.UsageError("at least 100 devices, a rate of 1 and a life of 60 s")
    report = Report("taproot simulate reconnect", as_json)
    started = time.process_time()
    found = model.run(
        devices,
        rate,
        life_s=life,
        seed=seed,
        cold=cold,
        hint=hint,
        floor_days=floor_age,
        strict=strict,
    )
    report.step(
        "back",
        found.back_99_s <= found.limit_s and not found.away,
        f"99 % back after {found.back_99_s:.0f} s (limit {found.limit_s:.0f} s), all after "
        f"{found.back_all_s:.0f} s, {found.attempts} attempts",
        back_99_s=round(found.back_99_s, 1),
        limit_s=found.limit_s,
        attempts=found.attempts,
    )
    report.step(
        "dps",
        found.registrations == 0,
        f"DPS registrations caused: {found.registrations}",
        registrations=found.registrations,
    )
    report.step(
        "recovery",
        found.recovery_requests == 0,
        f"requests for recovery: {found.recovery_requests}",
        requests=found.recovery_requests,
    )
    report.step(
        "renewal",
        found.renewal_peak <= _PEAK,
        f"{found.renewals} token renewals in 24 h, busiest minute {found.renewal_peak:.2f} x mean",
        peak=round(found.renewal_peak, 3),
        renewals=found.renewals,
    )
    for name, wrong in found.clock_runs.items():
        report.step(
            "clock",
            not (wrong.registrations or wrong.recovery_requests or wrong.away),
            f"time server wrong by {name}: {wrong.refused_tokens} tokens refused, "
            f"{wrong.time_repairs} time repairs, {wrong.registrations} DPS registrations, "
            f"{wrong.recovery_requests} recoveries, {wrong.away} devices away, "
            f"99 % back after {wrong.back_99_s:.0f} s",
            offset=name,
            refused=wrong.refused_tokens,
            repairs=wrong.time_repairs,
            registrations=wrong.registrations,
            requests=wrong.recovery_requests,
            away=wrong.away,
        )
    report.facts["cpu_s"] = round(time.process_time() - started, 1)
    report.say(f"{report.facts['cpu_s']} s of CPU")
    if path is not None:
        from taproot.simulate import report as page

        page.write(path, found, cold, seed)
    report.finish()
