"""What the trust store keeps in memory between jobs, on the 32-bit build with frozen modules.

Reading packages, key-sets and records is loaded for a moment and forgotten; what answers a
handshake stays, because mbedTLS asks at the peak of memory and nothing may be imported there.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import trust_maker as tm
from taproot import interpreters

SCRIPT = Path(__file__).resolve().parent / "resident_device.py"
HELD = 7 * 1024  # measured 6.4 to 6.9 KB; 5 KB is the aim
ROOM = 6 * 1024
STAYS = {"errors", "factory", "manager", "roots", "store"}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """A device that has confirmed a bundle of six roots."""
    folder = tmp_path_factory.mktemp("resident")
    fleet = tm.Fleet(2048)
    fleet.write(folder / "factory")
    ders = [tm.root_der(f"m{i}", "rsa4096" if i < 2 else "rsa2048") for i in range(6)]
    (folder / "package").write_bytes(fleet.package(2, ders))
    text = ""
    for step in ("prepare", "boot"):
        result = interpreters.run(
            "unix32-board", SCRIPT, step, heap="300k", cwd=folder, frozen=True
        )
        assert result.returncode == 0, result.text
        text = result.stdout
    measured: dict = json.loads(text.splitlines()[-1])
    return measured


@pytest.mark.requirement("R-31")
def test_what_the_store_holds_between_jobs(found, record_property):
    text = ", ".join(f"{step} {size} B" for step, size in found["held"])
    print(text)
    record_property("memory", f"trust store with 6 roots: {text}")
    assert [step for step, size in found["held"] if size > HELD] == []


def test_only_what_a_handshake_needs_stays_loaded(found):
    assert {name.rpartition(".")[2] for name in found["modules"]} == STAYS


def test_a_root_is_read_with_little_beside_it(found, record_property):
    """A handshake asks at the peak of memory; the certificate itself is 1.3 KB."""
    text = f"a root of {found['sizes'][0]} B is read with {min(found['free'])} B free"
    print(text)
    record_property("memory", text)
    assert min(found["free"]) <= ROOM
