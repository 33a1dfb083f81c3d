"""What set-up has to know about this machine: processor, distribution, Debian mirror, who runs it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tools.setup.progress import Failure

NEEDED_BYTES = 900 * 1024 * 1024  # sources 240 MB, five builds 150 MB, packages, .venv 330 MB
PYTHON_MIN = (3, 11)


@dataclass
class Machine:
    """One machine and one checkout. `etc` is /etc; tests name another folder."""

    root: Path
    etc: Path = Path("/etc")
    processor: str = field(default_factory=platform.machine)
    ordinary_user: bool = field(default_factory=lambda: os.geteuid() != 0)

    @property
    def build(self) -> Path:
        """Everything that set-up makes except the Python environment."""
        return self.root / ".build"

    @property
    def logs(self) -> Path:
        """One file per program that set-up ran."""
        return self.build / "logs"

    def check(self) -> None:
        """Refuse what cannot work, in one line each."""
        if sys.platform != "linux":
            raise Failure(
                f"the test interpreters build on Linux only; this is {sys.platform}",
                "use a Debian 12 or 13 machine, container or WSL",
            )
        if self.processor not in ("x86_64", "amd64"):
            raise Failure(
                f"this processor is {self.processor}; the 64-bit and 32-bit test interpreters are "
                "built and tried on amd64 only",
                "use an amd64 machine or container",
            )
        if " " in str(self.root):
            raise Failure(
                f"the checkout's path holds a space, which MicroPython's makefiles cannot take: "
                f"{self.root}",
                "move the checkout to a path without spaces",
            )

    def check_space(self) -> None:
        """Refuse a disk on which the builds cannot fit."""
        free = shutil.disk_usage(self.root).free
        if free < NEEDED_BYTES:
            raise Failure(
                f"the disk is full: {free // 2**20} MB free at {self.root}, "
                f"set-up needs {NEEDED_BYTES // 2**20} MB",
                "free some space and run the same command again",
            )

    def distribution(self) -> str:
        """ID of os-release: debian, ubuntu, …"""
        try:
            text = (self.etc / "os-release").read_text("utf-8")
        except OSError:
            return "unknown"
        found = re.search(r"^ID=\"?([^\"\n]*)", text, re.MULTILINE)
        return found.group(1) if found else "unknown"

    def debian_mirror(self) -> str | None:
        """The mirror the user named, or the one this Debian machine already uses."""
        named = os.environ.get("DEBIAN_MIRROR")
        if named:
            return named.rstrip("/")
        if self.distribution() != "debian":
            return None
        found: list[str] = []
        for path in sorted((self.etc / "apt" / "sources.list.d").glob("*.sources")):
            found += _deb822_mirrors(path.read_text("utf-8", errors="replace"))
        lists = [self.etc / "apt" / "sources.list"]
        lists += sorted((self.etc / "apt" / "sources.list.d").glob("*.list"))
        for path in lists:
            if path.is_file():
                found += _one_line_mirrors(path.read_text("utf-8", errors="replace"))
        return next((url for url in found if "security" not in url), None)


_SUITE = re.compile(r"(bookworm|trixie|forky|sid|stable|testing|unstable|oldstable)\b")


def _deb822_mirrors(text: str) -> list[str]:
    """URIs of the stanzas that name a Debian suite."""
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
        suites = fields.get("Suites", "")
        if "deb" in fields.get("Types", "").split() and any(map(_SUITE.match, suites.split())):
            found += fields.get("URIs", "").split()
    return [url.rstrip("/") for url in found]


def _one_line_mirrors(text: str) -> list[str]:
    """URIs of the `deb` lines that name a Debian suite."""
    lines = re.findall(r"^deb[ \t]+(?:\[[^\]]*\][ \t]+)?(\S+)[ \t]+(\S+)", text, re.MULTILINE)
    return [url.rstrip("/") for url, suite in lines if _SUITE.match(suite)]
