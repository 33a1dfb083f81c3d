"""Import directions of the device package and of the host side, as one table over the ASTs.

Responsible for: who may import whom (style: P = pure, runs on CPython and on a device). Not for:
what a module does with its imports. A module that no row names is a finding of its own, so that a
new module gets its place on purpose. Imports under TYPE_CHECKING never run and are not counted.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

PACKAGE = "azure_iot"
# What a pure module may use beside other pure modules.
PURE_LIBRARY = frozenset("binascii hashlib io json struct micropython".split())
# Never: both are unverified by default (ssl), or absent on a device (the rest).
FORBIDDEN = frozenset(
    "ssl ussl typing contextlib dataclasses functools logging re abc enum".split()
)

# The pure modules. `trust.*` knows stores and clocks only as objects passed in.
PURE = (
    "errors", "log", "transient", "backoff", "bag", "dates", "deadlines", "large", "desired", "identity", "credentials",
    "external", "configuration", "connection_string", "keymaterial", "sas", "hub", "dps",
    "mqtt.packet", "mqtt.session", "mqtt.sending", "mqtt.receiving", "mqtt.words", "mqtt",
    "tls.profile", "tls.planner", "tls.sessions", "tls.presented", "tls",
    "trust", "trust.errors", "trust.jws", "trust.rsa", "trust.der", "trust.bundle", "trust.scan",
    "trust.keyset", "trust.sources", "trust.hosts", "trust.roots",
    "trust.update", "inbox", "websocket", "trust.ladder", "trust.report", "ladder", "pnp", "guard",
)  # fmt: skip

# These three know nothing of Azure, so that each could be a package of its own.
AZURE = (
    "identity", "credentials", "external", "configuration", "connection_string", "keymaterial", "hub", "dps", "client", "provisioning",
    "assignment", "agent", "bringup", "twin", "methods", "c2d", "large", "desired",
    "updater", "link", "report", "upload", "x509", "core", "managed", "module", "guard", "ladder",
    "timekeeper", "upkeep", "arrivals", "pnp", "quiet",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Modules matching `who` may use these libraries and these modules of the package."""

    who: tuple[str, ...]
    library: frozenset[str]
    package: tuple[str, ...]


def _row(who: str, library: str, package: str) -> Row:
    return Row(
        tuple(who.split()), frozenset(library.split()) | PURE_LIBRARY, tuple(package.split())
    )


_P = " ".join(PURE)
# First matching row counts. A name ending in .* is a whole folder.
TABLE = (
    _row("errors log", "", ""),
    _row("transient", "sys", ""),
    _row("forever", "asyncio", "log"),
    _row("inbox", "asyncio", _P),
    _row("websocket", "asyncio", _P + " transport"),
    _row("trust.update trust.probe trust.report", "gc", _P + " trust.*"),
    _row(_P, "", _P),
    _row("clock", "time", _P),
    _row("transport", "asyncio socket select time errno tlsopt", _P),
    _row("tls.room", "gc esp32 tlsopt", _P),
    _row("tls.context tls.handshake tls.verdict", "tls tlsopt time", _P + " tls.*"),
    _row("https", "asyncio time", _P + " transport tls.context clock"),
    _row("mqtt.client mqtt.connection mqtt.stream", "asyncio os time gc", _P + " clock transport mqtt.*"),
    _row("trust.native", "tlsopt", _P),  # the C module's RSA behind the same call
    _row("trust.recovery", "asyncio os time gc", _P + " clock trust.* https transport"),
    _row("trust.*", "os time gc", _P + " clock trust.*"),
    _row("link", "asyncio os gc tlsopt", _P + " clock transport tls.context websocket"),
    _row("unix unix.*", "os time sys gc", _P + " clock unix.*"),
    _row("esp32 esp32.*", "os time sys gc machine network esp32 asyncio ntptime socket vfs", _P
         + " clock esp32.*"),
    _row(
        "twin methods c2d report large desired updater upload x509 guard timekeeper upkeep arrivals core managed quiet "
        "client module provisioning assignment",
        "asyncio os gc time",
        _P + " clock forever transport tls.* trust.* https websocket link mqtt.* twin methods c2d report "
        "updater upload x509 guard timekeeper upkeep arrivals core managed quiet client module "
        "provisioning assignment",
    ),
    _row(
        "agent bringup",
        "asyncio os gc time",
        _P + " clock forever transport tls.* trust.* https link mqtt.* twin methods c2d report updater "
        "core upkeep client module provisioning assignment x509 agent bringup",
    ),
)  # fmt: skip
# `import azure_iot` gives the public names, loaded when they are asked for.
LAZY = "__init__"
# Names every module but those of a board, and runs none; beside the package.
NAMES = "frozen_names.py"

# Host side: modules of the device package that CPython code may import.
HOST_PACKAGE = PURE
# Tests may also run these in-process: they need no more than os and gc.
HOST_TESTS = (*PURE, "trust.*", "tls.room")
# The simulation drives devices: these, too, run on CPython, over its clock and without bytes.
SIMULATION = (*PURE, "clock", "link", "timekeeper", "trust.recovery", "mqtt.connection")
# A codec that both sides share hides the bug that both sides share.
EMULATOR_NEVER = ("mqtt", "mqtt.*", "sas")
# Programs in these folders run on MicroPython, wherever they lie; so does what is called
# …program.py, and in host_tests/ whatever is neither a test nor support/.
DEVICE_FOLDERS = frozenset(("clients", "device", "devices", "programs", "examples", "ci"))


def imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield line and absolute dotted name of every import that can run."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and _type_checking(node.test):
            stack += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from _from(node, module, is_package)
        stack += ast.iter_child_nodes(node)


def _type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _from(node: ast.ImportFrom, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    base = node.module or ""
    if node.level:
        parts = module.split(".")
        parts = parts[: len(parts) - node.level + is_package]
        base = ".".join([*parts, *([node.module] if node.module else [])])
    for alias in node.names:
        yield node.lineno, f"{base}.{alias.name}" if base.startswith(PACKAGE) else base


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _resolve(name: str, modules: set[str]) -> str:
    """Cut an imported name back to the module it lives in: azure_iot.sas.token → sas."""
    inner = name[len(PACKAGE) + 1 :] if name != PACKAGE else ""
    while inner and inner not in modules:
        inner = inner.rpartition(".")[0]
    return inner or LAZY


def device_findings(firmware: Path) -> list[str]:
    """Findings in the device package: `file:line: what`."""
    root = firmware / PACKAGE
    files = {_module_of(root, path): path for path in sorted(root.rglob("*.py"))}
    found = []
    for module, path in files.items():
        if module == LAZY:
            continue
        row = next((r for r in TABLE if _matches(module, r.who)), None)
        where = path.relative_to(firmware.parent)
        if row is None:
            found.append(f"{where}:1: no row in taproot/checks/imports.py names this module")
            continue
        tree = ast.parse(path.read_text("utf-8"))
        full = f"{PACKAGE}.{module}"
        for line, name in imports(tree, full, path.name == "__init__.py"):
            problem = _judge(module, name, row, set(files))
            if problem:
                found.append(f"{where}:{line}: {problem}")
    if (firmware / NAMES).exists():  # without it the frozen builds fail
        found += _names_findings(firmware, set(files))
    return found


def _names_findings(firmware: Path, modules: set[str]) -> list[str]:
    """What frozen_names.py lacks, or names and is not there."""
    path = firmware / NAMES
    tree = ast.parse(path.read_text("utf-8"))
    named = {name for _, name in imports(tree, NAMES, False) if name.startswith(PACKAGE)}
    wanted = {
        f"{PACKAGE}.{module}"
        for module in modules - {LAZY}
        if module.split(".", maxsplit=1)[0] not in ("esp32", "unix")
    }
    where = path.relative_to(firmware.parent)
    return [f"{where}:1: must name {', '.join(sorted(named ^ wanted))}"] if named != wanted else []


def _module_of(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1] or (LAZY,)
    return ".".join(parts)


def _judge(module: str, name: str, row: Row, modules: set[str]) -> str:
    """What is wrong with `module` importing `name`; empty when nothing is."""
    if name.split(".", maxsplit=1)[0] != PACKAGE:
        library = name.split(".", maxsplit=1)[0]
        if library in FORBIDDEN:
            return f"nobody imports {library}"
        return "" if library in row.library else f"{module} must not import {library}"
    target = _resolve(name, modules)
    if target == LAZY:
        return f"{module} imports the package itself; name the module"
    top = module.split(".", maxsplit=1)[0]
    if top in ("mqtt", "tls", "trust") and target in AZURE:
        return f"{top}/ knows nothing of Azure, but {module} imports {target}"
    return "" if _matches(target, row.package) else f"{module} must not import {target}"


def _runs_on_device(where: Path) -> bool:
    """True for a program that an interpreter subprocess runs."""
    if DEVICE_FOLDERS & set(where.parts) or where.stem.endswith("program"):
        return True
    tests = where.parts[0] == "host_tests" and "support" not in where.parts
    return tests and not where.name.startswith(("test_", "conftest"))


def host_findings(root: Path) -> list[str]:
    """Findings in tools/ and host_tests/: device modules that CPython must not import."""
    modules = {
        _module_of(root / "firmware" / PACKAGE, path)
        for path in (root / "firmware" / PACKAGE).rglob("*.py")
    }
    found = []
    for path in sorted([*(root / "tools").rglob("*.py"), *(root / "host_tests").rglob("*.py")]):
        where = path.relative_to(root)
        if _runs_on_device(where):
            continue
        allowed: tuple[str, ...] = HOST_TESTS if where.parts[0] == "host_tests" else HOST_PACKAGE
        if where.parts[:3] == ("tools", "taproot", "simulate"):
            allowed = SIMULATION
        emulator = where.parts[:3] == ("tools", "taproot", "emulator")
        for line, name in imports(ast.parse(path.read_text("utf-8")), "host", False):
            if name.split(".")[0] != PACKAGE:
                continue
            target = _resolve(name, modules)
            if target != LAZY and not _matches(target, allowed):
                found.append(f"{where}:{line}: {target} is no pure module")
            if emulator and _matches(target, EMULATOR_NEVER):
                found.append(
                    f"{where}:{line}: the emulator must not share {target} with the device"
                )
    return found


def findings(root: Path) -> list[str]:
    """Everything that is wrong in a checkout."""
    return device_findings(root / "firmware") + host_findings(root)
