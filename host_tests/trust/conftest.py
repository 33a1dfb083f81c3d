"""A device for trust tests: a folder, a factory, and snippets of device code run in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import trust_maker
from taproot import interpreters

PRELUDE = """
import json, sys, tls
from azure_iot.trust.factory import Factory
from azure_iot.trust.files import FileSource
from azure_iot.trust.store import Store
from azure_iot.trust.manager import TrustManager
from azure_iot.trust.errors import RefusedError
from azure_iot.errors import TrustError, ClockError, ConnectionFailedError

class Clock:
    synchronised = True
    now = 1786000000
    ticks = 0
    def unix_time(self): return self.now
    def ticks_ms(self): return self.ticks
    def ticks_diff(self, a, b): return a - b

def loader(der):
    tls.SSLContext(tls.PROTOCOL_TLS_CLIENT).load_verify_locations(der)

clock = Clock()
config = {"loader": loader, "uses": ("hub",)}
mirror = None

def boot():
    global store, trust
    store = Store("trust", Factory.from_folder("factory"), mirror=mirror)
    trust = TrustManager(store, clock, config=config)
    return trust

def install(name, channel="url"):
    try:
        return trust.install(FileSource(name), channel)
    except TrustError as error:
        return error.code

def connect(via=None, resumed=False, not_before=None):
    attempt = trust.attempt()
    trust.succeeded(attempt, resumed=resumed, via=via, not_before=not_before)
    return attempt.source, trust.mqtt_accepted(attempt)

def fail(error):
    attempt = trust.attempt()
    trust.failed(attempt, error)
    return attempt.source

def untrusted(): return TrustError("no", "UNTRUSTED")
def network(): return ConnectionFailedError("no", "tcp")
def say(*values): print(json.dumps(values))
"""


class Device:
    """One device's folder; `run` executes a snippet on MicroPython and returns what it said."""

    def __init__(self, folder: Path, fleet: trust_maker.Fleet, build: str = "unix64"):
        self.folder = folder
        self.fleet = fleet
        self.build = build
        fleet.write(folder / "factory")

    def put(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)

    def run(self, body: str, boot: bool = True, **options) -> list:
        script = self.folder / "snippet.py"
        script.write_text(PRELUDE + ("boot()\n" if boot else "") + body)
        result = interpreters.run(self.build, script, cwd=self.folder, **options)
        assert result.returncode == 0, result.text
        said = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[")]
        return said[0] if len(said) == 1 else said


@pytest.fixture(scope="session")
def fleet() -> trust_maker.Fleet:
    return trust_maker.Fleet()


@pytest.fixture
def device(tmp_path, fleet) -> Device:
    return Device(tmp_path, fleet)
