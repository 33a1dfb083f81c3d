"""Mutants of the trust modules: every `raise`, and every comparison that guards one.

    python mutants.py list                        names them, and says how many
    python mutants.py run [CATALOGUE] [--step N] [--workers N] [--only TEXT]
                                                  judges them; prints a line for each, then counts

CATALOGUE is a folder that support/trust_cases.py has filled; without one it is made first.

A `raise` is taken out; the condition of an `if` around one, or of a loop's `break` past one, is
taken for true and for false; each comparison in it is negated, and the bound of an order is moved
by one both ways. Survivors that change nothing a caller can see stand in `mutants.toml`, each with
its reason.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import altered

HERE = Path(__file__).resolve().parent
FLIP = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE,
    ast.LtE: ast.Gt, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
Change = tuple[str, ast.stmt, str, Callable[[], None]]


@dataclass
class Mutant:
    """One change; `name` is stable while the line's text and the function's name are."""

    module: str
    index: int
    line: int
    name: str

    @property
    def place(self) -> altered.Place:
        """The statement that is changed."""
        return (self.module, self.line)

    def tree(self) -> ast.Module:
        """Return the changed module."""
        tree = ast.parse(_path(self.module).read_text())
        list(_changes(tree))[self.index][3]()
        return ast.fix_missing_locations(tree)


def _path(module: str) -> Path:
    return altered.FIRMWARE / "azure_iot" / f"{module}.py"


def _statements(
    node: ast.AST, where: str = "", guard: bool = False
) -> Iterator[tuple[list[ast.stmt], int, str, bool]]:
    """Yield (list, index, function, whether a loop's `else` raises) for each statement."""
    for field in ("body", "handlers", "orelse", "finalbody"):
        body = getattr(node, field, None)
        if not isinstance(body, list):
            continue
        inner = guard
        if isinstance(node, (ast.For, ast.While)):
            inner = field == "body" and _raises(node.orelse)
        for i, child in enumerate(body):
            name = where
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                name = f"{where}.{child.name}".strip(".")
            if isinstance(child, ast.stmt):
                yield body, i, where, inner
            yield from _statements(child, name, inner)


def _raises(body: list[ast.stmt]) -> bool:
    return any(isinstance(child, ast.Raise) for node in body for child in ast.walk(node))


def _take_out(body: list[ast.stmt], i: int) -> None:
    body[i] = ast.Pass()


def _fix(node: ast.If, value: bool) -> None:
    node.test = ast.Constant(value)


def _turn(node: ast.Compare, i: int, operator: type[ast.cmpop]) -> None:
    node.ops[i] = operator()


def _move(node: ast.Compare, i: int, by: int) -> None:
    # Of `low <= x <= high` the bounds stand outside.
    if i == 0 and len(node.ops) > 1:
        node.left = ast.BinOp(node.left, ast.Add(), ast.Constant(by))
    else:
        node.comparators[i] = ast.BinOp(node.comparators[i], ast.Add(), ast.Constant(by))


def _changes(tree: ast.Module) -> Iterator[Change]:
    """Yield (function, statement, what is changed, the change) for each mutant of a module."""
    for body, i, where, guard in list(_statements(tree)):
        node = body[i]
        if isinstance(node, ast.Raise):
            yield where, node, "taken out", lambda b=body, i=i: _take_out(b, i)
        if not isinstance(node, ast.If) or not (guard or _raises(node.body + node.orelse)):
            continue
        for value in (True, False):
            yield where, node, f"always {value}", lambda n=node, v=value: _fix(n, v)
        for compare in [n for n in ast.walk(node.test) if isinstance(n, ast.Compare)]:
            for i, operator in enumerate(compare.ops):
                text = ast.unparse(compare)
                if len(compare.ops) > 1:
                    text += f", operator {i + 1},"
                other = FLIP[type(operator)]
                yield (
                    where,
                    node,
                    f"{text} negated",
                    lambda c=compare, i=i, o=other: _turn(c, i, o),
                )
                if isinstance(operator, ORDER):
                    for by in (-1, 1):
                        what = f"{text} bound {by:+d}"
                        yield where, node, what, lambda c=compare, i=i, by=by: _move(c, i, by)


def _first_line(node: ast.stmt) -> str:
    text = ast.unparse(node).splitlines()[0]
    return text if len(text) < 90 else text[:87] + "..."


def everything() -> list[Mutant]:
    """Every mutant of every module, in a fixed order."""
    found: list[Mutant] = []
    seen: dict[str, int] = {}
    for path in sorted((altered.FIRMWARE / "azure_iot" / "trust").glob("*.py")):
        module = f"trust/{path.stem}"
        for index, (where, node, what, _) in enumerate(_changes(ast.parse(path.read_text()))):
            name = f"{where}: {_first_line(node)} -> {what}"
            seen[name] = seen.get(name, 0) + 1
            if seen[name] > 1:
                name += f" ({seen[name]})"
            found.append(Mutant(module, index, node.lineno, name))
    return found


def reasons() -> dict[str, str]:
    """Names of mutants that may survive, with why."""
    return tomllib.loads((HERE / "mutants.toml").read_text())["survivors"]


def judge(catalogue: Path, chosen: list[Mutant], workers: int) -> Iterator[tuple[str, str | None]]:
    """Yield (name of a mutant, what noticed it or None)."""
    bench = altered.Bench(catalogue, {mutant.place for mutant in chosen})
    jobs = ((m.name, {m.module: m.tree()}, bench.passing(m.place)) for m in chosen)
    return bench.judge(jobs, workers)


def _catalogue(folder: Path) -> Path:
    sys.path.insert(0, str(HERE.parent))
    from support import trust_cases

    trust_cases.build(folder)
    return folder


def main() -> None:
    """List or run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("list", "run"))
    parser.add_argument("catalogue", nargs="?", type=Path)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    found = [mutant for mutant in everything() if options.only in mutant.name]
    chosen = found[:: options.step]
    if options.command == "list":
        for mutant in chosen:
            print(mutant.module, mutant.line, mutant.name)
        print(len(chosen))
        return
    alive = 0
    with tempfile.TemporaryDirectory() as folder:
        catalogue = options.catalogue or _catalogue(Path(folder))
        for name, noticed in judge(catalogue, chosen, options.workers):
            alive += noticed is None
            print(json.dumps([name, noticed]), flush=True)
    print(f"{len(chosen)} of {len(found)} mutants, {len(chosen) - alive} killed, {alive} survive")


if __name__ == "__main__":
    main()
