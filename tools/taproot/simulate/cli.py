"""`taproot simulate`: what a whole fleet does, by the firmware's own policies."""

from __future__ import annotations

import time

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
@click.option("--life", default=3600, show_default=True, help="life of a SAS token in seconds")
@click.option("--seed", default=1, show_default=True)
@click.option("--cold", is_flag=True, help="the fleet lost its power too")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
def reconnect(devices: int, rate: int, life: int, seed: int, cold: bool, as_json: bool) -> None:
    """Drop a fleet's connections at once and see it come back.

    Example: taproot simulate reconnect --devices 5000 --rate 100
    """
    if devices < 100 or rate < 1 or life < 60:
        raise click.UsageError("at least 100 devices, a rate of 1 and a life of 60 s")
    report = Report("taproot simulate reconnect", as_json)
    started = time.process_time()
    found = model.run(devices, rate, life_s=life, seed=seed, cold=cold)
    report.step(
        "back", found.back_99_s <= found.limit_s,
        f"99 % back after {found.back_99_s:.0f} s (limit {found.limit_s:.0f} s), all after "
        f"{found.back_all_s:.0f} s, {found.attempts} attempts",
        back_99_s=round(found.back_99_s, 1), limit_s=found.limit_s, attempts=found.attempts,
    )  # fmt: skip
    report.step(
        "dps", found.registrations == 0, f"DPS registrations caused: {found.registrations}",
        registrations=found.registrations,
    )  # fmt: skip
    report.step(
        "recovery", found.recovery_requests == 0,
        f"failures that would count towards recovery: {found.recovery_requests}",
        requests=found.recovery_requests,
    )  # fmt: skip
    report.step(
        "renewal", found.renewal_peak <= _PEAK,
        f"{found.renewals} token renewals in 24 h, busiest minute {found.renewal_peak:.2f} x mean",
        peak=round(found.renewal_peak, 3), renewals=found.renewals,
    )  # fmt: skip
    for name, registrations in found.clock_runs.items():
        report.step(
            "clock", registrations == 0,
            f"time server wrong by {name}: {registrations} registrations", offset=name,
        )  # fmt: skip
    report.facts["cpu_s"] = round(time.process_time() - started, 1)
    report.say(f"{report.facts['cpu_s']} s of CPU")
    report.finish()
