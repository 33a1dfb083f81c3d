"""`make check`: format, lint, types, syntax and size on the device, import directions. No test runs.

`--write` regenerates firmware/package.json and formats nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from taproot.checks import constructs, imports, package_file, sizes, types_of
from taproot.interpreters import project_root


def _tool(*line: str) -> Callable[[Path], list[str]]:
    """A check that is a program of the environment; its output is the findings."""

    def check(root: Path) -> list[str]:
        command = [str(Path(sys.executable).with_name(line[0])), *line[1:]]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return []
        return (done.stdout + done.stderr).strip().splitlines() or [f"{line[0]} failed"]

    return check


def _sizes(root: Path) -> list[str]:
    lines, findings = sizes.report(root)
    print("\n".join(f"        {line}" for line in lines))
    return findings


CHECKS: tuple[tuple[str, str, Callable[[Path], list[str]]], ...] = (
    ("format", "make it so: .venv/bin/ruff format .", _tool("ruff", "format", "--check", "--quiet", ".")),
    ("lint", "", _tool("ruff", "check", "--quiet", "--output-format", "concise", ".")),
    ("spelling", "", _tool("codespell", "firmware", "host_tests", "tools", "boards", "certs")),
    ("types of the device package", "", types_of.device),
    ("types of the host side", "", types_of.host),
    ("import directions", "", imports.findings),
    ("forbidden constructs", "", constructs.findings),
    ("file list for mip", "", package_file.findings),
    ("mpy-cross on every file, sizes", "", _sizes),
)  # fmt: skip


def main() -> int:
    """Run every check; exit 1 when one has findings."""
    root = project_root()
    if root is None:
        print("the checks need a checkout; this is an installed package", file=sys.stderr)
        return 2
    if "--write" in sys.argv[1:]:
        (root / package_file.PATH).write_text(package_file.content(root), "utf-8")
        return 0
    failed = []
    started = time.monotonic()
    for name, remedy, check in CHECKS:
        begun = time.monotonic()
        findings = check(root)
        print(
            f"{'FAIL' if findings else 'ok  '} {name} ({time.monotonic() - begun:.1f} s)",
            flush=True,
        )
        for finding in findings:
            print(f"     {finding}")
        if findings:
            failed.append(name)
            if remedy:
                print(f"     {remedy}")
    took = time.monotonic() - started
    if failed:
        print(f"checks: {', '.join(failed)} failed ({took:.1f} s)", file=sys.stderr)
        return 1
    print(f"checks: all {len(CHECKS)} held ({took:.1f} s)", flush=True)
    return 0


sys.exit(main())
