"""The same vectors on CPython and on every MicroPython build."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from taproot import interpreters

HERE = Path(__file__).resolve().parent
VECTORS = HERE.parent / "vectors" / "azure"
SHIM = "import sys, taproot.device_modules, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"


def test_azure_vectors_on_cpython():
    done = subprocess.run(
        [sys.executable, "-c", SHIM, str(HERE / "check_azure.py"), str(VECTORS)],
        capture_output=True, text=True, env=dict(os.environ), timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("build", ["unix64", "unix32", "stock"], indirect=True)
def test_azure_vectors_on_micropython(build):
    result = interpreters.run(build, HERE / "check_azure.py", str(VECTORS), heap="1m")
    assert result.returncode == 0, result.text


def test_a_package_in_the_twin_goes_to_flash_on_cpython(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SHIM, str(HERE / "check_desired.py"), str(tmp_path)],
        capture_output=True, text=True, env=dict(os.environ), timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.endswith("ok\n"), done.stdout + done.stderr


@pytest.mark.parametrize("build", ["unix64", "unix32", "stock"], indirect=True)
def test_a_package_in_the_twin_goes_to_flash_on_micropython(build, tmp_path):
    result = interpreters.run(build, HERE / "check_desired.py", str(tmp_path), heap="1m")
    assert result.stdout.endswith("ok\n"), result.text
