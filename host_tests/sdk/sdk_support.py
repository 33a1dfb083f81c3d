"""The venv of the official SDK and how its drivers are run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SDK = ROOT / ".build" / "sdk" / "bin" / "python"


def drive(python: Path, script: str, job: dict, limit: float) -> dict:
    """Run a driver in the SDK's venv with a job on stdin; return what it prints."""
    done = subprocess.run(
        [python, "-X", "utf8", Path(__file__).with_name(script)],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        pytest.fail(f"{script} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(lines[-1])
