"""Flash taken by the device package: every file through mpy-cross -O3, against a budget.

Each file is compiled under its own name inside the package, so that the figure does not depend on
where the checkout lies. A file that mpy-cross refuses is a finding: it is the real syntax check.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from taproot import interpreters

BUDGET = "firmware/size_budget.json"


class CompileFailed(Exception):
    """mpy-cross refused a file; the text is its message."""


def compiled(mpy_cross: Path, path: Path, name: str) -> bytes:
    """The compiled module, with `name` as the name of its source."""
    with tempfile.TemporaryDirectory(prefix="taproot-") as folder:
        target = Path(folder) / "out.mpy"
        line: list[str | Path] = [mpy_cross, "-O3", "-s", name, "-o", target, path]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["?"])[-1]
            raise CompileFailed(f"{path}: mpy-cross refuses it: {last}")
        return target.read_bytes()


def measure(root: Path) -> tuple[dict[str, int], list[str]]:
    """Bytes per file of the package, and the files that do not compile (examples too)."""
    firmware = root / "firmware"
    mpy_cross = interpreters.build_folder() / "bin" / "mpy-cross"
    files = sorted(
        [*(firmware / "azure_iot").rglob("*.py"), *(firmware / "examples").glob("*.py")]
    )
    sizes: dict[str, int] = {}
    problems = []

    def one(path: Path) -> tuple[str, int | str]:
        name = str(path.relative_to(firmware))
        try:
            return name, len(compiled(mpy_cross, path, name))
        except CompileFailed as error:
            return name, str(error)

    with ThreadPoolExecutor(2) as pool:
        for name, result in pool.map(one, files):
            if isinstance(result, str):
                problems.append(result)
            elif name.startswith("azure_iot/"):
                sizes[name] = result
    return sizes, problems


def report(root: Path) -> tuple[list[str], list[str]]:
    """Lines of a table, and findings: what is over its budget or does not compile."""
    sizes, findings = measure(root)
    budget = json.loads((root / BUDGET).read_text("utf-8"))
    groups: dict[str, int] = {}
    for name, size in sizes.items():
        limit = budget["modules"].get(name, budget["module"])
        if size > limit:
            findings.append(
                f"{name}: {size} B compiled, budget {limit} B ({BUDGET}): make it smaller, or "
                "raise the budget and say why in the commit"
            )
        part = name.split("/")[1] if name.count("/") > 1 else "azure_iot"
        groups[part] = groups.get(part, 0) + size
    total = sum(sizes.values())
    if total > budget["package"]:
        findings.append(
            f"the package: {total} B compiled, budget {budget['package']} B ({BUDGET})"
        )
    lines = [f"{size:8,d} B  {part}/" for part, size in sorted(groups.items())]
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    lines.append(f"{total:8,d} B  of {budget['package']:,d} B: the package, {len(sizes)} files")
    lines += [f"{size:8,d} B  {name}" for name, size in largest]
    return lines, findings
