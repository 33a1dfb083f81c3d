"""The suite on a device package with one thing changed: a function that does nothing, or a mutant.

A `Bench` imports the package once, with a mark at each place that may be changed, and notes which
checks come by which mark and how long each takes. To judge a change it forks: the child imports
the changed module in place of the real one and runs the checks that come by, the quickest first,
until one fails. A check that does not come by the place cannot tell the change.
"""

from __future__ import annotations

import ast
import builtins
import importlib.abc
import importlib.util
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import suite

HERE = Path(__file__).resolve().parent
FIRMWARE = HERE.parents[1] / "firmware"
MARK = "__came_by__"
Place = tuple[str, int]  # module under azure_iot, with slashes; line
Job = tuple[str, dict[str, ast.Module], list[int]]  # name, changed modules, which checks


def copy(folder: Path) -> Path:
    """Copy the package into `folder`; the copy shadows an installed one."""
    target = folder / "firmware"
    shutil.copytree(
        FIRMWARE / "azure_iot", target / "azure_iot", ignore=shutil.ignore_patterns("__pycache__")
    )
    return target


def stub(source: str, name: str) -> ast.Module:
    """Return the tree of `source` with function or method `name` replaced by nothing."""
    tree = ast.parse(source)
    found = []
    wanted = name.split(".")

    def walk(body: list[ast.stmt], path: list[str]) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                walk(node.body, [*path, node.name])
            elif (
                isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                and [*path, node.name] == wanted
            ):
                node.body = [ast.Return(ast.Constant(None))]
                found.append(node)

    walk(tree.body, [])
    assert len(found) == 1, f"{name}: {len(found)} functions of that name"
    return ast.fix_missing_locations(tree)


def mark(tree: ast.Module, module: str, lines: set[int]) -> ast.Module:
    """Put a mark before each statement that begins on one of `lines`."""
    for parent in list(ast.walk(tree)):
        for field in ("body", "orelse", "finalbody"):
            body = getattr(parent, field, None)
            if isinstance(body, list):
                marked: list[ast.stmt] = []
                for node in body:
                    if isinstance(node, ast.stmt) and node.lineno in lines:
                        marked += ast.parse(f"{MARK}({(module, node.lineno)!r})").body
                    marked.append(node)
                body[:] = marked
    return ast.fix_missing_locations(tree)


class _Importer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the modules given as trees; all others come as ever."""

    def __init__(self, trees: dict[str, ast.Module]) -> None:
        self._trees = {f"azure_iot.{name.replace('/', '.')}": tree for name, tree in trees.items()}

    def find_spec(self, name, path, target=None):
        if name in self._trees:
            return importlib.util.spec_from_loader(name, self)
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._trees[module.__name__], module.__name__, "exec"), module.__dict__)


def _checks(catalogue: Path, trees: dict[str, ast.Module]) -> list[suite.Check]:
    """Import the package anew, with the trees given, and return the suite over it."""
    for name in list(sys.modules):
        if name in suite.MODULES or name.split(".")[0] == "azure_iot":
            del sys.modules[name]
    importer = _Importer(trees)
    sys.meta_path.insert(0, importer)
    try:
        return suite.checks(str(catalogue))
    finally:
        sys.meta_path.remove(importer)


class Bench:
    """Judges changes of the device package by the suite; in a process without threads."""

    def __init__(self, catalogue: Path, places: set[Place]) -> None:
        suite.prepare()
        self._catalogue = catalogue.resolve()
        modules = {module for module, _ in places}
        trees = {}
        for module in modules:
            source = (FIRMWARE / "azure_iot" / f"{module}.py").read_text()
            trees[module] = mark(ast.parse(source), module, {n for m, n in places if m == module})
        came_by: set[Place] = set()
        setattr(builtins, MARK, came_by.add)
        self.came_by: dict[Place, list[int]] = {place: [] for place in places}
        self.seconds: list[float] = []
        self.ids: list[frozenset[str]] = []
        with _inside():
            for i, check in enumerate(_checks(self._catalogue, trees)):
                came_by.clear()
                begun = time.process_time()
                why = check.failure()
                assert why is None, f"{check.name} fails without any change: {why}"
                self.seconds.append(time.process_time() - begun)
                self.ids.append(check.ids)
                for place in came_by:
                    self.came_by[place].append(i)
        delattr(builtins, MARK)

    def passing(self, place: Place) -> list[int]:
        """The checks that come by a place."""
        return self.came_by[place]

    def tagged(self, rule: str) -> list[int]:
        """The checks tagged with the id of a rule."""
        return [i for i, ids in enumerate(self.ids) if rule in ids]

    def judge(self, jobs: Iterator[Job], workers: int = 1) -> Iterator[tuple[str, str | None]]:
        """Yield (name, what noticed it or None) for each job."""
        running: dict[int, tuple[str, int]] = {}
        for name, trees, chosen in jobs:
            if len(running) >= workers:
                yield self._next(running)
            reading, writing = os.pipe()
            pid = os.fork()
            if not pid:
                os.close(reading)
                self._child(writing, trees, chosen)
            os.close(writing)
            running[pid] = (name, reading)
        while running:
            yield self._next(running)

    def _child(self, writing: int, trees: dict[str, ast.Module], chosen: list[int]) -> None:
        said = "the suite itself broke"
        try:
            limit = 2 + 5 * sum(self.seconds[i] for i in chosen)
            signal.setitimer(signal.ITIMER_PROF, limit)
            signal.alarm(60 + int(10 * limit))
            resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
            with _inside():
                try:
                    checks = _checks(self._catalogue, trees)
                    order = sorted(chosen, key=self.seconds.__getitem__)
                    said = suite.first_failure([checks[i] for i in order]) or ""
                except Exception as error:  # it does not even import
                    said = f"import: {type(error).__name__}: {error}"
            os.write(writing, said.encode()[:4000])
        finally:
            os._exit(0)

    def _next(self, running: dict[int, tuple[str, int]]) -> tuple[str, str | None]:
        pid, status = os.wait()
        name, reading = running.pop(pid)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read().decode(errors="replace")
        if os.WIFSIGNALED(status):
            said = f"does not end ({signal.Signals(os.WTERMSIG(status)).name})"
        return name, said or None


class _inside(tempfile.TemporaryDirectory):
    """A folder of its own to work in."""

    def __enter__(self) -> str:
        self._before = os.getcwd()
        os.chdir(self.name)
        return self.name

    def __exit__(self, *error) -> None:
        os.chdir(self._before)
        super().__exit__(*error)


def run(script: str, *args: str, timeout: float = 600) -> list[str]:
    """Run a script of this folder in a process of its own (it forks); return what it printed."""
    result = subprocess.run(
        [sys.executable, str(HERE / script), *args],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()


def pytest_node(firmware: Path, catalogue: Path, node: str, timeout: float = 500) -> str | None:
    """Run one test on an altered package; return its failure, or None."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", str(HERE / node)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=HERE.parents[1],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")},
            "TAPROOT_FIRMWARE": str(firmware),
            "TAPROOT_CATALOGUE": str(catalogue),
        },
    )
    if result.returncode == 0:
        return None
    assert result.returncode == 1, result.stdout + result.stderr
    return "failed"
