"""mypy, twice: the device package against MicroPython's stubs, the host side against typeshed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

_MYPY = (sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context")
DEVICE_CONFIG = "tools/taproot/checks/firmware.mypy.ini"

# `self.link = None` means "not yet" in device code; mypy, without Optional, takes it for the
# attribute's type. These three messages say only that.
_NOT_YET = re.compile(
    r'variable has type "None"|"None" has no attribute|"None" not callable|: note:'
)


def device(root: Path) -> list[str]:
    """Findings in firmware/azure_iot."""
    lines = _run(root, "--config-file", DEVICE_CONFIG)
    return [line for line in lines if not _NOT_YET.search(line)]


def host(root: Path) -> list[str]:
    """Findings in tools/."""
    package = _run(root, "tools/taproot")
    return package + _run(root, "--strict", "-p", "tools.setup")


def _run(root: Path, *words: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [*_MYPY, *words],
        cwd=root,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines or ([] if done.returncode == 0 else [f"mypy ended with {done.returncode}"])
