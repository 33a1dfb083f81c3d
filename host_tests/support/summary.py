"""What a run of the tests says at its end, on the terminal and in the file of a long run."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

NOT_YET = ("a physical ESP32", "an ESP-IDF image", "a real IoT Hub or DPS")
KINDS = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
SLOWEST = 15


def collect(
    stats: dict[str, list[Any]], long: bool
) -> tuple[list[tuple[str, float, int]], list[str]]:
    """Return (folder, seconds, tests), longest first, and what was not checked."""
    seconds: dict[str, float] = defaultdict(float)
    tests: dict[str, int] = defaultdict(int)
    unchecked: set[str] = set()
    for report in _reports(stats):
        folder = report.nodeid.split("/")[1] if report.nodeid.count("/") > 1 else "."
        seconds[folder] += report.duration
        tests[folder] += report.when == "call"
        for name, value in report.user_properties:
            if name == "not_checked":
                unchecked.add(value)
    lines = sorted(unchecked)
    if not long:
        lines.insert(0, "full counts of soaks, fuzz, mutants and power cuts: make test-long")
    lines += [f"{name}: not yet" for name in NOT_YET]
    folders = sorted(seconds, key=lambda name: -seconds[name])
    return [(name, seconds[name], tests[name]) for name in folders], lines


def write(
    path: Path,
    stats: dict[str, list[Any]],
    folders: list[tuple[str, float, int]],
    unchecked: list[str],
    took: float,
) -> None:
    """Write the summary that is committed after a long run."""
    counts = {kind: len(stats.get(kind, [])) for kind in KINDS if stats.get(kind)}
    facts = [
        ("date", time.strftime("%Y-%m-%d", time.gmtime())),
        ("commit", _commit()),
        ("machine", f"{platform.machine()}, {os.cpu_count()} cores, {_system()}"),
        ("Python", platform.python_version()),
        ("time", f"{took / 60:.1f} min"),
        ("result", ", ".join(f"{number} {kind}" for kind, number in counts.items())),
    ]
    lines = ["# Long run", "", "Written by `make test-long`.", ""]
    lines += ["| fact | value |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts]
    lines += ["", "| folder | tests | seconds |", "|---|---:|---:|"]
    lines += [f"| `{name}/` | {tests} | {seconds:.0f} |" for name, seconds, tests in folders]
    lines += ["", "## Figures", ""]
    lines += _figures(stats) or ["none recorded"]
    lines += ["", "## Slowest tests", "", "| test | seconds |", "|---|---:|"]
    lines += [f"| `{name}` | {seconds:.0f} |" for name, seconds in _slowest(stats)]
    lines += ["", "## Not checked", "", *[f"- {line}" for line in unchecked]]
    failed = [report.nodeid for kind in ("failed", "error") for report in stats.get(kind, [])]
    if failed:
        lines += ["", "## Failed", "", *[f"- `{name}`" for name in failed]]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def _figures(stats: dict[str, list[Any]]) -> list[str]:
    """Return a table of what tests recorded: `record_property(name, value)` and their counts."""
    rows: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for report in _reports(stats):
        for name, value in report.user_properties:
            if name != "not_checked":
                rows[_short(report.nodeid), name][str(value).replace("|", "/")] = None
    lines = [
        f"| `{test}` | {name} | {'; '.join(rows[test, name])} |" for test, name in sorted(rows)
    ]
    return ["| test | what | figure |", "|---|---|---|", *lines] if lines else []


def _slowest(stats: dict[str, list[Any]]) -> list[tuple[str, float]]:
    """Return the tests that took longest, with their fixtures."""
    seconds: dict[str, float] = defaultdict(float)
    for report in _reports(stats):
        seconds[_short(report.nodeid)] += report.duration
    return sorted(seconds.items(), key=lambda item: -item[1])[:SLOWEST]


def _reports(stats: dict[str, list[Any]]) -> list[Any]:
    """Every report of a test, in the order of arrival."""
    return [
        report
        for reports in stats.values()
        for report in reports
        if hasattr(report, "nodeid") and hasattr(report, "duration")
    ]


def _short(nodeid: str) -> str:
    return nodeid.removeprefix("host_tests/").replace("|", "/")


def _commit() -> str:
    line = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()
