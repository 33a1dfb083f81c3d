"""The ledger: who changed what, each line chained to the one before by its SHA-256.

Responsible for: appending one line per state-changing command and checking the chain, and
that the files the ledger speaks of are still the ones it recorded.
Not for: secrets (never recorded) and authority (signatures decide what devices accept).

A chain cannot show that its last lines were cut off: note the head that `ledger verify`
prints, and give it back with `--head` next time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taproot.console import UsageFailed

NAME = "ledger.jsonl"
START = "0" * 64
_MEMBERS = ["n", "at", "command", "facts", "files", "prev", "hash"]


class LedgerError(UsageFailed):
    """The ledger cannot be read or written."""


@dataclass
class Check:
    """What checking a ledger found."""

    entries: int = 0
    head: str = START
    problems: list[str] = field(default_factory=list)


def entry_hash(entry: dict[str, Any]) -> str:
    """Return the hash of an entry: its compact JSON without the member `hash`."""
    body = {k: entry[k] for k in _MEMBERS[:-1]}
    return hashlib.sha256(json.dumps(body, separators=(",", ":")).encode()).hexdigest()


def append(
    home: Path, command: str, facts: dict[str, Any], files: Iterable[Path], at: int
) -> dict[str, Any]:
    """Append one entry, flushed to disk; refuse to continue a damaged ledger."""
    path = home / NAME
    try:
        with open(path, "a+", encoding="utf-8", errors="replace") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            previous = _last(file.read(), path)
            entry: dict[str, Any] = {
                "n": previous["n"] + 1 if previous else 1,
                "at": at,
                "command": command,
                "facts": facts,
                "files": {str(f.relative_to(home)): _digest(f) for f in files},
                "prev": previous["hash"] if previous else START,
            }
            entry["hash"] = entry_hash(entry)
            file.write(_line(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        raise LedgerError(f"cannot write {path}: {exc.strerror}") from None
    return entry


def read(home: Path) -> list[dict[str, Any]]:
    """Return all entries, unchecked; none when there is no ledger."""
    path = home / NAME
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(
        path.read_text(encoding="utf-8", errors="replace").splitlines(), 1
    ):
        entry, problem = _parse(line)
        if entry is None:
            raise LedgerError(f"{path}, line {number}: {problem}")
        found.append(entry)
    return found


def check(home: Path, head: str | None = None) -> Check:
    """Check the chain, the order of times, the files, and the noted head if one is given."""
    result = Check()
    path = home / NAME
    if not path.is_file() or not path.stat().st_size:
        result.problems.append(f"there is no {path}, or nothing in it")
        return result
    latest: dict[str, str] = {}
    hashes = {START}
    at = 0
    for number, line in enumerate(
        path.read_text(encoding="utf-8", errors="replace").splitlines(), 1
    ):
        entry, problem = _parse(line)
        if entry is None:
            result.problems.append(f"line {number}: {problem}")
            return result
        if entry["n"] != number:
            result.problems.append(f"line {number}: numbered {entry['n']}")
        if entry["prev"] != result.head:
            result.problems.append(f"line {number}: does not follow the line before it")
        if entry_hash(entry) != entry["hash"]:
            result.problems.append(f"line {number}: was changed after it was written")
        if entry["at"] < at:
            result.problems.append(f"line {number}: is older than the line before it")
        at = entry["at"]
        result.entries, result.head = number, entry["hash"]
        hashes.add(entry["hash"])
        latest.update(entry["files"])
    result.problems += _file_problems(home, latest)
    if head is not None and head not in hashes:
        result.problems.append(f"the noted head {head[:16]} is not in this ledger")
    return result


def _file_problems(home: Path, latest: dict[str, str]) -> list[str]:
    found = []
    for name, digest in sorted(latest.items()):
        file = home / name
        if not file.is_file():
            found.append(f"{name}: recorded, but gone")
        elif _digest(file) != digest:
            found.append(f"{name}: is not the file that was recorded")
    return found


def _parse(line: str) -> tuple[dict[str, Any] | None, str]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None, "not JSON"
    if not isinstance(entry, dict) or list(entry) != _MEMBERS:
        return None, f"must have exactly the members {', '.join(_MEMBERS)}"
    kinds = (int, int, str, dict, dict, str, str)
    if not all(isinstance(entry[m], k) for m, k in zip(_MEMBERS, kinds, strict=True)):
        return None, "a member has the wrong type"
    if not all(isinstance(d, str) for d in entry["files"].values()):
        return None, "a file without its digest"
    if _line(entry) != line:
        return None, "not in the form in which it was written"
    return entry, ""


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, separators=(",", ":"))


def _last(text: str, path: Path) -> dict[str, Any] | None:
    lines = text.splitlines()
    if not lines:
        return None
    entry, problem = _parse(lines[-1])
    if entry is None or not text.endswith("\n") or entry_hash(entry) != entry["hash"]:
        raise LedgerError(
            f"{path}, line {len(lines)}: {problem or 'damaged'}; nothing is added to a damaged "
            'ledger: run "taproot trust ledger verify"'
        )
    return entry


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
