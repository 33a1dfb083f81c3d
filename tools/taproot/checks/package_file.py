"""`firmware/package.json`: the file list that mip installs from, generated from the tree.

URLs are relative, so the same file serves from a repository host and from a local server.
`esp32/` and `unix/` go in whole: a board needs one and ignores the other at a few KB of flash.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

PATH = "firmware/package.json"


def content(root: Path) -> str:
    """What the file must hold for this tree."""
    firmware = root / "firmware"
    files = sorted(p.relative_to(firmware).as_posix() for p in firmware.glob("azure_iot/**/*.py"))
    source = (firmware / "azure_iot" / "__init__.py").read_text("utf-8")
    version = re.search(r'^__version__ = "([^"]+)"', source, re.MULTILINE)
    if version is None:
        raise ValueError("firmware/azure_iot/__init__.py has no __version__")
    entries = ",\n".join(f"    {json.dumps([name, name])}" for name in files)
    return f'{{\n  "version": "{version.group(1)}",\n  "urls": [\n{entries}\n  ]\n}}\n'


def findings(root: Path) -> list[str]:
    """One finding when the committed file is not what the tree asks for."""
    path = root / PATH
    if path.is_file() and path.read_text("utf-8") == content(root):
        return []
    return [f"{PATH} does not list the tree: .venv/bin/python -m taproot.checks --write"]
