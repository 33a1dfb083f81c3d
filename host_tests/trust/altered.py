"""Copies of the device package with one thing changed: a function that does nothing, or a mutant."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIRMWARE = HERE.parents[1] / "firmware"


def copy(folder: Path) -> Path:
    """Copy the package into `folder`; the copy shadows an installed one."""
    target = folder / "firmware"
    shutil.copytree(
        FIRMWARE / "azure_iot", target / "azure_iot", ignore=shutil.ignore_patterns("__pycache__")
    )
    return target


def stub(source: str, name: str) -> str:
    """Return `source` with the body of function or method `name` replaced by nothing."""
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
    return ast.unparse(ast.fix_missing_locations(tree))


def suite(firmware: Path, catalogue: Path, ids: list[str], timeout: float = 120) -> str | None:
    """Run the suite on an altered package; return what fails first, or None."""
    try:
        result = subprocess.run(
            [
                sys.executable,
                "-B",
                str(HERE / "suite.py"),
                str(catalogue),
                *(["--ids", *ids] if ids else []),
            ],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "TAPROOT_FIRMWARE": str(firmware)},
        )
    except subprocess.TimeoutExpired:
        return "does not end"
    if result.returncode == 0:
        return None
    return (result.stdout + result.stderr).strip().splitlines()[-1]


def pytest_node(firmware: Path, node: str, timeout: float = 200) -> str | None:
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
        },
    )
    if result.returncode == 0:
        return None
    assert result.returncode == 1, result.stdout + result.stderr
    return "failed"
