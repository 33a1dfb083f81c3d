"""What an application, a file system or a full heap raises ends no task that must go on."""

import time

import pytest
from support.surface import Later, outputs

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
    asked = fed = 0
    def feed(self):
        self.fed += 1
        if self.fed == 1:
            raise MemoryError
    async def sync_time(self):
        raise IndexError("no address")
    async def network_up(self):
        self.asked += 1
        if self.asked < 4:
            raise (OSError("Wifi Internal Error"), ConnectionFailedError("no Wi-Fi", "wifi"),
                MemoryError())[self.asked - 1]
async def app(client):
    await client.send_message("up")
    while agent.platform.fed < 3:
        await asyncio.sleep_ms(20)
    out("sent")
agent = Agent(Slow({"connection_string": F["cs"], "roots": ["root.der"],
    "client": {"port": F["port"]}}))
asyncio.run(agent.run(app))
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


SETTLES = """
nap = asyncio.sleep_ms
asyncio.sleep_ms = lambda ms: nap(min(ms, 100))
from azure_iot import IoTHubDeviceClient
async def main():
    client = IoTHubDeviceClient.from_connection_string(
        F["cs"], roots=roots, port=F["port"], https_port=F["https"])
    client.desired_properties()
    failures = [MemoryError, asyncio.CancelledError]
    steps = []
    def failing(name, owner):
        real = getattr(owner, name)
        left = list(failures)
        async def step(*facts):
            steps.append(name)
            if left:
                raise left.pop()
            return await real(*facts)
        setattr(owner, name, step)
    for name, owner in (("refresh", client._twin), ("keep", client.keeper), ("_after_settled", client)):
        failing(name, owner)
    async with client:
        while steps.count("_after_settled") < 3 or client._settling is not None:
            await nap(20)
        out([steps.count(name) for name in ("refresh", "keep", "_after_settled")])
asyncio.run(main())
"""


def test_settling_goes_on_after_whatever_a_step_of_it_raised(device):
    """A cancellation that nobody asked for is what asyncio's wait_for gives without memory."""
    assert device.run(SETTLES, "settles", limit=20) == [[[3, 3, 3]]]


GAP = """
nap = asyncio.sleep_ms
asyncio.sleep_ms = lambda ms: nap(min(ms, 100))
from azure_iot import IoTHubDeviceClient
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    changes = client.desired_properties()
    settled = asyncio.Event()
    client.on_event = lambda name, fact: name == "settled" and settled.set()
    async with client:
        await settled.wait()
        real, left = client._twin.get, [MemoryError, asyncio.CancelledError]
        async def get():
            if left:
                raise left.pop()
            return await real()
        client._twin.get = get
        client._twin.version -= 1
        out("ready")
        async for change in changes:
            if "n" in change.patch:
                break
        out(change.patch["n"], change.complete, len(left))
asyncio.run(main())
"""


def test_a_gap_in_the_twin_is_closed_though_memory_was_short(device, emu):
    with device.start(GAP, "gap", limit=20) as process:
        process.wait_for("ready", 15)
        emu.patch_desired("gap", {"n": 1})
        assert process.wait(15) == 0, process.text
        assert outputs(process.output)[-1] == [1, True, 0]


AWAITS = """
from azure_iot import IoTHubDeviceClient
async def main():
    async def long():
        await asyncio.sleep(60)
    async def handle(payload):
        task = asyncio.create_task(long())
        await asyncio.sleep_ms(0)
        task.cancel()
        await task
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    async def fine(payload):
        return 200
    client.on_method("m", handle)
    client.on_method("fine", fine)
    client.on_event = lambda name, fact: out(name)
    make = asyncio.create_task
    def short(work):
        raise MemoryError
    async with client:
        asyncio.create_task = short
        for rid in range(4):  # each is answered by nobody, and must not count as running
            try:
                client._methods.on_request("fine", str(rid), b"")
            except MemoryError:
                pass
        asyncio.create_task = make
        await asyncio.sleep(30)
asyncio.run(main())
"""


def test_a_method_that_awaits_a_cancelled_task_is_answered(device, emu):
    with device.start(AWAITS, "method", limit=30) as process:
        process.wait_for("settled", 20)
        assert emu.invoke_method("method", "m", timeout_s=10).status == 500
        assert emu.invoke_method("method", "fine", timeout_s=10).status == 200


CUT = """
from azure_iot import IoTHubDeviceClient
client = IoTHubDeviceClient.from_connection_string(
    F["cs"], roots=roots, port=F["port"], https_port=F["https"])
state = {"run": 0}
async def stuck():
    state["stuck"] = True
    await asyncio.sleep(600)
async def on_message(message):
    if not state["run"] and F["cut"] == "handler":
        await stuck()
    out("message", message.data.decode())
async def on_method(payload):
    if not state["run"] and F["cut"] == "method":
        state["calls"] = state.get("calls", 0) + 1
        if state["calls"] == 4:
            state["stuck"] = True
        await asyncio.sleep(600)
    return 200
async def follow():
    async for change in client.desired_properties():
        if "n" in change.patch:
            out("desired", state["run"], change.patch["n"])
async def on_quiet():
    async with client.quiet():
        await stuck()
async def main():
    def on_event(name, fact):
        out(name)
        state[name] = True
    client.on_event = on_event
    client.on_c2d(on_message)
    client.on_method("m", on_method)
    reader = asyncio.create_task(follow())
    if not state["run"] and F["cut"] in ("subscribe", "twin"):
        owner, name = {"subscribe": (client._mqtt, "subscribe"), "twin": (client._twin, "get")}[F["cut"]] \
            if client._twin else (client._mqtt, "subscribe")
        real = getattr(owner, name)
        async def once(*facts):
            if not state["run"]:
                await stuck()
            return await real(*facts)
        setattr(owner, name, once)
    if not state["run"] and F["cut"] == "quiet":
        await client.connect(10)
        asyncio.create_task(on_quiet())
    await client.start()
    while state["run"] or "stuck" not in state:
        await asyncio.sleep_ms(20)
    raise KeyboardInterrupt  # as Ctrl-C at the REPL
client.desired_properties()
try:
    asyncio.run(main())
except KeyboardInterrupt:
    asyncio.new_event_loop()
state["run"] = 1
out("second run")
asyncio.run(main())
"""


@pytest.mark.parametrize(
    "cut", ["handler", "method", "subscribe", "twin", "quiet", "idle", "start"]
)
def test_a_second_run_goes_on_with_what_the_first_was_in_the_middle_of(device, emu, cut):
    name = "cut-" + cut
    program = CUT
    if cut == "idle":
        program = CUT.replace('"stuck" not in state', '"settled" not in state')
    if cut == "start":
        program = CUT.replace('"stuck" not in state', "False")
    with device.start(program, name, cut=cut, limit=60) as process:
        if cut in ("handler", "method", "idle"):
            process.wait_for("settled", 20)
        if cut == "handler":
            emu.send_c2d(name, b"1")
        if cut == "method":
            for _ in range(4):
                Later(lambda: emu.invoke_method(name, "m", timeout_s=1))
        process.wait_for("second run", 20)
        process.wait_for('"message", "1"' if cut == "handler" else "settled", 20)
        emu.send_c2d(name, b"2")
        process.wait_for('"message", "2"', 20)
        emu.patch_desired(name, {"n": 7})
        process.wait_for('"desired", 1, 7', 20)
        assert emu.invoke_method(name, "m", timeout_s=10).status == 200
        assert process.text.count('"message", "2"') == 1


AGAIN = """
from azure_iot import IoTHubDeviceClient
async def main():
    gate = asyncio.Event()
    async def handle(message):
        await gate.wait()
        out("handled", message.data.decode())
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    client.on_c2d(handle)
    client.on_event = lambda name, fact: out(name)
    await client.connect(10)
    while len(client._c2d._open) < 2:
        await asyncio.sleep_ms(20)
    await client.disconnect()
    await client.connect(10)
    while len(client._c2d._open) < 2:
        await asyncio.sleep_ms(20)
    gate.set()
    while client._c2d._open:
        await asyncio.sleep_ms(20)
    await client.send_message("end")
    out("end")
    await asyncio.sleep(30)
asyncio.run(main())
"""


def test_messages_not_taken_before_a_disconnect_are_handled_once_after_it(device, emu):
    with device.start(AGAIN, "again", limit=30) as process:
        process.wait_for("settled", 20)
        for body in (b"1", b"2"):
            emu.send_c2d("again", body)
        process.wait_for('"end"', 20)
        said = [fact for fact in outputs(process.output) if fact[0] == "handled"]
        assert said == [["handled", "1"], ["handled", "2"]]
