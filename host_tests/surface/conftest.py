"""One emulator per test module, and device programs on unix MicroPython that talk to it."""

from __future__ import annotations

import pytest
from support.surface import Device
from taproot.emulator import EmulatorConfig, running
from taproot.pki import Authority


@pytest.fixture(scope="session")
def hub_root() -> Authority:
    """The root that signs the emulator's server certificates."""
    return Authority.root("surface root", key="p256")


@pytest.fixture(scope="session")
def hub_leaf(hub_root: Authority):
    """The emulator's server certificate."""
    return hub_root.intermediate("surface issuing", key="p256").leaf(
        "localhost", dns=["localhost"], ips=["127.0.0.1"], key="p256"
    )


@pytest.fixture(scope="module")
def emu(hub_leaf):
    """A running emulator."""
    with running(EmulatorConfig(chain=hub_leaf)) as emulator:
        yield emulator


@pytest.fixture
def device(tmp_path, emu, hub_root):
    """A folder with the emulator's root, and a way to run programs in it."""
    return Device(tmp_path, emu, hub_root)
