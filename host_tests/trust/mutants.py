"""Mutants of the trust modules: every `raise`, and every comparison that guards one.

    python mutants.py list                       how many there are
    python mutants.py run CATALOGUE [FIRST STEP] tries them; prints survivors and the count

A `raise` is taken out; the condition of an `if` around it is taken for false and for true; each
comparison in it is negated, and moved by one where it is an order. Survivors that change nothing a
caller can see are listed with their reason in `mutants.toml`.
"""

from __future__ import annotations

import ast
import concurrent.futures
import copy
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import altered

HERE = Path(__file__).resolve().parent
TRUST = altered.FIRMWARE / "azure_iot" / "trust"
FLIP = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE,
    ast.LtE: ast.Gt, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
EDGE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}


@dataclass
class Mutant:
    """One change: `name` is stable while the line's text is."""

    module: str
    line: int
    name: str
    source: str


def _raises(node: ast.If) -> bool:
    return any(isinstance(child, ast.Raise) for child in [*node.body, *node.orelse])


def _same(node: ast.AST, root: ast.AST) -> ast.AST:
    """Find in a copy of the tree what `node` is in the original."""
    for other in ast.walk(root):
        if type(other) is type(node) and getattr(other, "lineno", 0) == node.lineno:  # type: ignore[attr-defined]
            if other.col_offset == node.col_offset:  # type: ignore[attr-defined]
                return other
    raise LookupError


def _take_out(node: ast.Raise, root: ast.AST) -> None:
    found = _same(node, root)
    for parent in ast.walk(root):
        for field in ("body", "orelse", "finalbody"):
            body = getattr(parent, field, None)
            if isinstance(body, list) and found in body:
                body[body.index(found)] = ast.Pass()


def _fix(node: ast.If, value: bool, root: ast.AST) -> None:
    _same(node, root).test = ast.Constant(value)  # type: ignore[attr-defined]


def _turn(node: ast.Compare, place: int, operator: type, root: ast.AST) -> None:
    _same(node, root).ops[place] = operator()  # type: ignore[attr-defined]


def _changes(tree: ast.AST) -> Iterator[tuple[str, int, Callable]]:
    """Yield (what is changed, line, the change) for each mutant of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield "raise taken out", node.lineno, partial(_take_out, node)
        if not isinstance(node, ast.If) or not _raises(node):
            continue
        for value in (True, False):
            yield f"condition {value}", node.lineno, partial(_fix, node, value)
        for compare in [n for n in ast.walk(node.test) if isinstance(n, ast.Compare)]:
            for i, operator in enumerate(compare.ops):
                for table, word in ((FLIP, "negated"), (EDGE, "moved by one")):
                    other = table.get(type(operator))
                    if other is not None:
                        change = partial(_turn, compare, i, other)
                        yield f"comparison {i} {word}", compare.lineno, change


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Yield the mutants of one module."""
    text = path.read_text()
    tree = ast.parse(text)
    lines = text.splitlines()
    for what, line, change in _changes(tree):
        changed = copy.deepcopy(tree)
        change(changed)
        source = ast.unparse(ast.fix_missing_locations(changed))
        yield Mutant(path.stem, line, f"{path.stem}: {what}: {lines[line - 1].strip()}", source)


def everything() -> list[Mutant]:
    """Every mutant of every module, in a fixed order."""
    return [mutant for path in sorted(TRUST.glob("*.py")) for mutant in mutants_of(path)]


def reasons() -> dict[str, str]:
    """Names of mutants that may survive, with why."""
    return tomllib.loads((HERE / "mutants.toml").read_text())["survivors"]


def survives(mutant: Mutant, catalogue: Path) -> bool:
    """Run the suite on a package with this mutant."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        firmware = altered.copy(Path(folder))
        (firmware / "azure_iot" / "trust" / f"{mutant.module}.py").write_text(mutant.source)
        return altered.suite(firmware, catalogue, [], timeout=300) is None


def run(catalogue: Path, chosen: list[Mutant], workers: int = 1) -> list[Mutant]:
    """Return the survivors among `chosen`."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda mutant: survives(mutant, catalogue), chosen)
        return [mutant for mutant, alive in zip(chosen, results, strict=True) if alive]


def main() -> None:
    """List or run."""
    found = everything()
    if sys.argv[1] == "list":
        for mutant in found:
            print(mutant.name)
        print(len(found))
        return
    first, step = (int(a) for a in sys.argv[3:5]) if len(sys.argv) > 3 else (0, 1)
    chosen = found[first::step]
    alive = run(Path(sys.argv[2]).resolve(), chosen, 1)
    for mutant in alive:
        print("survives", mutant.name)
    print(f"{len(chosen)} of {len(found)} mutants, {len(alive)} survive")


if __name__ == "__main__":
    main()
