"""The hub client against the emulator: telemetry, twin, methods, C2D."""

import time

from support.surface import outputs

TELEMETRY = """
from azure_iot import IoTHubDeviceClient, Message
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    async with client:
        await client.send_message(b"\\x00\\x01raw")
        await client.send_message("text", {"a b": "c/d?", "n": None, "e": ""})
        await client.send_message({"t": 21.5}, {"alert": "no"})
        await client.send_message(Message("x", message_id="m 1", correlation_id="c&1",
            component_name="thermo", content_type="text/plain"))
        out(client.tls["version"], repr(client))
asyncio.run(main())
"""


def test_telemetry_arrives_with_exact_properties(device, emu):
    assert device.run(TELEMETRY, "tele")[0][0] == "TLSv1.2"
    raw, text, body, full = emu.messages("tele")
    assert raw.body == b"\x00\x01raw"
    assert text.body == b"text"
    assert text.properties == {"a b": "c/d?", "n": None, "e": ""}
    assert body.body in (b'{"t": 21.5}', b'{"t":21.5}')
    assert body.properties == {"alert": "no"}
    assert (
        body.system["content-type"] == "application/json"
        and body.system["content-encoding"] == "utf-8"
    )
    assert full.system["message-id"] == "m 1" and full.system["correlation-id"] == "c&1"


OPTIONS = """
from azure_iot.mqtt.client import MQTTClient
from azure_iot import IoTHubDeviceClient, QueueFullError
from azure_iot.backoff import Backoff
def make(**options):
    return IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"], **options)
async def fill(client):
    number = 0
    try:
        while True:
            await client.send_message("x" * 10, wait=False)
            number += 1
    except QueueFullError:
        return number
async def main():
    mine = Backoff(1, 2, lambda n: 0)
    client = make(window=4, max_pending=7, backoff=mine)
    out(client._mqtt.session.window, client._mqtt._backoff is mine, await fill(client))
    out(await fill(make(max_pending_bytes=55)), await fill(make(mqtt={"max_pending": 3})))
    for client in (make(), make(fleet_size_hint=5000), make(mqtt={"fleet_size_hint": 1})):
        out(client._mqtt._backoff.window_ms)
    out(MQTTClient(None, "bare")._backoff.window_ms)
    try:
        make(windows=1)
    except TypeError:
        out("unknown")
asyncio.run(main())
"""


def test_options_of_the_queue_and_the_fleet_are_taken_as_documented(device):
    out = device.run(OPTIONS, "options")
    assert out == [[4, True, 7], [5, 3], [10_000], [50_000], [1000], [10_000], ["unknown"]]


MERGED = """
from azure_iot import IoTHubDeviceClient, Message
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    message = Message("x", {"a": "1", "c": "1"}, message_id="m")
    async with client:
        await client.send_message(message, {"b": "2", "c": "2"})
        await client.send_message(message)
    out(message.data, message.properties)
asyncio.run(main())
"""


def test_properties_given_on_top_are_added_and_the_callers_message_is_left_alone(device, emu):
    assert device.run(MERGED, "merged") == [["x", {"a": "1", "c": "1"}]]
    first, second = emu.messages("merged")
    assert first.properties == {"a": "1", "b": "2", "c": "2"}
    assert second.properties == {"a": "1", "c": "1"}
    assert [m.system["message-id"] for m in (first, second)] == ["m", "m"]


TWIN = """
from azure_iot import IoTHubDeviceClient, ServiceError
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    async with client:
        twin = await client.get_twin()
        out("twin", twin)
        version = await client.patch_twin_reported_properties({"fw": "1.2", "n": {"a": 1}})
        out("patched", version)
        out("patched", await client.patch_twin_reported_properties({"n": None}))
        changes = client.desired_properties()
        async for change in changes:
            out("desired", change.patch, change.version, change.complete)
            if change.patch.get("stop"):
                break
asyncio.run(main())
"""


def test_twin_get_patch_and_desired_changes_in_order(device, emu):
    with device.start(TWIN, "twin") as process:
        process.wait_for('["patched", 3]', 20)
        for step in range(5):
            emu.patch_desired("twin", {"step": step})
        emu.patch_desired("twin", {"stop": True})
        assert process.wait(20) == 0, process.text
    reported = emu.twin("twin")["properties"]["reported"]
    assert reported["fw"] == "1.2" and "n" not in reported
    seen = [o for o in outputs(process.output) if o[0] == "desired"]
    assert [o[1].get("step") for o in seen if "step" in o[1]] == [0, 1, 2, 3, 4]
    assert [o[2] for o in seen] == sorted({o[2] for o in seen})


METHODS = """
from azure_iot import IoTHubDeviceClient
async def blink(payload):
    return 200, {"blinked": payload["times"]}
async def broken(payload):
    raise ValueError("secret detail")
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    client.on_method("blink", blink)
    client.on_method("broken", broken)
    async with client:
        await client.get_twin()
        out("ready")
        async for request in client.method_requests():
            out(request.name, request.payload)
            await request.respond(204)
            if request.name == "stop":
                await asyncio.sleep(0.2)
                break
asyncio.run(main())
"""


def test_direct_methods_answer_with_status_and_body(device, emu):
    with device.start(METHODS, "meth") as process:
        process.wait_for("ready", 20)
        answer = emu.invoke_method("meth", "blink", {"times": 3}, timeout_s=10)
        assert (answer.status, answer.payload) == (200, {"blinked": 3})
        answer = emu.invoke_method("meth", "broken", None, timeout_s=10)
        assert answer.status == 500 and "secret" not in str(answer.payload)
        answer = emu.invoke_method("meth", "other", [1, 2], timeout_s=10)
        assert (answer.status, answer.payload) == (204, None)
        emu.invoke_method("meth", "stop", None, timeout_s=10)
        assert process.wait(10) == 0, process.text


STRICT = """
from azure_iot import IoTHubDeviceClient, ServiceError
async def known(payload):
    return 200, "x" * payload if payload else None
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    client.on_method("known", known)
    async with client:
        await client.get_twin()
        out("ready")
        if not F["iterates"]:
            await asyncio.sleep(30)
        async for request in client.method_requests():
            try:
                await request.respond(200, "x" * 131071)
            except ServiceError as error:
                out("refused", error.status)
            await request.respond(200, "x" * request.payload)
asyncio.run(main())
"""


def test_a_method_nobody_handles_is_answered_501(device, emu):
    with device.start(STRICT, "strict", iterates=False) as process:
        process.wait_for("ready", 20)
        answer = emu.invoke_method("strict", "other", None, timeout_s=10)
        assert answer.status == 501 and "other" in answer.payload["error"]
        assert emu.invoke_method("strict", "known", None, timeout_s=10).status == 200
        answer = emu.invoke_method("strict", "known", 131071, timeout_s=10)
        assert (answer.status, answer.payload) == (500, {"error": "the answer is too large"})


def test_an_answer_over_128_kb_is_refused_and_another_one_may_follow(device, emu):
    with device.start(STRICT, "capped", iterates=True) as process:
        process.wait_for("ready", 20)
        answer = emu.invoke_method("capped", "other", 131070, timeout_s=10)
        assert (answer.status, len(answer.payload)) == (200, 131070)
        process.wait_for('"refused", 413', 10)


LARGE_CALL = """
from azure_iot import IoTHubDeviceClient
async def count(payload):
    return 200, len(payload)
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    client.on_method("count", count)
    async with client:
        await client.get_twin()
        out("ready")
        await asyncio.sleep(30)
asyncio.run(main())
"""


def test_a_call_with_a_payload_over_the_inbound_limit_is_refused_not_dropped(device, emu):
    with device.start(LARGE_CALL, "large-call") as process:
        process.wait_for("ready", 20)
        answer = emu.invoke_method("large-call", "count", "x" * 60_000, timeout_s=10)
        assert (answer.status, answer.payload) == (200, 60_000)
        answer = emu.invoke_method("large-call", "count", "x" * 100_000, timeout_s=10)
        assert answer.status == 413 and "100002 bytes" in answer.payload["error"]
        answer = emu.invoke_method("large-call", "count", "after", timeout_s=10)
        assert (answer.status, answer.payload) == (200, 5)


C2D = """
from azure_iot import IoTHubDeviceClient
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    async with client:
        out("ready")
        async for message in client.c2d_messages():
            out(message.data.decode(), message.properties, message.message_id)
            if message.data == b"hold":
                await asyncio.sleep(0.5)
                out("held")
            if message.data == b"stop":
                break
        await asyncio.sleep(0.2)
asyncio.run(main())
"""


def test_c2d_is_acknowledged_after_the_application_took_it(device, emu):
    with device.start(C2D, "c2d") as process:
        process.wait_for("ready", 20)
        emu.send_c2d("c2d", b"one", {"a": "1 2", "n": None, "e": ""})
        emu.send_c2d("c2d", b"hold")
        process.wait_for('"hold"', 10)
        waiting = emu.call(lambda: [*emu.emulator.hub.registry.get("c2d").queue.letters])
        assert [letter.body for letter in waiting] == [b"hold"], (
            "held until the next one is wanted"
        )
        process.wait_for('"held"', 10)
        emu.wait_for(lambda e: not emu.emulator.hub.registry.get("c2d").queue.letters, limit=5)
        emu.send_c2d("c2d", b"stop")
        assert process.wait(20) == 0, process.text
    seen = [o for o in outputs(process.output) if len(o) == 3]
    assert [o[0] for o in seen] == ["one", "hold", "stop"]
    assert seen[0][1] == {"a": "1 2", "n": None, "e": ""}


SILENT = """
from azure_iot import IoTHubDeviceClient, ConnectionFailedError
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"],
        twin_timeout_s=1)
    async with client:
        await client.get_twin()
        out("ready")
        await asyncio.sleep(1)
        began = client.clock.ticks_ms()
        try:
            await client.get_twin()
        except ConnectionFailedError as error:
            out(error.reason, client.clock.ticks_diff(client.clock.ticks_ms(), began))
        out(len(await client.get_twin()), client.stats["connects"])
asyncio.run(main())
"""


def test_a_twin_request_without_an_answer_ends_in_time_and_the_link_stays(device, emu):
    with device.start(SILENT, "silent") as process:
        process.wait_for("ready", 20)
        emu.fault({"action": "withhold", "packet": "PUBLISH", "device": "silent"})
        assert process.wait(20) == 0, process.text
    (reason, ms), after = outputs(process.output)[1:]
    assert reason == "twin" and 900 <= ms <= 3000
    assert after == [2, 1]


GAP = """
from azure_iot import IoTHubDeviceClient
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    async with client:
        async for change in client.desired_properties():
            out("desired", change.patch)
            client._twin.version -= 1  # as if one had gone missing
asyncio.run(main())
"""


WHILE_FETCHING = """
from azure_iot.core import HubConnection
from azure_iot.twin import Twin
class Link:
    connected = asyncio.Event()
async def main():
    async def ready():
        pass
    async def publish(topic, body, qos):
        out(topic)
    link = Link()
    link.connected.set()
    link._twin = Twin(ready, publish, 3000, 16)
    settling = asyncio.create_task(link._twin.refresh())
    await asyncio.sleep_ms(20)
    out(link._twin.on_desired(b'{"a":1,"$version":2}'))
    again = asyncio.create_task(HubConnection._refresh_twin(link))
    await asyncio.sleep_ms(20)
    out("others run", link._twin.refreshing)
    again = asyncio.create_task(HubConnection._refresh_twin(link))
    await asyncio.sleep_ms(20)
    again.cancel()
    settling.cancel()
    await asyncio.sleep_ms(20)
    out(link._twin.refreshing)
asyncio.run(main())
"""


def test_a_change_that_comes_while_the_twin_is_fetched_stops_nothing(device):
    with device.start(WHILE_FETCHING, "fetching", limit=10) as process:
        assert process.wait(8) == 0, process.text
    asked = ["$iothub/twin/GET/?$rid=1"]
    assert outputs(process.output) == [asked, [False], ["others run", False], [False]]


def test_a_refused_twin_request_after_a_gap_is_made_again(device, emu):
    with device.start(GAP, "gap") as process:
        process.wait_for("desired", 20)
        emu.fault({"action": "throttle", "device": "gap", "seconds": 7.0})
        emu.patch_desired("gap", {"after": "gap"})
        began = time.monotonic()
        process.wait_for('"after"', 20)
        assert 7 <= time.monotonic() - began <= 7 * 1.5 + 2, "retry-after, and up to half more"


ALONE = """
from azure_iot import ServiceError, hub
from azure_iot.twin import Twin
async def main():
    sent, got = [], []
    async def ready():
        pass
    async def publish(topic, body, qos):
        sent.append(topic)
    def listener(change):
        got.append(change.version)
        if change.version == 3:
            raise MemoryError
    twin = Twin(ready, publish, 5000, 16)
    for topic in ("$iothub/twin/res/429/?$rid=1&retry-after=9", "$iothub/twin/res/503/?$rid=2"):
        task = asyncio.create_task(twin.get())
        await asyncio.sleep_ms(20)
        twin.on_result(*hub.parse(topic, "devices/d/")[1:], b"")
        try:
            await task
        except ServiceError as error:
            out(error.status, error.retry_after)
    sent.clear()
    twin.listeners.append(listener)
    task = asyncio.create_task(twin.refresh())
    await asyncio.sleep_ms(20)
    assert not twin.on_desired(b'{"$version":2}')
    await twin.refresh()
    twin.on_result(200, "3", None, b'{"desired":{"$version":1}}')
    await asyncio.sleep_ms(20)
    twin.on_result(200, "4", None, b'{"desired":{"$version":2}}')
    await task
    out(len(sent), got, twin.version)
    assert not twin.on_desired(b'{"$version":3}')  # so that it is asked for again
    out(got, twin.version)
asyncio.run(main())
"""


def test_a_change_older_answers_do_not_show_and_one_that_was_not_taken_are_not_lost(device):
    assert device.run(ALONE, "twin-alone") == [[429, 9], [503, None], [2, [2], 2], [[2, 3], 2]]


AGAIN = """
from azure_iot import IoTHubDeviceClient
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    settled = asyncio.Event()
    client.on_event = lambda name, fact: settled.set() if name == "settled" else None
    made = []
    await client.connect(20)
    for turn in range(4):
        await settled.wait()
        settled.clear()
        held = client._link._context.context
        if held not in made:
            made.append(held)
        out(made.index(held))
        if turn == 2:
            async with client.quiet():  # what it is made for needs all the memory
                out("held", client._link._context)
        elif turn < 3:
            await client._mqtt.reconnect()
    await client.disconnect()
asyncio.run(main())
"""


def test_one_tls_context_serves_until_its_memory_is_needed(device):
    out = device.run(AGAIN, "again")
    assert out == [[0], [1], [1], ["held", None], [2]]
