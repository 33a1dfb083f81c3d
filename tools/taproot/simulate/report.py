"""The figures of `taproot simulate reconnect` as a page."""

from __future__ import annotations

from pathlib import Path

from taproot.simulate import reconnect as model

HINT = 1000  # of devices that were not told the size of a large fleet
_SIZES = (1000, 5000, 20_000)
_COLUMNS = (
    "run", "99 % back", "attempts", "tokens refused", "time repairs", "DPS registrations",
    "recovery requests", "away",
)  # fmt: skip
_HEAD = ("| " + " | ".join(_COLUMNS) + " |", "|---|" + "---:|" * (len(_COLUMNS) - 1))


def write(path: Path, found: model.Outcome, cold: bool, seed: int) -> None:
    """Write what `found` says, and how a fleet fares whose hint is not its size."""
    command = f"taproot simulate reconnect --devices {found.devices} --rate {found.rate}"
    if found.hint != found.devices:
        command += f" --hint {found.hint}"
    command += " --cold" * cold
    lines = [
        "# A fleet comes back", "",
        "Written by", "",
        f"    {command} --report host_tests/reports/{path.name}", "",
        "Virtual time; the policies are the firmware's own modules.", "",
        f"{found.devices} devices, a hub that takes {found.rate} connections a second, and "
        f"`fleet_size_hint` {found.hint}.",
        f"Goal: 99 % back within {found.limit_s:.0f} s, no DPS registration, no recovery request.",
        "",
        *_HEAD,
        _row("power cut" if cold else "connections dropped", found),
        *[_row(f"boot, NTP wrong by {name}", run) for name, run in found.clock_runs.items()],
        "",
        f"In the 24 h after the drop: {found.renewals} token renewals, the busiest minute "
        f"{found.renewal_peak:.2f} times the mean (goal: at most 2).",
        "",
        "## A hint that is not the fleet's size", "",
        f"`fleet_size_hint` {HINT}. Connections dropped, nothing else wrong:", "", *_HEAD,
    ]  # fmt: skip
    for devices in [*(size for size in _SIZES if size < found.devices), found.devices]:
        lines.append(_row(f"{devices} devices", model.drop(devices, found.rate, HINT, seed)))
    lines += [
        "", "A hub that is there but takes nobody is busy with its own fleet: for one to two hours no",
        "device asks DPS for another one. A fleet that knows its size (`fleet_size_hint=N`) makes",
        "fewer attempts.", "",
        "## A hub that counts refused tokens, too", "",
        "The first table counts connections that are established, as Azure documents its limit. Where",
        "each refused token takes of the rate as well (`--strict`), a fleet with a wrong clock needs",
        "twice the time:", "", *_HEAD,
    ]  # fmt: skip
    for name in model.WRONG_CLOCKS:
        wrong = model.boot(
            found.devices, found.rate, name, hint=found.hint, seed=seed, strict=True
        )
        lines.append(_row(f"boot, NTP wrong by {name}", wrong))
    path.write_text("\n".join(lines) + "\n", "utf-8")


def _row(name: str, found: model.Outcome) -> str:
    cells = (
        name, f"{found.back_99_s:.0f} s", found.attempts, found.refused_tokens,
        found.time_repairs, found.registrations, found.recovery_requests, found.away,
    )  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
