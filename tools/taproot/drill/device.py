"""The desktop's hold on one device of a drill: a MicroPython process that prints events.

The program writes one JSON object per line: `{"ev": "accepted", "n": 12, "up": true}` and so on
(`program.py` lists them). This side collects them and waits for what a step needs.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taproot import interpreters
from taproot.drill import account

PROGRAM = Path(__file__).with_name("program.py")


class StepFailed(Exception):
    """What a step waited for did not happen; the text says what was seen instead."""


class Device:
    """One device: its process (restarted after a kill), its events and its figures."""

    def __init__(
        self, name: str, config: dict[str, Any], folder: Path, build: str, heap: str, limit: float
    ) -> None:
        self.name, self.config, self.folder = name, config, folder
        self._build, self._heap, self._limit = build, heap, limit
        self._process: interpreters.Process | None = None
        self._reader: threading.Thread | None = None
        self._changed = threading.Condition()
        self.events: list[dict[str, Any]] = []
        self.accepted: dict[int, bool] = {}
        self.noise: list[str] = []
        self.boots = 0

    def start(self) -> Device:
        """Write the configuration and start the program; again after a kill, as a reboot."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "device.json").write_text(json.dumps(self.config))
        self._process = interpreters.Process(
            self._build,
            PROGRAM,
            heap=self._heap,
            limit=self._limit,
            folder=self.folder,
            frozen=True,
        ).start()
        self.boots += 1
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        return self

    def _read(self, process: interpreters.Process) -> None:
        for line in process.lines(self._limit):
            try:
                event = json.loads(line)
            except ValueError:
                self.noise.append(line)
                continue
            event["time"] = time.monotonic()
            event["boot"] = self.boots
            with self._changed:
                if event.get("ev") == "accepted":
                    self.accepted[event["n"]] = event["up"]
                else:
                    self.events.append(event)
                self._changed.notify_all()

    @property
    def running(self) -> bool:
        """True while the program runs."""
        return self._process is not None and self._process.running

    def kill(self) -> None:
        """Cut the power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(5)

    def command(self, word: str) -> None:
        """Tell the program something on its stdin: `quiet`, `stop`."""
        if self._process is not None and self._process.running:
            self._process.send(word)

    def close(self) -> None:
        """End the program."""
        if self._process is not None:
            self._process.close()
            if self._reader is not None:
                self._reader.join(5)

    def last(self, kind: str) -> dict[str, Any] | None:
        """The newest event of this kind."""
        with self._changed:
            for event in reversed(self.events):
                if event["ev"] == kind:
                    return event
        return None

    def mark(self) -> int:
        """A place in the list of events, for `wait(since=…)`."""
        with self._changed:
            return len(self.events)

    def wait(
        self,
        kind: str,
        timeout: float,
        matching: Callable[[dict[str, Any]], bool] = lambda event: True,
        since: int = 0,
    ) -> dict[str, Any]:
        """Wait for an event of this kind that matches; StepFailed says what was seen instead."""
        end = time.monotonic() + timeout
        seen = since
        with self._changed:
            while True:
                for event in self.events[seen:]:
                    if event["ev"] == kind and matching(event):
                        return event
                seen = len(self.events)
                left = end - time.monotonic()
                if left <= 0 or not (self.running or self._changed.wait(min(left, 0.2))):
                    raise StepFailed(self._explain(kind, timeout))
                self._changed.wait(min(left, 0.5))

    def count(self, kind: str, since: int = 0) -> int:
        """How many events of this kind came since a mark."""
        with self._changed:
            return sum(event["ev"] == kind for event in self.events[since:])

    def last_words(self) -> str:
        """The newest events that say something, and the last lines of stderr."""
        with self._changed:
            said = [event for event in self.events if event["ev"] != "heap"][-3:]
        errors = self._process.errors[-4:] if self._process else []
        return f"{said} {errors}"

    def _explain(self, kind: str, timeout: float) -> str:
        state = "runs" if self.running else "has ended"
        return (
            f"{self.name}: no '{kind}' within {timeout:g} s; the program {state}; "
            f"its last words: {self.last_words()}"
        )

    def wait_accepted(self, number: int, timeout: float) -> None:
        """Wait until so many messages were accepted."""
        end = time.monotonic() + timeout
        with self._changed:
            while len(self.accepted) < number:
                left = end - time.monotonic()
                if left <= 0 or not self.running:
                    raise StepFailed(
                        f"{self.name}: {len(self.accepted)} of {number} messages accepted "
                        f"within {timeout:g} s; " + self._explain("accepted", timeout)
                    )
                self._changed.wait(min(left, 0.5))

    def account(self, recorded: list[int]) -> account.Account:
        """Compare what was accepted here with what the hub recorded."""
        with self._changed:
            return account.count(dict(self.accepted), recorded)

    def write_log(self) -> None:
        """Leave everything the program printed beside its files."""
        if self._process is not None:
            (self.folder / "device.log").write_text(self._process.text)

    def secrets_shown(self, secrets: list[str]) -> list[str]:
        """Those of `secrets` that the program printed anywhere."""
        text = self._process.text if self._process else ""
        return [secret for secret in secrets if secret in text]
