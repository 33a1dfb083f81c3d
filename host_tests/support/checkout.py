"""A throw-away checkout, and how to run set-up in it without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # tools.setup is run from the checkout, never installed
# Nothing listens there: whatever asks the network fails at once, and the test stays on this machine.
NOWHERE = "http://127.0.0.1:9/debian"


@dataclass
class Checkout:
    """One throw-away checkout and how to run set-up in it."""

    folder: Path

    @property
    def build(self) -> Path:
        return self.folder / ".build"

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "tools.setup", *words]

    def environment(self, **extra: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return {**kept, "DEBIAN_MIRROR": NOWHERE, "LC_ALL": "C.UTF-8", **extra}

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str, limit: float = 100, **extra: str) -> Ended:
        started = time.monotonic()
        done = subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env={k: v for k, v in self.environment(**extra).items() if v},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        return Ended(
            done.returncode, done.stdout + done.stderr, done.stderr, time.monotonic() - started
        )


@dataclass
class Ended:
    """How set-up ended."""

    status: int
    text: str
    errors: str
    seconds: float


def copy_of_checkout(folder: Path) -> Checkout:
    """Everything that set-up reads, and nothing that it made."""
    for name in ("tools/setup", "boards", "firmware"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    for name in ("pyproject.toml", "README.md"):
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, folder / name)
    return Checkout(folder)
