"""Six hours without a hub, with time running 2,000 times faster: 64 messages kept, attempts few.

The client is the real one, and so are its sockets; the clock it reads and the timers of asyncio
run fast while the hub is away, and at their usual pace before and after.
"""

import json

HOURS = 6
SPEED = 2000
PROGRAM = """
import time
import asyncio.core
from azure_iot import clock

class Fast:
    speed = 1
    began = passed = time.ticks_ms()  # never behind the real ones, which asyncio's queue uses too

def ticks():
    return Fast.passed + time.ticks_diff(time.ticks_ms(), Fast.began) * Fast.speed

def run_at(speed):
    Fast.passed = ticks()
    Fast.began = time.ticks_ms()
    Fast.speed = speed

wait = asyncio.core.IOQueue.wait_io_event
asyncio.core.IOQueue.wait_io_event = lambda self, ms: wait(self, ms if ms < 0 else ms // Fast.speed)
asyncio.core.ticks = clock.ticks_ms = ticks
clock.Clock.ticks_ms = lambda self: ticks()
start = int(time.time())
clock.Clock.unix_time = lambda self: start + ticks() // 1000

from azure_iot import IoTHubDeviceClient, QueueFullError

async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    attempts = []
    client.on_event = lambda name, fact: attempts.append(ticks()) if name == "connect_failed" else None
    await client.connect(20)
    out("up")
    while client.connected.is_set():
        await asyncio.sleep_ms(10)
    run_at(F["speed"])
    end = ticks() + F["hours"] * 3600000
    kept = refused = 0
    while ticks() < end:
        try:
            await client.send_message("%d" % (kept + refused), wait=False)
            kept += 1
        except QueueFullError:
            refused += 1
        await asyncio.sleep_ms(30000)
    run_at(20)  # fast enough for the last pause, slow enough for a handshake
    gaps = [attempts[n + 1] - attempts[n] for n in range(len(attempts) - 1)]
    out("dark", kept, refused, len(attempts), max(gaps))
    while client.stats["pending"]:
        await asyncio.sleep_ms(20)
    out("end", client.stats["connects"])
    await client.disconnect()
asyncio.run(main())
"""


def test_six_hours_without_a_hub(device, emu, record_property):
    with device.start(PROGRAM, "dark", speed=SPEED, hours=HOURS) as process:
        process.wait_for('"up"', 20)
        emu.fault({"action": "blackout", "seconds": HOURS * 3600 / SPEED + 1.5})
        process.wait_for('"dark"', 40)
        assert process.wait(60) == 0, process.text
    line = next(line for line in process.text.splitlines() if '"dark"' in line)
    _, kept, refused, attempts, longest = json.loads(line[4:])
    record_property("blackout", f"{HOURS} h: {kept} kept, {refused} refused, {attempts} attempts")
    assert kept == 64 and refused > 200, line
    assert [int(m.body) for m in emu.messages("dark")] == list(range(64))
    # The pause grows to its maximum and no further: some 25 attempts an hour, never a storm.
    assert 100 <= attempts <= 400, line
    assert 60_000 <= longest <= 300_000, line
    assert '"end", 2' in process.text
