"""Three devices through faults, leaf and chain switches, clock jumps, short tokens and moves between
two hubs: nothing lost.

Short: half a minute. With --long ten minutes, and the heap flat within 1 KB from minute 2 on.
"""

import base64
import json
import random
import threading
import time

import pytest
from support.surface import HUBS, Device, free_port
from taproot.emulator import EmulatorConfig, running

KEY = base64.b64encode(b"k" * 32).decode()
SCOPE = "0ne00000001"
# A device that was refused just after it asked DPS asks again 375 s later at most (ladder.py).
LONGEST_WAY_BACK_S = 400
PROGRAM = """
import gc, time
from azure_iot import QueueFullError
from azure_iot.backoff import Backoff
from azure_iot.core import randbelow
from azure_iot.clock import Clock
from azure_iot.assignment import provisioned_client
from azure_iot.unix.platform import FileKV
async def main():
    clock = Clock()
    clock.synchronised = True
    async def sync():
        return Clock().unix_time()
    where = {"id_scope": F["scope"], "registration_id": F["device_id"], "key": F["key"],
             "host": "127.0.0.1", "port": F["port"]}
    client = await provisioned_client(where, None, FileKV("."), dict(roots=roots, port=F["port"],
        sas_life_s=10, clock=clock, sync_time=sync, https_port=F["https"],
        fleet_size_hint=3, mqtt={"backoff": Backoff(200, 3000, randbelow)}))
    await client.start()
    number = 0
    full = 0
    end = time.ticks_add(time.ticks_ms(), F["seconds"] * 1000)
    jump = time.ticks_add(time.ticks_ms(), 7000)
    report = time.ticks_add(time.ticks_ms(), 5000)
    while time.ticks_diff(end, time.ticks_ms()) > 0:
        try:
            await client.send_message("%d" % number, wait=False)
            number += 1
        except QueueFullError:
            full += 1
        await asyncio.sleep_ms(F["pace"])
        if time.ticks_diff(time.ticks_ms(), jump) > 0:
            jump = time.ticks_add(time.ticks_ms(), 20000)
            clock.set_time(clock.unix_time() + (-4000, 4000, 100)[number % 3])
        calm = client.connected.is_set() and client._settling is None and not client.stats["pending"]
        if calm and time.ticks_diff(time.ticks_ms(), report) > 0:
            # Always in the same state: what a reconnect needs is loaded for it and forgotten.
            report = time.ticks_add(time.ticks_ms(), 2000)
            gc.collect()
            out("heap", F["seconds"] * 1000 - time.ticks_diff(end, time.ticks_ms()), gc.mem_alloc())
    out("accepted", number, full)
    while client.stats["pending"]:
        await asyncio.sleep_ms(50)
    out("stats", client.stats)
    await client.disconnect()
asyncio.run(main())
"""


class Trouble:
    """Two hubs and one DPS, and all that can go wrong between them and the devices."""

    def __init__(self, hubs, names, leaves) -> None:
        self.hubs, self.names, self.leaves = hubs, names, leaves
        self.done = threading.Event()
        self.moves = 0
        self._source = random.Random(7)
        self._at = dict.fromkeys(names, 0)  # which hub DPS assigns
        for name in names:
            hubs[0].enroll(name, primary_key=KEY, hubs=(HUBS[0],))
            for hub in hubs:
                hub.add_device(name, primary_key=KEY, enabled=hub is hubs[0])

    def connected(self) -> list:
        """Devices that are where DPS last sent them: one that is not may ask it again much later."""
        return [
            name
            for name in self.names
            if any(
                found["id"] == name and found["connected"]
                for found in self.hubs[self._at[name]].status()["devices"]
            )
        ]

    def move(self) -> None:
        """Assign one device to the other hub; the one it is at disables it."""
        names = self.connected()
        if not names:
            return
        self.moves += 1
        name = self._source.choice(names)
        here, there = self._at[name], 1 - self._at[name]
        self._at[name] = there
        dps = self.hubs[0]
        found = dps.call(lambda: dps.emulator.dps.registry.find(name))
        dps.call(lambda: setattr(found, "hubs", (HUBS[there],)))
        self.hubs[there].set_enabled(name, True)
        self.hubs[here].set_enabled(name, False)

    def refuse(self) -> None:
        """Disable a device for a moment where it is."""
        name = self._source.choice(self.names)
        hub = self.hubs[self._at[name]]
        hub.set_enabled(name, False)
        self.done.wait(0.5)
        hub.set_enabled(name, True)

    def run(self) -> None:
        """Make trouble until `done`."""
        one = self._source.choice
        faults = [
            lambda: one(self.hubs).drop(one(self.names)),
            lambda: one(self.hubs).drop(),
            lambda: one(self.hubs).switch_chain(one(self.leaves), drop=True),
            lambda: one(self.hubs).fault({"action": "blackout", "seconds": 0.7}),
            lambda: one(self.hubs).switch_chain(one(self.leaves), drop=False),
            self.move,
            self.refuse,
        ]
        self.done.wait(3)
        self.move()
        while not self.done.wait(self._source.uniform(0.8, 3.0)):
            one(faults)()


@pytest.mark.timeout(1200)
def test_soak(tmp_path, hub_root, count, record_property):
    seconds, pace = count(20, 600), 25
    issuing = hub_root.intermediate("soak issuing", key="p256")
    leaves = [
        parent.leaf(HUBS[0], dns=list(HUBS), ips=list(HUBS), key="p256")
        for parent in (issuing, issuing, hub_root.intermediate("other issuing", key="p256"))
    ]
    names = ["soak-%d" % n for n in range(3)]
    ports = {"mqtt_port": free_port(), "https_port": free_port()}
    places = [
        EmulatorConfig(bind=host, host_names=[host], chain=leaves[0], **ports) for host in HUBS
    ]
    with running(places[0]) as first, running(places[1]) as second:
        trouble = Trouble((first, second), names, leaves)
        processes = []
        for name in names:
            folder = tmp_path / name
            folder.mkdir()
            device = Device(folder, first, hub_root)
            processes.append(
                device.start(PROGRAM, name, level="WARNING", seconds=seconds, pace=pace, cs="",
                             scope=SCOPE, key=KEY, limit=seconds + LONGEST_WAY_BACK_S).start()
            )  # fmt: skip
        thread = threading.Thread(target=trouble.run, daemon=True)
        thread.start()
        time.sleep(seconds)
        trouble.done.set()
        thread.join(10)
        ended = time.monotonic()
        end = ended + LONGEST_WAY_BACK_S
        try:
            for process in processes:
                assert process.wait(end - time.monotonic()) == 0, process.text[-3000:]
        finally:
            for process in processes:
                process.close()
        record_property("seconds until all were back", round(time.monotonic() - ended, 1))
        moved = [
            judge(name, process, trouble.hubs, record_property)
            for name, process in zip(names, processes, strict=True)
        ]
        record_property("moves", trouble.moves)
        assert any(moved), "no device has followed DPS to the other hub"


def judge(name, process, hubs, record_property) -> bool:
    """Compare what a device accepted with what came to the hubs; say whether it was at both."""
    facts = [json.loads(line[4:]) for line in process.output if line.startswith("OUT ")]
    accepted, full = next(f[1:] for f in facts if f[0] == "accepted")
    record_property(name, "accepted %d, full %d" % (accepted, full))
    assert full <= 2 * accepted, "the device stayed away for long"
    here, there = ({int(m.body) for m in hub.messages(name)} for hub in hubs)
    lost = set(range(accepted)) - here - there
    assert not lost, "lost: %s" % sorted(lost)[:9]
    heaps = [f[2] for f in facts if f[0] == "heap" and f[1] > 120_000]
    if len(heaps) > 4:
        record_property(name + " heap", heaps)
        early, late = heaps[: len(heaps) // 4], heaps[-len(heaps) // 4 :]
        assert min(late) - min(early) <= 1024, heaps
    return bool(there)
