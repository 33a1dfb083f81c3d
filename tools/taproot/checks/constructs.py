"""Constructs that device code must not hold, found in the ASTs; and text no file may hold.

Responsible for: assert, bare except, raise-from, unverified TLS, secrets handed to a log, paths of
one machine. Not for: imports (imports.py), syntax that MicroPython lacks (mpy-cross says it).
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

# Names whose values must never reach a log, a message or the console.
SECRETS = re.compile(
    r"(password|secret|token|sas\b|shared_access|connection_string|primary_key|secondary_key|"
    r"private|symmetric_key|\bkey_pem\b|signature\b)",
    re.IGNORECASE,
)
_LOGS = frozenset(("debug", "info", "warning", "error", "log"))
_UNVERIFIED = frozenset(("CERT_NONE", "CERT_OPTIONAL"))


def device_findings(path: Path, where: str) -> list[str]:
    """Findings in one file that runs on a device."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        found += [f"{where}:{getattr(node, 'lineno', 1)}: {text}" for text in _judge(node)]
    return found


def _judge(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Assert):
        yield "assert: -O removes it; raise a typed error"
    elif isinstance(node, ast.ExceptHandler) and node.type is None:
        yield "bare except: it catches KeyboardInterrupt and CancelledError"
    elif isinstance(node, ast.Raise) and node.cause is not None:
        yield "raise-from: MicroPython drops the cause; pass it as an argument"
    elif isinstance(node, ast.Call):
        yield from _call(node)
    elif isinstance(node, ast.Assign):
        yield from _assignment(node)
    name = getattr(node, "attr", None) or getattr(node, "id", None)
    if name in _UNVERIFIED:
        yield f"{name}: every TLS connection is verified"


def _assignment(node: ast.Assign) -> Iterator[str]:
    for target in node.targets:
        if isinstance(target, ast.Attribute) and target.attr == "verify_mode":
            value = node.value
            if not (isinstance(value, ast.Attribute) and value.attr == "CERT_REQUIRED"):
                yield "verify_mode: CERT_REQUIRED is the only value"


def _call(node: ast.Call) -> Iterator[str]:
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    logs = (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id in ("log", "_log")
        and name in _LOGS
    )
    if logs or name == "print":
        for argument in node.args:
            for part in ast.walk(argument):
                text = getattr(part, "attr", None) or getattr(part, "id", None)
                if text and SECRETS.search(text):
                    yield f"{text}: a secret must not reach {name}()"


# Text that belongs to one machine or one moment. Spelled in pieces: this file is searched too.
_TEXT = (
    (re.compile(r"(^|[^A-Za-z0-9_.])/(ho" + r"me|ro" + r"ot|wo" + r"rk)/\w"), "a path of one machine"),
    (re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX|HA" + r"CK)\b"), "an unfinished place"),
    (re.compile(r"-----BEGIN (RSA |EC )?PRIV" + r"ATE KEY"), "a private key"),
)  # fmt: skip
_BINARY = (".png", ".der", ".bin", ".mpy", ".lock", ".pem")


def committed(root: Path) -> list[str]:
    """Names of the files that git tracks; all files of the source folders where there is no git."""
    line = ["git", "ls-files", "-z"]
    listed = subprocess.run(line, cwd=root, capture_output=True, check=False)
    if listed.returncode == 0:
        return [name for name in listed.stdout.decode().split("\0") if name]
    folders = ("firmware", "host_tests", "tools", "boards", "certs")
    return [
        str(path.relative_to(root))
        for folder in folders
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]


def text_findings(root: Path) -> list[str]:
    """Findings in any committed text file."""
    found = []
    for name in committed(root):
        path = root / name
        if not name or name.endswith(_BINARY) or not path.is_file():
            continue
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
            found += [f"{name}:{number}: {what}" for rule, what in _TEXT if rule.search(line)]
    return found


def findings(root: Path) -> list[str]:
    """Everything forbidden in a checkout."""
    found = []
    for path in sorted((root / "firmware").rglob("*.py")):
        found += device_findings(path, str(path.relative_to(root)))
    return found + text_findings(root)
