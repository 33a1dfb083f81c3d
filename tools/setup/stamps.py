"""What was made from what: one stamp per step, keyed by a hash of everything that went in.

A stamp is written last and by rename, so it exists only when the step is whole. A step killed at
any moment leaves no stamp (or the old one), and the next run does it again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from tools.setup.progress import say

LAYOUT = 1  # raise it when a step's way of working changes, and everything is made again


def digest_of(*parts: object) -> str:
    """One key for strings, numbers and lists of them."""
    return hashlib.sha256(json.dumps([LAYOUT, *parts], sort_keys=True).encode()).hexdigest()[:24]


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def digest_of_files(root: Path, paths: Iterable[Path]) -> str:
    """One key for names and contents."""
    return digest_of(*[[str(p.relative_to(root)), digest_of_file(p)] for p in sorted(paths)])


def write_atomically(path: Path, content: str, mode: int = 0o644) -> None:
    """Write a file so that it is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="utf-8") as sink:
        sink.write(content)
        sink.flush()
        os.fsync(sink.fileno())
    new.chmod(mode)
    new.replace(path)


def copy_atomically(source: Path, path: Path, mode: int = 0o755) -> None:
    """Copy a file; a program that runs the old one keeps it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    shutil.copyfile(source, new)
    new.chmod(mode)
    new.replace(path)


def remove(path: Path) -> None:
    """Remove a file or folder; a folder vanishes at once and is emptied afterwards."""
    if path.is_dir() and not path.is_symlink():
        grave = path.with_name(f".{path.name}.old-{os.getpid()}-{time.monotonic_ns()}")
        path.rename(grave)
        shutil.rmtree(grave)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed runs left half removed or half written."""
    for pattern in (".*.old-*", ".*.new"):
        for found in folder.glob(pattern):
            if found.is_dir():
                shutil.rmtree(found)
            else:
                found.unlink()


class Stamps:
    """The stamps of one build folder."""

    def __init__(self, build: Path) -> None:
        self._folder = build / "stamps"

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def read(self, name: str) -> dict[str, object]:
        """The stamp's content; empty when there is none or it cannot be read."""
        try:
            found = json.loads(self._path(name).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def fresh(self, name: str, key: str) -> bool:
        """True when the step was done with these inputs and its results are still there."""
        found = self.read(name)
        outputs = found.get("outputs")
        if found.get("key") != key or not isinstance(outputs, dict):
            return False
        return all(_size(Path(path)) == size for path, size in outputs.items())

    def write(self, name: str, key: str, outputs: Iterable[Path], **facts: object) -> None:
        """Record that the step is whole."""
        sizes = {str(path): _size(path) for path in outputs}
        write_atomically(
            self._path(name), json.dumps({"key": key, "outputs": sizes, **facts}, indent=1)
        )

    def drop(self, name: str) -> None:
        """Forget a step before its results are touched."""
        self._path(name).unlink(missing_ok=True)


def _size(path: Path) -> int:
    """Size of a file, 0 for a folder, -1 when it is not there."""
    try:
        return path.stat().st_size if path.is_file() else 0 if path.is_dir() else -1
    except OSError:
        return -1


class Lock:
    """One set-up at a time. Programs that set-up starts inherit it, so orphans count too."""

    def __init__(self, build: Path) -> None:
        build.mkdir(parents=True, exist_ok=True)
        self.descriptor = os.open(build / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def __enter__(self) -> Lock:
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self.descriptor, 20, 0).decode("ascii", "replace").strip() or "?"
            say(
                f"  another set-up is at work in this checkout (process {holder}); waiting for it …"
            )
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, str(os.getpid()).encode("ascii"), 0)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)
