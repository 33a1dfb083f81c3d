"""The fixtures that other people's CI uses: from a wheel, in an empty folder, away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.checkout import ROOT
from taproot import interpreters

EXAMPLE = ROOT / "tools" / "ci"

FAILING = """
def test_fails(device):
    device("main.py").wait_for("never printed", timeout=3)


def test_ends_early(device):
    device("broken.py").wait_message()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it would be published, unpacked: `pip install --target` without a registry."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    keep_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("tools/taproot", "firmware/azure_iot"):
        shutil.copytree(ROOT / name, source / name, ignore=keep_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, source / name)
    line = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(
        [*line, "--no-build-isolation", "--wheel-dir", folder, source],
        check=True,
        timeout=90,
        capture_output=True,
    )
    (found,) = folder.glob("taproot-*.whl")
    with zipfile.ZipFile(found) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def run_pytest(folder: Path, wheel: Path) -> subprocess.CompletedProcess[str]:
    """pytest as another project's CI would start it."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(wheel),
        "TAPROOT_BUILD": str(interpreters.build_folder()),
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.requirement("issue 4, item 8")
def test_the_example_runs_from_a_wheel_in_an_empty_folder(tmp_path: Path, wheel: Path) -> None:
    for name in ("main.py", "test_main.py"):
        shutil.copy2(EXAMPLE / name, tmp_path / name)
    (tmp_path / "test_where.py").write_text(
        "import taproot, azure_iot\n"
        "def test_where():\n"
        f"    assert taproot.__file__.startswith({str(wheel)!r})\n"
        f"    assert azure_iot.__file__.startswith({str(wheel)!r})\n"
    )
    done = run_pytest(tmp_path, wheel)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_a_failing_test_shows_log_and_twin(tmp_path: Path, wheel: Path) -> None:
    shutil.copy2(EXAMPLE / "main.py", tmp_path / "main.py")
    (tmp_path / "broken.py").write_text("print('about to fail')\nraise ValueError('mine')\n")
    (tmp_path / "test_it.py").write_text(FAILING)
    done = run_pytest(tmp_path, wheel)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 failed" in done.stdout
    assert "log of device" in done.stdout
    assert '"firmware": "1.2.0"' in done.stdout  # the twin, as the device reported it
    assert "ValueError: mine" in done.stdout
    assert "the device ended before message 1" in done.stdout


def test_the_command_says_where_the_interpreter_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "taproot", "micropython", "--path"],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert Path(done.stdout.strip()) == interpreters.path("unix64")


def test_the_workflow_names_only_files_and_targets_that_exist() -> None:
    text = (EXAMPLE / "workflow.yml").read_text("utf-8")
    assert "make -C taproot setup" in text
    assert "\nsetup:" in (ROOT / "Makefile").read_text("utf-8")
    assert "test_main.py" in text
