"""The scenarios and the catalogue on CPython, in one process: for mutants and stubs.

    python suite.py FOLDER [--ids R-14 …]    exit 0 if all hold; else names the first that does not

`time` gets MicroPython's tick functions, which the device's clock module names. The environment
variable TAPROOT_FIRMWARE names another copy of the device package: one with a stub or a mutant.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def prepare() -> None:
    """Make the device package importable here."""
    root = HERE.parents[1]
    firmware = os.environ.get("TAPROOT_FIRMWARE", str(root / "firmware"))
    sys.path[:0] = [firmware, str(root / "tools"), str(HERE)]
    import taproot.device_modules  # noqa: F401

    if not hasattr(time, "ticks_ms"):
        gc.mem_alloc = lambda: 0  # type: ignore[attr-defined]
        gc.collect = lambda: 0  # nothing is measured here, and a device that collects is slow
        time.ticks_ms = lambda: time.monotonic_ns() // 1_000_000  # type: ignore[attr-defined]
        time.ticks_diff = lambda a, b: a - b  # type: ignore[attr-defined]
        time.ticks_add = lambda a, b: a + b  # type: ignore[attr-defined]
        asyncio.wait_for_ms = lambda work, ms: asyncio.wait_for(work, ms / 1000)  # type: ignore[attr-defined]


def ids_of(function) -> list[str]:
    """The ids a scenario's docstring begins with."""
    return (function.__doc__ or "").split(":")[0].split()


def first_failure(folder: str, ids: set[str] | None = None) -> str | None:
    """Name what does not hold, or None. `ids` restricts to what is tagged with one of them."""
    import check_vectors
    import judge
    import scenarios

    for name, why in check_vectors.run(folder + "/vectors.json", ids):
        if why:
            return f"vector {name}: {why}"
    with open(folder + "/cases.json") as file:
        cases = json.load(file)
    for case in cases:
        if case["tls"] or (ids is not None and not ids & set(case["ids"])):
            continue
        try:
            found = judge.judge(case, folder)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        if found != case["expect"]:
            return f"case {case['name']}: {found}, expected {case['expect']}"
    for name in scenarios.names():
        if ids is not None and not ids & set(ids_of(getattr(scenarios, name))):
            continue
        try:
            why = scenarios.run_one(name, folder)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        if why:
            return f"scenario {name}: {why}"
    return None


def main() -> int:
    """Run."""
    prepare()
    folder = os.path.abspath(sys.argv[1])
    ids = set(sys.argv[3:]) or None
    with tempfile.TemporaryDirectory() as here:
        os.chdir(here)
        why = first_failure(folder, ids)
        os.chdir("/")
    if why:
        print(why)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
