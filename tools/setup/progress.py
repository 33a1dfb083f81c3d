"""What set-up prints, how it runs other programs, and how it fails: cause and remedy, no traceback.

Not here: what the steps do (packages, venv, sources, builds, stock, judges).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

BEAT_S = 5.0  # a step that takes longer says where it is, every so often
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None, use_errno=True)

# What a program's own words mean to the person who typed `make setup`: (pattern, cause, remedy).
_DIAGNOSES = (
    (
        r"No space left on device|Disk quota exceeded|ENOSPC",
        "the disk is full",
        "free about 1 GB and run the same command again",
    ),
    (
        r"DO NOT MATCH THE HASHES|Hash Sum mismatch|BadZipFile",
        "checksum wrong: a downloaded file is not the one that was asked for",
        "run the same command again; if it stays, the mirror or a proxy changes files",
    ),
    (
        r"signatures? (could not|couldn't) be verified|is not signed|NO_PUBKEY|signatures were invalid",
        "the mirror's signature does not verify",
        "install a current debian-archive-keyring package, or name another mirror: "
        "make setup DEBIAN_MIRROR=URL",
    ),
    (
        r"Hashes are required|Invalid requirement|hash.*invalid|Expected .*hash"
        r"|must have their versions pinned|contains? unsupported",
        "the lock file is damaged",
        "git checkout -- tools/setup",
    ),
    (
        r"Temporary failure|Could not resolve|Name or service not known|Network is unreachable"
        r"|Connection refused|No route to host|[Cc]onnection timed out|Failed to establish"
        r"|ConnectTimeout|Could not connect|Unable to connect",
        "no network",
        "connect, or set the proxy variables, and run the same command again: "
        "what is already fetched is kept",
    ),
    (
        r"404 +Not Found|does not have a Release file|File not found|Unsupported proto|"
        r"The method driver .* could not be found",
        "the Debian mirror does not have it",
        "name a full Debian mirror: make setup DEBIAN_MIRROR=URL",
    ),
    (
        r"No matching distribution found|Could not find a version that satisfies",
        "no Python package index has this package for this Python",
        "check the network and pip's index setting, or use CPython 3.11 to 3.13",
    ),
    (
        r"Permission denied",
        "a file of this checkout belongs to somebody else",
        "give yourself the checkout (chown -R) or remove .build and .venv",
    ),
)


class Failure(Exception):
    """Set-up cannot go on. `remedy` says what to type."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy


def os_failure(error: OSError) -> Failure:
    """Say what an operating system error means to the user."""
    where = f" ({error.filename})" if error.filename else ""
    for pattern, cause, remedy in _DIAGNOSES:
        if re.search(pattern, os.strerror(error.errno or 0)):
            return Failure(cause + where, remedy)
    if error.errno == errno.EROFS:
        return Failure(f"this folder cannot be written{where}", "clone to a writable place")
    return Failure(f"{error.strerror}{where}", "mend that and run the same command again")


def diagnose(text: str, what: str, log: Path) -> Failure:
    """Turn a failed program's output into cause and remedy; the log keeps all of it."""
    for pattern, cause, remedy in _DIAGNOSES:
        if re.search(pattern, text):
            return Failure(f"{what}: {cause} (all output: {log})", remedy)
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r'[Ee]rror|File "', line)]
    shown = "\n    ".join((errors or lines)[-6:])
    return Failure(f"{what} failed (all output: {log})\n    {shown}", "see the lines above")


def say(text: str) -> None:
    """Print one line at once."""
    print(text, flush=True)


@contextmanager
def step(name: str, what: str) -> Iterator[Callable[[str], None]]:
    """Announce a step, and when it ends how long it took; the block may call `note(result)`."""
    say(f"  {name:<12} {what} …")
    started = time.monotonic()
    result = ["done"]
    yield lambda text: result.__setitem__(0, text)
    say(f"  {name:<12} {result[0]} ({time.monotonic() - started:.1f} s)")


class Beat:
    """Says every few seconds where a long step is."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started = self._said = time.monotonic()

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now - self._said >= BEAT_S:
            self._said = now
            say(f"  {self._name:<12}   {now - self._started:3.0f} s: {text}")


def clean_environment(**extra: str) -> dict[str, str]:
    """Environment for other programs: what they need and no make variable that leaks into builds."""
    kept = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TERM", "SSL_CERT_FILE", "SSL_CERT_DIR")
    found = {
        name: value
        for name, value in os.environ.items()
        if name in kept or name.upper().endswith("_PROXY") or name.startswith(("PIP_", "CCACHE_"))
    }
    found["LC_ALL"] = "C.UTF-8"
    found.update(extra)
    return found


def _end_with_parent() -> None:
    """Child side: end when set-up ends, even by SIGKILL, so that no orphan writes into a build."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def run(
    what: str,
    line: Sequence[str | Path],
    *,
    log: Path,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
    beat: Callable[[str], None] | None = None,
    describe: Callable[[int, str], str] | None = None,
    keep_lock: int | None = None,
) -> str:
    """Run a program to its end, its output into `log`; Failure with cause and remedy otherwise.

    `beat` gets `describe(lines so far, last line)` now and then. `keep_lock` is a descriptor the
    program inherits, so that set-up's lock outlives set-up for as long as the program does.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    text: list[str] = []
    with log.open("w", encoding="utf-8") as sink:
        sink.write("$ " + " ".join(str(part) for part in line) + "\n")
        sink.flush()
        try:
            process = subprocess.Popen(
                [str(part) for part in line],
                cwd=cwd,
                env=environment or clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=() if keep_lock is None else (keep_lock,),
                preexec_fn=_end_with_parent,  # noqa: PLW1509  (no threads here)
            )
        except FileNotFoundError as error:
            raise Failure(
                f"{what}: the program '{line[0]}' is not here",
                f"install the Debian package that holds {line[0]}",
            ) from error
        assert process.stdout is not None
        try:
            for each in process.stdout:
                sink.write(each)
                text.append(each)
                if beat is not None:
                    beat(describe(len(text), each) if describe else each.strip()[-70:])
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    output = "".join(text)
    if status != 0:
        raise diagnose(output, what, log)
    return output


def fail(failure: Failure) -> int:
    """Print cause and remedy; the exit status for it."""
    sys.stdout.flush()
    print(f"\nset-up: {failure.cause}\nremedy: {failure.remedy}", file=sys.stderr, flush=True)
    return 2
