"""The C module under AddressSanitizer and UBSan: the same tests, another interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from taproot import interpreters

HERE = Path(__file__).resolve().parent


@pytest.mark.long
@pytest.mark.timeout(900)
def test_tlsopt_and_the_matrix_run_clean_under_the_sanitizers(tmp_path, not_checked) -> None:
    built = interpreters.build_folder() / "bin"
    if not (built / "micropython-unix64-asan").exists():
        not_checked("the build unix64-asan is missing: python3 -m tools.setup --extra")
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in built.iterdir():
        (folder / program.name).symlink_to(program)
    (folder / "micropython-unix64").unlink()
    (folder / "micropython-unix64").symlink_to(built / "micropython-unix64-asan")
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
            str(HERE / "test_tlsopt.py"), str(HERE / "test_matrix.py"), "-k", "not stock",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE.parents[1],
        env={**os.environ, "TAPROOT_BUILD": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
