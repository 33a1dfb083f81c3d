"""What an install of six roots costs in memory, on the 32-bit build with frozen modules (R-31).

Measured as heap that must exist: the smallest `-X heapsize` with which the program installs, minus
the smallest with which it only starts. That includes fragmentation, scanner, garbage and the modules
that an install loads. The
largest block comes from a run in which the heap is full of holes of that size and no bigger.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import trust_maker as tm
from taproot import interpreters

HERE = Path(__file__).resolve().parent
PEAK = 40_000
BLOCK = 8_000
SCRIPT = HERE / "memory_device.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six roots (two of RSA-4096), PS256 with RSA-3072."""
    folder = tmp_path_factory.mktemp("memory")
    fleet = tm.Fleet(3072)
    fleet.write(folder / "factory")
    ders = [tm.root_der(f"m{i}", "rsa4096" if i < 2 else "rsa2048") for i in range(6)]
    (folder / "package").write_bytes(fleet.package(2, ders))
    return folder


def run(folder: Path, heap: int, *args: str) -> tuple[bool, str]:
    for file in folder.glob("trust/*"):
        file.unlink()
    altered = os.environ.get("TAPROOT_FIRMWARE")  # a rule's function is stubbed: from source
    result = interpreters.run(
        "unix32-board",
        SCRIPT,
        *args,
        heap=str(heap * 3 if altered else heap),
        cwd=folder,
        frozen=not altered,
        env={"MICROPYPATH": f"{altered}:.frozen"} if altered else None,
    )
    return result.returncode == 0, result.stdout + result.stderr


def least(folder: Path, *args: str) -> int:
    low, high = 30_000, 400_000
    assert run(folder, high, *args)[0], run(folder, high, *args)[1]
    while high - low > 256:
        middle = (low + high) // 2
        if run(folder, middle, *args)[0]:
            high = middle
        else:
            low = middle
    return high


@pytest.mark.requirement("R-31")
def test_peak_of_an_install(folder, record_property):
    start = least(folder, "start")
    install = least(folder, "install")
    text = f"install of 6 roots: {install - start} B of heap (starts with {start} B)"
    print(text)
    record_property("memory", text)
    assert install - start <= PEAK


@pytest.mark.requirement("R-31")
def test_largest_block_of_an_install(folder, record_property):
    """Every free run of the heap is at most 8 KB long, and the install still goes through."""
    ok, text = run(folder, 400_000, "holes", str(BLOCK))
    assert ok, text
    small = next(
        size
        for size in range(1000, BLOCK + 500, 500)
        if run(folder, 400_000, "holes", str(size))[0]
    )
    print(f"largest block: {small} B")
    record_property("memory", f"largest block {small} B")
    assert small <= BLOCK


@pytest.mark.requirement("R-31")
def test_out_of_memory_is_a_refusal(folder):
    """Too little heap ends in a refusal with its code, and the state is what it was."""
    start = least(folder, "start")
    codes = set()
    for extra in range(1000, 16000, 1500):
        ok, text = run(folder, start + extra, "install-or-refuse")
        if ok:
            codes.add(text.split()[0])
    assert "MEMORY" in codes
    assert codes <= {"MEMORY", "OK"}
