"""An install beside the hub's connection: how much heap it needs on a 32-bit board (issue: 45 KB).

The connected device fills its heap until exactly so much is free, then installs six roots; the
connection stays open. In much less room the install is refused for memory, and nothing changes.
"""

import json

import pytest
from support.surface import PRELUDE, outputs
from taproot import interpreters
from taproot.emulator import EmulatorConfig, running
from taproot.pki import Authority
from taproot.trust.fleet import Fleet
from taproot.trust.roots import cloud_roots

FREE = 45_000
PROGRAM = """
import gc
from azure_iot.agent import Agent
from azure_iot.trust.errors import RefusedError
from azure_iot.unix.platform import Platform

async def main():
    agent = Agent(Platform({
        "connection_string": F["cs"], "factory_folder": "factory", "trust_folder": "trust",
        "client": {"port": F["port"], "https_port": F["https"]}}))
    client = await agent.start()
    settled = asyncio.Event()
    client.on_event = lambda name, fact: settled.set() if name == "settled" else None
    await settled.wait()
    await asyncio.sleep_ms(500)
    client.on_event = lambda name, fact: out(name)
    gc.collect()
    connected = gc.mem_alloc()
    hoard = []
    for size in (1024, 256, 64, 16):
        while gc.mem_free() > F["free"] + (size if size > 16 else 0):
            hoard.append(bytearray(size))
        gc.collect()
    out("free", gc.mem_free())
    from azure_iot.trust.files import FileSource
    agent.trust.on_change = lambda reason: out(reason)
    try:
        out("version", agent.trust.install(FileSource("package"), "inbox"))
    except RefusedError as error:
        out("refused", error.code)
    out("still", client.connected.is_set(), connected)
    hoard = None
    await agent.stop()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A hub, and a factory and a package with two roots of its own and four of Azure's."""
    folder = tmp_path_factory.mktemp("connected")
    own = [Authority.root(f"root {n}", key="rsa2048") for n in (1, 2)]
    leaf = own[0].intermediate("ca", key="rsa2048").leaf("localhost", dns=["localhost"])
    fleet = Fleet.create("demo-connected", bundle=(2, 3), root=(1, 1))
    use = ("hub", "dps")
    mine = [(f"root {n}", root.der, use) for n, root in enumerate(own)]
    bundle = fleet.bundle_jws(version=1, roots=mine[:1])
    fleet.write_factory(folder / "factory", bundle)
    six = [*mine, *cloud_roots("public")]
    assert len(six) == 6
    (folder / "package").write_bytes(fleet.package(fleet.bundle_jws(version=2, roots=six)))
    (folder / "root.der").write_bytes(own[0].der)
    with running(EmulatorConfig(chain=leaf)) as emu:
        yield folder, emu


def install(world, name: str, free: int) -> list[list]:
    folder, emu = world
    for file in folder.glob("trust/*"):
        file.unlink()
    facts = {
        "cs": emu.add_device(name).connection_string,
        "port": emu.mqtt_port,
        "https": emu.https_port,
        "free": free,
    }
    text = PRELUDE.format(level="WARNING") + f"F = json.loads({json.dumps(facts)!r})\n" + PROGRAM
    result = interpreters.run(
        "unix32-board", text, heap="400k", timeout=60, cwd=folder, frozen=True
    )
    assert result.returncode == 0, result.text
    return outputs(result.stdout.splitlines())


@pytest.mark.requirement("R-31")
def test_six_roots_fit_beside_the_connection(world, record_property):
    found = install(world, "beside", FREE)
    assert found[0] == ["free", found[0][1]] and found[0][1] <= FREE, found
    assert found[1:] == [["staged"], ["version", 2], ["still", True, found[-1][2]]], found
    record_property(
        "memory",
        f"install of 6 roots while connected: fits in {found[0][1]} B beside {found[-1][2]} B",
    )


@pytest.mark.requirement("R-31")
def test_too_little_room_is_a_refusal_and_the_connection_stays(world):
    found = install(world, "cramped", 9_000)
    assert found[1:] == [["refused", "MEMORY"], ["still", True, found[-1][2]]], found
