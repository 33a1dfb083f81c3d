"""The vectors, the catalogue and the scenarios on CPython: what mutants and stubs must get past.

    python suite.py FOLDER     exit 0 if all hold; else names the first that does not

`time` gets MicroPython's tick functions, which the device's clock module names.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
MODULES = ("check_vectors", "judge", "scenarios")


class Check(NamedTuple):
    """One promise: `run()` returns None if it holds, else why not."""

    name: str
    ids: frozenset[str]
    run: Callable[[], str | None]

    def failure(self) -> str | None:
        """Return why it does not hold; an exception is a reason, too."""
        try:
            return self.run()
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def prepare(firmware: str = "") -> None:
    """Make the device package importable here, or the altered copy in `firmware`."""
    root = HERE.parents[1]
    sys.path[:0] = [firmware or str(root / "firmware"), str(root / "tools"), str(HERE)]
    import taproot  # noqa: F401  (puts micropython.const within reach)

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


def checks(folder: str) -> list[Check]:
    """Every check of the suite, over the package that is importable now."""
    import azure_iot.trust
    import check_vectors
    import judge
    import scenarios

    # A device loads most of them for a moment; what is loaded here already, it keeps.
    for path in Path(azure_iot.trust.__file__).parent.glob("[!_]*.py"):
        importlib.import_module(f"azure_iot.trust.{path.stem}")

    def case_check(case: dict) -> str | None:
        found = judge.judge(case, folder)
        return None if found == case["expect"] else f"{found}, expected {case['expect']}"

    found = [
        Check(
            f"vector {vector['name']}",
            frozenset(vector["ids"]),
            lambda vector=vector: check_vectors.check(vector),
        )
        for vector in check_vectors.load(folder + "/vectors.json")
    ]
    with open(folder + "/cases.json") as file:
        cases = json.load(file)
    found += [
        Check(f"case {case['name']}", frozenset(case["ids"]), lambda case=case: case_check(case))
        for case in cases
        if not case["tls"]
    ]
    found += [
        Check(
            f"scenario {name}",
            frozenset(ids_of(getattr(scenarios, name))),
            lambda name=name: scenarios.run_one(name, folder),
        )
        for name in scenarios.names()
    ]
    return found


def first_failure(checks: list[Check]) -> str | None:
    """Name what does not hold, or None."""
    for check in checks:
        why = check.failure()
        if why:
            return f"{check.name}: {why}"
    return None


def main() -> int:
    """Run."""
    prepare()
    folder = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as here:
        os.chdir(here)
        why = first_failure(checks(folder))
        os.chdir("/")
    if why:
        print(why)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
