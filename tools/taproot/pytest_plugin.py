"""pytest fixtures for testing your own device program against a local IoT Hub.

Loaded by pytest itself once the `taproot` package is installed with its `emulator` extra:

    def test_reports_its_temperature(emulator, device):
        board = device("main.py", heap="192k")
        message = board.wait_message()
        assert message.json["temperature"] > -40
        assert board.twin["properties"]["reported"]["firmware"] == "1.2.0"

Responsible for: a fresh hub per test, a fresh folder and identity per device, the log in the report
of a failing test. Not for: the hub (`taproot.emulator`), processes (`taproot.interpreters`).
"""

from __future__ import annotations

import json
import shutil
import ssl
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from taproot.emulator import EmulatorConfig, Running
    from taproot.interpreters import Process

_BOARDS: pytest.StashKey[list[Board]] = pytest.StashKey()


@dataclass
class Received:
    """One telemetry message as the hub recorded it."""

    body: bytes
    properties: dict[str, Any]

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass
class Board:
    """A device program that runs on unix MicroPython in a folder of its own."""

    id: str
    folder: Path
    _emulator: Running
    _make: Callable[[], Process]
    _process: Process | None = field(default=None, repr=False)
    _taken: int = 0
    _earlier: list[str] = field(default_factory=list)

    def start(self) -> Board:
        """Start the program; its folder keeps what earlier runs left, as flash does."""
        self._process = self._make()
        self._process.start()
        return self

    def stop(self) -> None:
        """End the program at once: what a power cut is to a board."""
        if self._process is not None:
            self._process.close()
            self._earlier.append(self._process.text)
            self._process = None

    def restart(self) -> None:
        """Cut the power and start again."""
        self.stop()
        self.start()

    @property
    def log(self) -> str:
        """Everything the program printed, over all its starts."""
        now = [self._process.text] if self._process is not None else []
        return "\n--- started again\n".join([*self._earlier, *now])

    @property
    def running(self) -> bool:
        """True while the program runs."""
        return self._process is not None and self._process.running

    @property
    def twin(self) -> dict[str, Any]:
        """The device twin, as a service reads it."""
        return self._emulator.twin(self.id)

    @property
    def messages(self) -> list[Received]:
        """Telemetry that the hub recorded from this device, in its order."""
        found = self._emulator.messages(self.id)
        return [Received(bytes(each.body), dict(each.properties)) for each in found]

    def wait_for(self, text: str, timeout: float = 20) -> str:
        """Return the next printed line that contains `text`."""
        if self._process is None:
            raise RuntimeError("the device is stopped")
        return self._process.wait_for(text, timeout)

    def wait_message(self, timeout: float = 20) -> Received:
        """Return the next message that this call has not returned before."""
        wanted = self._taken + 1
        self._wait(lambda: len(self.messages) >= wanted, timeout, f"message {wanted}")
        self._taken = wanted
        return self.messages[wanted - 1]

    def wait_reported(self, name: str, timeout: float = 20) -> Any:
        """Wait until the reported properties have `name`; return its value."""

        def reported() -> dict[str, Any]:
            return self.twin["properties"]["reported"]

        self._wait(lambda: name in reported(), timeout, f"reported property {name}")
        return reported()[name]

    def _wait(self, test: Callable[[], bool], timeout: float, what: str) -> None:
        import time

        end = time.monotonic() + timeout
        while not test():
            if not self.running:
                raise AssertionError(f"the device ended before {what}\n{self.log}")
            if time.monotonic() > end:
                raise AssertionError(f"no {what} within {timeout:g} s\n{self.log}")
            time.sleep(0.02)


@pytest.fixture
def emulator_config() -> EmulatorConfig:
    """The hub's configuration; override this fixture to set faults, limits or templates."""
    from taproot.emulator import EmulatorConfig

    return EmulatorConfig()


@pytest.fixture
def emulator(emulator_config: EmulatorConfig) -> Iterator[Running]:
    """A local IoT Hub with an own root certificate, on free ports of the loopback interface."""
    from taproot.emulator import running

    with running(emulator_config) as hub:
        yield hub


@pytest.fixture
def device(
    emulator: Running, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., Board]]:
    """`device("main.py", heap="192k", trust=None, …)` registers a device and starts its program.

    program     path of the program, relative to the test's folder
    heap        MicroPython's heap; TLS memory comes from it too
    trust       None: the hub's root, fixed; a folder with keyset.jws, bundle.jws and build_date:
                the factory state of a trust store
    build       which interpreter: `taproot micropython --path --build …`
    device_id   its name at the hub; several devices need several names
    desired     desired properties that are there before it connects
    config      more entries of device.json (azure_iot/agent.py lists them)
    frozen      False: import azure_iot from its source instead of the copy in the interpreter;
                its code then takes heap, so give it more (1m)
    limit       seconds after which the program is ended

    The program finds `device.json` in its working directory.
    """
    boards: list[Board] = request.node.stash.setdefault(_BOARDS, [])

    def make(
        program: str | Path,
        *,
        heap: str | None = "192k",
        trust: str | Path | None = None,
        build: str = "unix64",
        device_id: str = "device",
        desired: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        frozen: bool = True,
        limit: float = 60,
    ) -> Board:
        from taproot import interpreters

        path = (request.path.parent / program).resolve()
        if not path.is_file():
            raise pytest.UsageError(f"no device program {path}")
        folder = tmp_path / device_id
        folder.mkdir()
        settings = _settings(emulator, device_id, folder, trust)
        settings.update(config or {})
        if desired is not None:
            emulator.patch_desired(device_id, desired)
        (folder / "device.json").write_text(json.dumps(settings), "utf-8")

        def process() -> Process:
            return interpreters.Process(
                build, path, heap=heap, limit=limit, folder=folder, frozen=frozen
            )

        board = Board(device_id, folder, emulator, process)
        boards.append(board)
        return board.start()

    yield make
    for board in boards:
        board.stop()


def _settings(
    emulator: Running, device_id: str, folder: Path, trust: str | Path | None
) -> dict[str, Any]:
    """What device.json must say for a device to reach this hub."""
    record = emulator.add_device(device_id)
    found: dict[str, Any] = {
        "connection_string": record.connection_string,
        "client": {"port": emulator.mqtt_port, "fleet_size_hint": 1},
    }
    if trust is None:
        pem = emulator.root_pem
        text = pem.decode("ascii") if isinstance(pem, bytes) else pem
        (folder / "root.der").write_bytes(ssl.PEM_cert_to_DER_cert(text))
        found["roots"] = ["root.der"]
    else:
        shutil.copytree(trust, folder / "factory")
        found["factory_folder"] = "factory"
        found["trust_folder"] = "trust"
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the log and the twin of every device into the report of a failing test."""
    report = yield
    if report.when == "call" and report.failed:
        for board in item.stash.get(_BOARDS, []):
            report.sections.append((f"log of {board.id}", board.log))
            twin = json.dumps(board.twin["properties"], indent=1)
            report.sections.append((f"twin of {board.id}", twin))
    return report


@pytest.fixture(scope="session")
def micropython_path() -> Callable[[str], Path]:
    """`micropython_path("unix64")`: the interpreter of that build."""
    from taproot import interpreters

    return interpreters.path
