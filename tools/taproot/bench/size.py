"""`taproot bench size`: flash and heap of the device package, by module and by job.

Responsible for: compiled bytes of every module, of the package, and of what a device loads for
telemetry, twin, methods and an update of its roots; the heap that each of those modules holds once
it is imported, and the whole program after each job (32-bit pointers, package frozen, as on a
board). Not for: TLS (tls.py), the MQTT core alone (mqtt.py).
"""

from __future__ import annotations

import ast
import json
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import click

from taproot import interpreters
from taproot.bench import mpy
from taproot.bench.runner import Bench
from taproot.checks import sizes
from taproot.checks.imports import imports
from taproot.console import UsageFailed
from taproot.emulator import EmulatorConfig, running
from taproot.emulator.run import Running
from taproot.trust import package as packages
from taproot.trust.fleet import Fleet

PROGRAM = Path(__file__).with_name("device") / "size_client.py"
BUILD = "unix32-board"
DEVICE = "bench"
GOAL_ALL, GOAL_SUBSET = 40 * 1024, 24 * 1024
_LIMIT_S = 60
# What the bytes are for: patterns of module names, the first that fits; the rest is "client".
PARTS = {
    "mqtt": ("mqtt", "mqtt.*", "backoff", "inbox"),
    "tls": ("tls", "tls.*", "transport", "large"),
    "trust": ("trust", "trust.*"),
    "dps": ("dps", "provisioning", "assignment", "ladder", "guard"),
    "https_upload": ("https", "upload", "external"),
    "websocket": ("websocket",),
    "x509": ("x509", "keymaterial"),
    "agent": ("agent", "bringup", "configuration", "upkeep", "updater", "managed", "arrivals", "quiet", "transient",
              "forever", "esp32", "esp32.*", "unix", "unix.*"),
    "c2d_modules_pnp": ("c2d", "module", "pnp"),
}  # fmt: skip


def _run(folder: Path, asked: dict[str, Any], ready: dict[str, Callable[[], Any]]) -> Any:
    """Run the device program; do what it says it is ready for; what it found."""
    (folder / "asked.json").write_text(json.dumps(asked))
    with interpreters.Process(
        BUILD, PROGRAM, heap="1m", limit=_LIMIT_S, folder=folder, frozen=True
    ) as device:
        for line in device.lines(_LIMIT_S):
            word, _, fact = line.partition(" ")
            if word == "READY":
                ready[fact]()
            elif word == "RESULT":
                return json.loads(fact)
        raise UsageFailed(f"the device program failed on {BUILD}: {device.text[-600:]}")


def _client(folder: Path) -> Any:
    """What a client loads and holds, job by job, against the emulator."""
    fleet = Fleet.create("demo-bench")
    with running(EmulatorConfig()) as emu:
        roots = [("bench root", ssl.PEM_cert_to_DER_cert(emu.root_pem), ["hub", "dps"])]
        package = fleet.package(fleet.bundle_jws(version=2, roots=roots))
        fleet.write_factory(folder / "factory", fleet.bundle_jws(version=1, roots=roots))
        wish = {"trust": packages.desired_twin(2, package)}
        asked = {"cs": emu.add_device(DEVICE).connection_string, "port": emu.mqtt_port,
                 "https_port": emu.https_port,
                 "limit_s": _LIMIT_S, "mqtt": {"fleet_size_hint": 1}}  # fmt: skip
        return _run(folder, asked, {
            "method": lambda: _call(emu),
            "trust": lambda: emu.patch_desired(DEVICE, wish),
        })  # fmt: skip


def _sources() -> dict[str, Path]:
    """The package's files by the names of its modules on a device."""
    firmware = interpreters.firmware_folder()
    found = {}
    for path in sorted((firmware / "azure_iot").rglob("*.py")):
        parts = path.relative_to(firmware).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def _call(emu: Running) -> None:
    """Call the client's method; its subscription may come a moment later."""
    for _ in range(20):
        if emu.invoke_method(DEVICE, "ping", 1, timeout_s=10).status == 200:
            return
        time.sleep(0.2)
    raise UsageFailed("the client answers no method")


def _in_order(names: Iterable[str], sources: dict[str, Path]) -> list[str]:
    """These modules, each after those that it imports when it is loaded itself."""
    graph: dict[str, set[str]] = {name: set() for name in names}
    for name, needs in graph.items():
        tree = ast.parse(sources[name].read_text("utf-8"))
        tree.body = [part for part in tree.body if isinstance(part, ast.Import | ast.ImportFrom)]
        is_package = sources[name].name == "__init__.py"
        found = [name, *(found for _, found in imports(tree, name, is_package))]
        for one in found:  # azure_iot.sas.token is in azure_iot.sas, which is in azure_iot
            parts = one.split(".")
            needs.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
        needs &= graph.keys() - {name}
    return list(TopologicalSorter(graph).static_order())


def part_of(where: str) -> str:
    """The part of PARTS that the module, named without the package, belongs to."""
    fits = (
        part for part, patterns in PARTS.items() if any(fnmatchcase(where, p) for p in patterns)
    )
    return next(fits, "client")


def _compiled(sources: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Sections of each module."""
    compiler = interpreters.build_folder() / "bin" / "mpy-cross"
    if not compiler.exists():
        raise UsageFailed(f"{compiler} is missing: run 'make setup'")
    firmware = interpreters.firmware_folder()
    return {
        name: mpy.sections(sizes.compiled(compiler, path, str(path.relative_to(firmware))))
        for name, path in sources.items()
    }


@click.command("size")
@click.option("--compare", metavar="FILE", help="Show the values of an earlier --json beside.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(compare: str | None, as_json: bool) -> None:
    """Measure the flash and the heap that the device package takes.

    A module's `job` is the first one of one client that loaded it: import, connect, telemetry,
    twin, method, trust (an update of its roots over the air).

    Example: taproot bench size --json
    """
    bench = Bench("taproot bench size", as_json, compare)
    sources = _sources()
    modules = _compiled(sources)
    with tempfile.TemporaryDirectory(prefix="taproot-size-") as name:
        client = _client(Path(name))
        jobs: dict[str, str] = client["jobs"]
        own: dict[str, int] = _run(Path(name), {"modules": _in_order(jobs, sources)}, {})

    def total(id: str, names: list[str], goal: int | None) -> None:
        parts: dict[str, Any] = {
            key: sum(modules[name][key] for name in names) for key in modules["azure_iot"]
        }
        told = ", ".join(f"{key} {size:,}" for key, size in parts.items())
        bench.add(id, sum(parts.values()), "B", n=len(names), build="mpy-cross", goal=goal,
                  why=f"{told}; see firmware/docs/size.md", **parts)  # fmt: skip

    total("size.mpy.all", list(modules), GOAL_ALL)
    total("size.mpy.subset", list(jobs), GOAL_SUBSET)
    for part in (*PARTS, "client"):
        mine = [name for name in modules if part_of(name.removeprefix("azure_iot.")) == part]
        total(f"size.part.{part}", mine, None)
        used = [name for name in mine if name in jobs]
        if used:
            total(f"size.subset.{part}", used, None)
    for job, (held, tls) in client["held"].items():
        bench.add(f"size.heap.after.{job}", held, "B", build=BUILD, tls=tls)
    for name, parts in modules.items():
        where, job = name.removeprefix("azure_iot."), jobs.get(name)
        bench.add(
            f"size.mpy.{where}", sum(parts.values()), "B", build="mpy-cross", job=job, **parts
        )
        if job is not None:
            kept = name in client["kept"]
            bench.add(f"size.heap.{where}", own[name], "B", build=BUILD, job=job, kept=kept)
    bench.report.finish()
