"""Device programs for the surface tests: unix MicroPython against the local emulator."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

from taproot import interpreters
from taproot.pki import Authority

HEAP = "1m"
HUBS = ("127.0.0.1", "127.0.0.2")  # two hubs on one port: an assignment names a host only

PRELUDE = """
import asyncio, json, sys
from azure_iot import log
log.set_level(log.{level}); log.set_sink(lambda text: print("LOG", text))
def out(*facts): print("OUT", json.dumps(facts))
roots = [open("root.der", "rb").read()]
"""


class Device:
    """Runs a program on MicroPython; `out(...)` in it becomes an entry of `.out`."""

    def __init__(self, folder: Path, emu, root: Authority) -> None:
        self.folder, self.emu = folder, emu
        (folder / "root.der").write_bytes(root.der)

    def program(self, body: str, device_id: str, level: str = "INFO", **facts: object) -> str:
        facts.setdefault("device_id", device_id)
        facts.setdefault("port", self.emu.mqtt_port)
        facts.setdefault("https", self.emu.https_port)
        if "/" not in device_id and "cs" not in facts:
            record = self.emu.add_device(device_id)
            facts["cs"] = record.connection_string
        return PRELUDE.format(level=level) + f"F = json.loads({json.dumps(facts)!r})\n" + body

    def start(
        self,
        body: str,
        device_id: str,
        *,
        build="unix64",
        heap=HEAP,
        limit=60,
        frozen=False,
        **facts,
    ):
        """Start a program; a `Process` of taproot.interpreters."""
        return interpreters.Process(
            build,
            self.program(body, device_id, **facts),
            heap=heap,
            limit=limit,
            folder=self.folder,
            frozen=frozen,
        )

    def run(
        self,
        body: str,
        device_id: str,
        *,
        build="unix64",
        heap=HEAP,
        limit=60,
        frozen=False,
        **facts,
    ):
        """Run a program to its end and return what it put out."""
        result = interpreters.run(
            build,
            self.program(body, device_id, **facts),
            heap=heap,
            timeout=limit,
            cwd=self.folder,
            frozen=frozen,
        )
        assert result.returncode == 0, result.text
        return outputs(result.stdout.splitlines())


def outputs(lines: list[str]) -> list[list]:
    """What a program put out."""
    return [json.loads(line[4:]) for line in lines if line.startswith("OUT ")]


def free_port() -> int:
    """A port that is free on both addresses."""
    while True:
        with socket.create_server((HUBS[0], 0)) as first:
            port = first.getsockname()[1]
            try:
                socket.create_server((HUBS[1], port)).close()
            except OSError:
                continue
            return port


class Later:
    """Runs something in a thread after a device has reached a point."""

    def __init__(self, function, *args) -> None:
        self.result = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function, args), daemon=True)
        self._thread.start()

    def _run(self, function, args) -> None:
        try:
            self.result = function(*args)
        except BaseException as error:  # handed to the test by join()
            self.error = error

    def join(self, timeout: float = 30):
        """Wait for the end; raise what was raised."""
        self._thread.join(timeout)
        if self.error is not None:
            raise self.error
        return self.result
