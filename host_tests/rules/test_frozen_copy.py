"""The copy frozen into the interpreters equals the tree, module by module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.checkout import ROOT
from taproot import interpreters

from tools.setup.builds import BUILDS

FROZEN = [build.name for build in BUILDS if build.frozen]
PACKAGE = ROOT / "firmware" / "azure_iot"
MODULES = sorted(path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py"))


def compiled_now(source: Path, target: Path) -> bytes:
    """A module of the tree, compiled as firmware/manifest.py says: opt=3."""
    mpy_cross = interpreters.build_folder() / "bin" / "mpy-cross"
    line = [mpy_cross, "-O3", "-s", str(source), "-o", target, PACKAGE.parent / source]
    subprocess.run(line, check=True, timeout=20)
    return target.read_bytes()


@pytest.mark.parametrize("build", FROZEN)
def test_what_was_frozen_is_what_the_tree_compiles_to(build: str, tmp_path: Path) -> None:
    frozen = interpreters.build_folder() / "obj" / build / "frozen_mpy"
    there = {path.relative_to(frozen) for path in frozen.glob("azure_iot/**/*.mpy")}
    assert there == {name.with_suffix(".mpy") for name in MODULES}
    different = [
        str(name)
        for name in MODULES
        if (frozen / name).with_suffix(".mpy").read_bytes()
        != compiled_now(name, tmp_path / "out.mpy")
    ]
    assert different == [], "make setup freezes the tree again"


@pytest.mark.parametrize("build", FROZEN)
def test_the_interpreter_holds_every_module_and_reads_none_from_the_tree(build: str) -> None:
    names = [
        str(name.with_suffix("")).replace("/", ".").removesuffix(".__init__") for name in MODULES
    ]
    # Board modules need hardware; the others must import from the frozen copy alone.
    names = [name for name in names if ".esp32" not in name]
    program = (
        "import sys\n"
        f"for name in {names!r}:\n"
        "    module = __import__(name, None, None, (name,))\n"
        "    print(name, module.__file__)\n"
    )
    result = interpreters.run(build, program, frozen=True)
    assert result.returncode == 0, result.text
    for line in result.stdout.splitlines():
        name, file = line.split()
        assert file.startswith("azure_iot/"), f"{name} came from {file}"
    assert len(result.stdout.splitlines()) == len(names)


def test_the_frozen_copy_was_built_from_this_tree() -> None:
    """The stamps of set-up: the interpreters in use were made from exactly these files."""
    program = (
        "from pathlib import Path; from tools.setup.builds import BUILDS, Builder;"
        "from tools.setup.machine import Machine; from tools.setup.stamps import Stamps;"
        "from tools.setup import sources;"
        "m = Machine(Path('.').resolve()); s = Stamps(m.build); b = Builder(m, s, None);"
        "print(*[x.name for x in b.stale(sources.prepare(m, s)) if x.frozen])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "", "make setup was not run after the last change"
