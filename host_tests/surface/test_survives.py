"""What an application, a file system or a full heap raises ends no task that must go on."""

import time

from support.surface import outputs

CALLBACKS = """
from azure_iot import IoTHubDeviceClient
seen = []
def on_event(name, fact):
    seen.append(name)
    raise KeyError(name)
def sink(text):
    print("LOG", text)
    if "on_event failed" in text:
        raise OSError(28)
async def main():
    log.set_sink(sink)
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    client.on_event = on_event
    async with client:
        while "settled" not in seen:
            await asyncio.sleep_ms(20)
        out("settled")
        while "disconnected" not in seen or not client.connected.is_set():
            await asyncio.sleep_ms(20)
        await client.send_message("after")
        out("events", sorted(set(seen)), log.lost > 2)
asyncio.run(main())
"""


def test_an_application_that_raises_in_its_callbacks_stays_connected(device, emu):
    with device.start(CALLBACKS, "raises") as process:
        process.wait_for("settled", 20)
        emu.drop("raises")
        assert process.wait(20) == 0, process.text
        kind, events, lost = outputs(process.output)[-1]
    assert kind == "events" and lost
    assert {"connected", "settled", "disconnected"} <= set(events)
    assert [message.body for message in emu.messages("raises")] == [b"after"]


PROVIDER = """
from azure_iot import IoTHubDeviceClient, SasProvider
from azure_iot.backoff import Backoff
from azure_iot.credentials import SymmetricKey
async def main():
    calls = []
    real = SymmetricKey(F["key"])
    async def provide(resource, expiry):
        calls.append(expiry)
        if len(calls) < 3:
            raise KeyError("no such token")
        return await real.token(resource, expiry)
    client = IoTHubDeviceClient.from_credential(SasProvider(provide), "localhost", F["device_id"],
        roots=roots, port=F["port"], mqtt={"backoff": Backoff(20, 50, lambda n: n // 2)})
    async with client:
        out("connected after", len(calls))
asyncio.run(main())
"""


def test_a_sas_provider_that_raises_is_asked_again(device, emu):
    key = emu.add_device("asked").primary_key
    assert device.run(PROVIDER, "asked", cs="", key=key) == [["connected after", 3]]


ENDED = """
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        out("ended", len(runs))
asyncio.run(main())
"""

FOREVER = """
from azure_iot.forever import forever
async def main():
    runs = []
    async def work():
        runs.append(1)
        if len(runs) == 1:
            raise OSError(28)
        if len(runs) == 2:
            raise MemoryError
        await asyncio.sleep(60)
    task = asyncio.create_task(forever(work))
    while len(runs) < 3:
        await asyncio.sleep_ms(20)
"""


def test_work_that_must_not_end_starts_anew_and_can_be_cancelled(device):
    began = time.monotonic()
    assert device.run(FOREVER + ENDED, "forever") == [["ended", 3]]
    assert time.monotonic() - began >= 10, "a task that fails at once must not spin"


NETWORK = """
from azure_iot.agent import Agent
from azure_iot.errors import ConnectionFailedError
from azure_iot.unix.platform import Platform
class Slow(Platform):
    asked = 0
    async def network_up(self):
        self.asked += 1
        if self.asked < 3:
            raise (OSError("Wifi Internal Error"), ConnectionFailedError("no Wi-Fi", "wifi"))[self.asked - 1]
async def app(client):
    await client.send_message("up")
    out("sent")
asyncio.run(Agent(Slow({"connection_string": F["cs"], "roots": ["root.der"],
    "client": {"port": F["port"]}})).run(app))
"""


def test_an_access_point_that_starts_slower_than_the_device_is_waited_for(device, emu):
    assert device.run(NETWORK, "slow-net") == [["sent"]]


HANDLER = """
from azure_iot import IoTHubDeviceClient
async def main():
    seen = []
    async def long():
        await asyncio.sleep(60)
    async def handle(message):
        seen.append(bytes(message.data))
        if len(seen) == 1:
            task = asyncio.create_task(long())
            await asyncio.sleep_ms(0)
            task.cancel()
            await task
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    client.on_c2d(handle)
    client.on_event = lambda name, fact: out(name)
    async with client:
        while len(seen) < 2:
            await asyncio.sleep_ms(20)
        out("handled")
asyncio.run(main())
"""


def test_a_handler_that_awaits_a_cancelled_task_is_called_again(device, emu):
    with device.start(HANDLER, "cancelled", limit=20) as process:
        process.wait_for("settled", 20)
        emu.send_c2d("cancelled", b"1")
        emu.send_c2d("cancelled", b"2")
        process.wait_for("handled", 10)


QUIET = """
from azure_iot import IoTHubDeviceClient
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    async def work():
        async with client.quiet():
            await asyncio.sleep(60)
    async with client:
        task = asyncio.create_task(work())
        while not client._link.held:
            await asyncio.sleep_ms(0)
        task.cancel()
        while client.connected.is_set():
            await asyncio.sleep_ms(0)
        await client.connect(10)
        out("back")
asyncio.run(main())
"""


def test_who_is_cancelled_while_the_connection_closes_for_him_does_not_keep_it_closed(device):
    assert device.run(QUIET, "quiet") == [["back"]]


KEPT = """
from azure_iot import IoTHubDeviceClient
from azure_iot.clock import default
from azure_iot.tls.sessions import Sessions
class Memory:
    def get(self, key):
        return b"\\xff\\xfe".decode()
    def set(self, key, value):
        raise ValueError("RTC memory holds 2048 bytes")
async def main():
    sessions = Sessions(default(), kv=Memory(), mac_key=b"k" * 32)
    client = IoTHubDeviceClient.from_connection_string(
        F["cs"], roots=roots, port=F["port"], sessions=sessions)
    async with client:
        out(sessions.why_not_kept)
asyncio.run(main())
"""


def test_rtc_memory_that_holds_something_else_and_is_full_costs_the_session_only(device):
    assert device.run(KEPT, "kept-tls", limit=20) == [["RTC memory holds 2048 bytes"]]


PUMP = """
from azure_iot import IoTHubDeviceClient
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    async with client:
        await client.send_message("first")
        make = asyncio.create_task
        def short(work):
            asyncio.create_task = make
            raise MemoryError
        asyncio.create_task = short
        failed = 0
        for number in range(12):
            try:
                await client.send_message("%d" % number, wait=False)
            except MemoryError:
                failed += 1
        await asyncio.wait_for(client.send_message("last"), 10)
        out(failed, client.stats["pending"])
asyncio.run(main())
"""


def test_a_queue_that_had_no_memory_for_its_task_is_sent_later(device):
    assert device.run(PUMP, "pump") == [[1, 0]]


STRAY = """
from azure_iot.forever import forever
async def main():
    runs, wanted = [], [1]
    async def work():
        runs.append(1)
        await asyncio.sleep(60)
    task = asyncio.create_task(forever(work, lambda: wanted))
    await asyncio.sleep_ms(20)
    task.cancel()
    while len(runs) < 2:
        await asyncio.sleep_ms(20)
    wanted.clear()
"""


def test_work_goes_on_after_a_cancellation_that_nobody_asked_for(device):
    assert device.run(STRAY + ENDED, "stray", limit=20) == [["ended", 2]]


RUNS = """
from azure_iot import IoTHubDeviceClient
client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
async def one(number):
    await client.connect(10)
    await asyncio.wait_for(client.send_message("%d" % number), 10)
    for _ in range(12):
        await client.send_message("more", wait=False)
    out("sent", number)
    raise KeyboardInterrupt  # as Ctrl-C at the REPL
for number in range(3):
    try:
        asyncio.run(one(number))
    except KeyboardInterrupt:
        asyncio.new_event_loop()
"""


def test_a_second_run_at_the_repl_connects_again(device):
    assert device.run(RUNS, "runs") == [["sent", number] for number in range(3)]
