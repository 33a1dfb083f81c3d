"""The MicroPython interpreters that `make setup` built, and running programs on them.

    result = run("unix64", "print(6 * 7)", heap="192k")
    with Process("unix64", script, heap="192k", frozen=True) as device: ...

A process gets a hard time limit, its own directory, and is ended with the object that started
it. Builds: `unix64` runs everything, `unix32` heap, fault and drill runs, `stock` is
unmodified MicroPython (pure modules, store, ECDSA or TLS 1.3).
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from taproot.console import UsageFailed

_HERE = Path(__file__).resolve()
KILL_AFTER_S = 2.0


def project_root() -> Path | None:
    """The checkout this package runs from, or None when it is installed as a wheel."""
    root = _HERE.parents[2]
    return root if (root / "firmware" / "azure_iot").is_dir() else None


def build_folder() -> Path:
    """Where the built interpreters are: `$TAPROOT_BUILD`, else `.build` of the checkout."""
    named = os.environ.get("TAPROOT_BUILD")
    if named:
        return Path(named)
    root = project_root()
    if root is None:
        raise UsageFailed(
            "no interpreters here: set TAPROOT_BUILD to the .build folder of a Taproot checkout "
            "in which 'make setup' has run"
        )
    return root / ".build"


def firmware_folder() -> Path:
    """The folder that holds the `azure_iot` package as source."""
    return _HERE.parents[2] / "firmware" if project_root() else _HERE.parents[1]


def path(build: str) -> Path:
    """Path of the interpreter `build`; UsageFailed names the remedy when it is missing."""
    found = build_folder() / "bin" / f"micropython-{build}"
    if not found.exists():
        raise UsageFailed(
            f"interpreter '{build}' is not built: run 'make setup' ({found} missing)"
        )
    return found


def command_line(
    build: str, script: str | Path, args: Sequence[str] = (), heap: str | None = None
) -> list[str]:
    """Argument vector for `script` (a path, or source text when it is a str)."""
    line = [str(path(build))]
    if heap:
        line += ["-X", f"heapsize={heap}"]
    line += [str(script)] if isinstance(script, Path) else ["-c", script]
    return line + [str(arg) for arg in args]


def environment(frozen: bool, extra: dict[str, str] | None = None) -> dict[str, str]:
    """Environment of a run: the firmware from source, or the frozen copy alone."""
    found = {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"}
    found["MICROPYPATH"] = ".frozen" if frozen else f"{firmware_folder()}:.frozen"
    found.update(extra or {})
    return found


@dataclass
class Result:
    """How a program ended: `returncode` is None when the time limit ended it."""

    returncode: int | None
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """Both streams, for assertion messages."""
        return f"exit {self.returncode}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


def run(
    build: str,
    script: str | Path,
    *args: str,
    heap: str | None = None,
    timeout: float = 30,
    cwd: Path | str | None = None,
    env: dict[str, str] | None = None,
    frozen: bool = False,
    wrapper: Sequence[str] = (),
) -> Result:
    """Run a program to its end. `wrapper` goes before the interpreter (valgrind, for instance).

    Raises nothing for a failing program; a program over its time limit is killed.
    """
    with contextlib.ExitStack() as stack:
        if cwd is None:
            cwd = stack.enter_context(tempfile.TemporaryDirectory(prefix="taproot-"))
        process = subprocess.Popen(
            [*wrapper, *command_line(build, script, args, heap)],
            cwd=cwd,
            env=environment(frozen, env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        try:
            out, err = process.communicate(timeout=timeout)
            return Result(process.returncode, out, err)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            return Result(None, out, err + f"\n[ended after {timeout} s]")
        except BaseException:
            process.kill()
            process.wait()
            raise


class Program:
    """A running program whose lines are read as they come.

    `limit` is a hard bound in seconds; `folder` is its working directory (a temporary one when
    None, removed at the end). Both streams are collected; stdout lines can be waited for.
    """

    def __init__(
        self,
        line: Sequence[str],
        *,
        limit: float = 120,
        folder: Path | str | None = None,
        env: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._own_folder = None if folder else tempfile.mkdtemp(prefix="taproot-")
        self.folder = Path(folder or self._own_folder or ".")
        self._line = list(line)
        self._env = env
        self._pass_fds = tuple(pass_fds)
        self._limit = limit
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.output: list[str] = []
        self.errors: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._timer: threading.Timer | None = None
        self._readers: list[threading.Thread] = []
        self.timed_out = False

    def start(self) -> Self:
        """Start the program."""
        process = self._process = subprocess.Popen(
            self._line,
            cwd=self.folder,
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            bufsize=1,
            pass_fds=self._pass_fds,
        )
        for stream, sink, feed in (
            (process.stdout, self.output, True),
            (process.stderr, self.errors, False),
        ):
            reader = threading.Thread(target=self._read, args=(stream, sink, feed), daemon=True)
            reader.start()
            self._readers.append(reader)
        self._timer = threading.Timer(self._limit, self._expire)
        self._timer.daemon = True
        self._timer.start()
        return self

    def _read(self, stream, sink: list[str], feed: bool) -> None:  # type: ignore[no-untyped-def]
        for line in stream:
            line = line.rstrip("\n")
            sink.append(line)
            if feed:
                self._queue.put(line)
        if feed:
            self._queue.put(None)

    def _expire(self) -> None:
        self.timed_out = True
        self.kill()

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """True while the program runs."""
        return self._process is not None and self._process.poll() is None

    def send(self, line: str) -> None:
        """Write one line to the program's stdin."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def lines(self, timeout: float) -> Iterator[str]:
        """Lines of stdout as they come, until the program ends or `timeout` seconds are over."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            try:
                line = self._queue.get(timeout=left)
            except queue.Empty:
                return
            if line is None:
                return
            yield line

    def wait_for(self, text: str, timeout: float) -> str:
        """Return the next stdout line containing `text`; TimeoutError with all output otherwise."""
        for line in self.lines(timeout):
            if text in line:
                return line
        raise TimeoutError(f"no line with {text!r} within {timeout} s\n{self.text}")

    def wait(self, timeout: float) -> int | None:
        """Wait for the end and all output; None when it still runs after `timeout` seconds."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._read_all()
        return code

    def _read_all(self) -> None:
        """Let the readers come to the end of what a program that has ended wrote."""
        for reader in self._readers:
            reader.join(KILL_AFTER_S)

    def kill(self) -> None:
        """SIGKILL: what a power cut is to a program."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def close(self) -> None:
        """End the program and everything around it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._process is not None:
            self.kill()
            self._process.wait()
            self._read_all()
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        if self._own_folder:
            shutil.rmtree(self._own_folder, ignore_errors=True)

    @property
    def text(self) -> str:
        """All output so far, for messages; of a program that has ended, all of it."""
        if self._process is not None and not self.running:
            self._read_all()
        return "\n".join(["--- stdout", *self.output, "--- stderr", *self.errors])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Process(Program):
    """A MicroPython program on the interpreter `build`, running."""

    def __init__(
        self,
        build: str,
        script: str | Path,
        *args: str,
        heap: str | None = None,
        limit: float = 120,
        folder: Path | str | None = None,
        env: dict[str, str] | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__(
            command_line(build, script, args, heap),
            limit=limit,
            folder=folder,
            env=environment(frozen, env),
        )
