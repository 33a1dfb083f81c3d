"""Three devices through faults, leaf and chain switches, clock jumps and short tokens: nothing lost.

Short: half a minute. With --long ten minutes, and the heap flat within 1 KB from minute 2 on.
"""

import json
import random
import threading
import time

import pytest
from support.surface import Device
from taproot.emulator import EmulatorConfig, running

PROGRAM = """
import gc, time
from azure_iot import IoTHubDeviceClient, QueueFullError
from azure_iot.clock import Clock
async def main():
    clock = Clock()
    clock.synchronised = True
    async def sync():
        return Clock().unix_time()
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"],
        sas_life_s=10, clock=clock, sync_time=sync, https_port=F["https"])
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
        if time.ticks_diff(time.ticks_ms(), report) > 0:
            report = time.ticks_add(time.ticks_ms(), 5000)
            gc.collect()
            out("heap", F["seconds"] * 1000 - time.ticks_diff(end, time.ticks_ms()), gc.mem_alloc())
    out("accepted", number, full)
    while client.stats["pending"]:
        await asyncio.sleep_ms(50)
    out("stats", client.stats)
    await client.disconnect()
asyncio.run(main())
"""


@pytest.mark.timeout(900)
def test_soak(tmp_path, hub_root, count):
    seconds, pace = count(20, 600), 25
    source = random.Random(7)
    issuing = hub_root.intermediate("soak issuing", key="p256")
    leaves = [
        parent.leaf("localhost", dns=["localhost"], key="p256")
        for parent in (issuing, issuing, hub_root.intermediate("other issuing", key="p256"))
    ]
    names = ["soak-%d" % n for n in range(3)]
    with running(EmulatorConfig(chain=leaves[0])) as emu:
        processes = []
        for name in names:
            folder = tmp_path / name
            folder.mkdir()
            device = Device(folder, emu, hub_root)
            processes.append(
                device.start(PROGRAM, name, level="WARNING", seconds=seconds, pace=pace,
                             limit=seconds + 120).start()
            )  # fmt: skip
        done = threading.Event()
        faults = [
            lambda: emu.drop(source.choice(names)),
            lambda: emu.drop(),
            lambda: emu.switch_chain(source.choice(leaves), drop=True),
            lambda: emu.fault({"action": "blackout", "seconds": 0.7}),
            lambda: emu.switch_chain(source.choice(leaves), drop=False),
        ]

        def trouble() -> None:
            while not done.wait(source.uniform(0.8, 3.0)):
                source.choice(faults)()

        thread = threading.Thread(target=trouble, daemon=True)
        thread.start()
        time.sleep(seconds)
        done.set()
        thread.join(10)
        try:
            for process in processes:
                assert process.wait(90) == 0, process.text[-3000:]
        finally:
            for process in processes:
                process.close()
        for name, process in zip(names, processes, strict=True):
            facts = [json.loads(line[4:]) for line in process.output if line.startswith("OUT ")]
            accepted, full = next(f[1:] for f in facts if f[0] == "accepted")
            assert full <= 2 * accepted, "the device stayed away for long"
            got = {int(m.body) for m in emu.messages(name)}
            assert got == set(range(accepted)), "lost: %s" % sorted(set(range(accepted)) - got)[:9]
            heaps = [f[2] for f in facts if f[0] == "heap" and f[1] > 120_000]
            if len(heaps) > 4:
                early, late = heaps[: len(heaps) // 4], heaps[-len(heaps) // 4 :]
                assert min(late) - min(early) <= 1024, heaps
