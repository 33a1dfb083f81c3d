"""The venv with Microsoft's Python packages, the judges of the emulator: `.build/sdk`.

Apart from `.venv` because azure-iot-device pins paho-mqtt 1.6. azure-iot-hub goes in only where
its wheels exist (x86-64, CPython below 3.14). Not here: the project's own venv.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from tools.setup.progress import Beat, run, step
from tools.setup.stamps import Stamps, digest_of, digest_of_files, remove

NAME = "sdk"


def locks(here: Path) -> list[Path]:
    """The lock files that fit this machine, in the order of installation."""
    found = [here / "sdk-build.lock", here / "sdk.lock"]
    if platform.machine() == "x86_64" and sys.version_info < (3, 14):
        found.append(here / "sdk-service.lock")
    return found


def python(root: Path) -> Path:
    """The interpreter of that venv."""
    return root / ".build" / NAME / "bin" / "python"


def _key(root: Path) -> str:
    here = root / "tools" / "setup"
    return digest_of(sys.version, str(root), digest_of_files(here, locks(here)))


def fresh(root: Path, stamps: Stamps) -> bool:
    """True when the venv is whole and of these lock files."""
    return stamps.fresh(NAME, _key(root))


def prepare(root: Path, stamps: Stamps, keep_lock: int | None = None) -> None:
    """Make the venv unless it is already whole."""
    here = root / "tools" / "setup"
    wanted = locks(here)
    if fresh(root, stamps):
        return
    key = _key(root)
    with step("sdk", "the official Azure SDK for Python, as a judge") as note:
        stamps.drop(NAME)
        folder = root / ".build" / NAME
        if folder.exists():
            remove(folder)
        logs = root / ".build" / "logs"
        beat = Beat("sdk")
        run(
            "making the SDK's venv",
            [sys.executable, "-m", "venv", folder],
            log=logs / "sdk-venv.log",
            keep_lock=keep_lock,
        )
        for lock in wanted:
            run(
                f"installing {lock.name}",
                [
                    *(python(root), "-m", "pip", "install", "--disable-pip-version-check"),
                    *("--require-hashes", "--no-deps", "--no-build-isolation", "-r", lock),
                ],
                log=logs / f"{lock.stem}.log",
                beat=beat,
                keep_lock=keep_lock,
            )
        stamps.write(NAME, key, [python(root)])
        note("with azure-iot-hub" if len(wanted) == 3 else "azure-iot-hub has no wheels here")
