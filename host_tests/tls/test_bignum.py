"""The optional RSA public operation: exactly equal to Mbed TLS's, under the sanitizers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from taproot import interpreters

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "boards" / "usermod" / "tlsbignum"
HERE = Path(__file__).with_name("bignum")
FLAGS = [
    "-std=gnu99", "-O1", "-g", "-Wall", "-Wextra", "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all", "-Wl,--wrap=mbedtls_mpi_exp_mod_unsafe",
    '-DMBEDTLS_CONFIG_FILE="mbedtls_config.h"',
]  # fmt: skip
PARTS = ("bignum.c", "bignum_core.c", "constant_time.c", "platform.c", "platform_util.c")


def library() -> Path | None:
    """Mbed TLS's sources as set-up unpacked them."""
    found = sorted(interpreters.build_folder().glob("src/*/lib/mbedtls/library/bignum_core.c"))
    return found[-1].parent if found else None


def build(folder: Path, bits: str) -> Path | None:
    """Compile the comparison; None when this compiler cannot make `bits`-bit programs."""
    source = library()
    assert source is not None
    program = folder / f"check{bits}"
    done = subprocess.run(
        [
            "gcc", f"-m{bits}", *FLAGS, f"-I{HERE}", f"-I{source.parent / 'include'}",
            f"-I{source}", str(MODULE / "tlsbignum.c"), str(HERE / "check.c"),
            *(str(source / part) for part in PARTS), "-o", str(program),
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode and "cannot find" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("bits", ["64", "32"])
def test_equal_to_mbedtls_on_random_and_edge_cases(bits, tmp_path, count, not_checked) -> None:
    if not shutil.which("gcc") or library() is None:
        not_checked("no compiler or no sources of Mbed TLS: make setup")
    program = build(tmp_path, bits)
    if program is None:
        not_checked(f"no {bits}-bit sanitizer library here")
    cases = count(3_000 if bits == "64" else 600, 100_000)
    nth = count(50, 20)
    done = subprocess.run(
        [program, str(cases), "20261123", str(nth)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = re.match(r"(\d+) equal, (\d+) even moduli, (\d+) aliased, (\d+) long", done.stdout)
    assert found and int(found[1]) == cases
    assert int(found[2]) > 0 and int(found[3]) > cases // 3 and int(found[4]) >= cases // nth


def test_it_is_pinned_and_never_linked_beside_hardware() -> None:
    text = (MODULE / "tlsbignum.c").read_text()
    assert "#error" in text and "0x03060000" in text and "ESP_PLATFORM" in text
    assert not list(MODULE.glob("*.cmake")), "no CMake file, so no ESP32 build can link it"
    assert "ifeq ($(TLSBIGNUM),1)" in (MODULE / "micropython.mk").read_text()


def test_everything_works_without_it() -> None:
    result = interpreters.run("unix64", "import tlsopt; print(tlsopt.BIGNUM)")
    assert result.stdout.strip() == "False", result.text
