"""`.venv`: the Python packages of the lock file (hashes checked) and this checkout, editable.

`.build/typings`: MicroPython's stubs for the type checker, from a lock file of their own.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from tools.setup.machine import Machine
from tools.setup.progress import Beat, Failure, run, step
from tools.setup.stamps import Stamps, digest_of, digest_of_file, remove

_HERE = Path("tools") / "setup"
PYTHON_STEPS = ("venv", "project", "typings")
_LOCKS = ("build", "requirements", "typings")
_SOURCE_ONLY = "esptool"  # published without a wheel
_PIP = (
    "-m",
    "pip",
    "--disable-pip-version-check",
    "--no-input",
    "install",
    "--no-warn-script-location",
)


_ENTRY = re.compile(
    r"^[A-Za-z0-9._-]+==[^\s;]+(?: ; [^\n\\]+?)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+$"
)


def check_lock(path: Path) -> None:
    """Refuse a lock file with anything but pinned versions and whole hashes in it."""
    if not path.is_file():
        raise Failure(f"the lock file {path} is missing", "git checkout -- tools/setup")
    entries = re.split(r"\n(?=\S)", path.read_text("utf-8").strip())
    for entry in entries:
        if not entry.startswith("#") and not _ENTRY.match(entry):
            raise Failure(
                f"the lock file is damaged: {path} near '{entry.splitlines()[0]}'",
                "git checkout -- tools/setup",
            )


class Environment:
    """The Python side of a checkout."""

    def __init__(self, machine: Machine, stamps: Stamps, lock: int | None) -> None:
        self._machine = machine
        self._stamps = stamps
        self._lock = lock
        self._folder = machine.root / ".venv"
        self._locks = [machine.root / _HERE / f"{name}.lock" for name in _LOCKS]
        self._typings = machine.build / "typings"

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self._folder / "bin" / "python"

    def _base(self) -> str:
        """The Python that the environment is made with."""
        return f"{os.path.realpath(sys.executable)} {sys.version.split()[0]}"

    def _keys(self) -> dict[str, str]:
        for path in self._locks:
            check_lock(path)
        project = digest_of_file(self._machine.root / "pyproject.toml")
        where = str(self._machine.root)
        return {
            "venv": digest_of(self._base(), where, *map(digest_of_file, self._locks[:2])),
            "project": digest_of(self._base(), where, project),
            "typings": digest_of(digest_of_file(self._locks[2])),
        }

    def stale(self) -> list[str]:
        """Which of venv, project, typings must be made."""
        return [name for name, key in self._keys().items() if not self._stamps.fresh(name, key)]

    def make(self, stale: list[str]) -> None:
        """Make what is stale."""
        keys = self._keys()
        if "venv" in stale:
            self._make_venv(keys["venv"])
        if "venv" in stale or "project" in stale:
            self._make_project(keys["project"])
        if "typings" in stale:
            self._make_typings(keys["typings"])

    def _pip(self, what: str, log: str, *words: str | Path) -> None:
        run(
            what,
            [self.python, *_PIP, *words],
            log=self._machine.logs / log,
            beat=Beat(".venv"),
            keep_lock=self._lock,
        )

    def _make_venv(self, key: str) -> None:
        with step(".venv", "installing the locked Python packages") as note:
            whole = self._stamps.read("venv").get("base") == self._base() and self.python.exists()
            self._stamps.drop("venv")
            self._stamps.drop("project")
            if not whole:  # never made, killed halfway, or another Python
                if self._folder.exists():
                    remove(self._folder)
                run(
                    "making .venv",
                    [sys.executable, "-m", "venv", self._folder],
                    log=self._machine.logs / "venv.txt",
                    keep_lock=self._lock,
                )
            self._pip(
                "installing the build backend", "pip-build.txt",
                "--require-hashes", "--only-binary", ":all:", "-r", self._locks[0],
            )  # fmt: skip
            self._pip(
                "installing the Python packages", "pip.txt",
                "--require-hashes", "--only-binary", ":all:", "--no-binary", _SOURCE_ONLY,
                "--no-build-isolation", "-r", self._locks[1],
            )  # fmt: skip
            self._stamps.write("venv", key, [self.python], base=self._base())
            note(f"Python {sys.version.split()[0]}")

    def _make_project(self, key: str) -> None:
        with step(".venv", "installing this checkout (editable)"):
            self._stamps.drop("project")
            self._pip(
                "installing this checkout", "pip-project.txt",
                "--no-deps", "--no-build-isolation", "--no-index", "-e", self._machine.root,
            )  # fmt: skip
            self._stamps.write("project", key, [self._folder / "bin" / "taproot"])

    def _make_typings(self, key: str) -> None:
        with step("typings", "fetching MicroPython's type stubs"):
            self._stamps.drop("typings")
            new = self._machine.build / ".typings.new"
            for old in (new, self._typings):
                if old.exists():
                    remove(old)
            self._pip(
                "fetching the type stubs", "pip-typings.txt",
                "--require-hashes", "--no-deps", "--target", new, "-r", self._locks[2],
            )  # fmt: skip
            new.rename(self._typings)
            self._stamps.write("typings", key, [self._typings])
