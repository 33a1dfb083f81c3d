"""Modules, Edge gateway, Plug and Play, will, redelivery, refusals of the hub, gaps in the twin."""

import hashlib
import time

import pytest
from support.surface import Device, outputs
from taproot.emulator import EmulatorConfig, running

MODULE = """
from azure_iot import IoTHubModuleClient
async def main():
    module = IoTHubModuleClient.from_connection_string(F["mcs"], roots=roots, port=F["port"])
    async with module:
        out("id", module.identity.host, module.identity.gateway)
        await module.send_message_to_output({"t": 1}, "alerts", {"p": "q"})
        await module.patch_twin_reported_properties({"m": 1})
        out("twin", (await module.get_twin())["reported"]["m"])
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def edge(hub_leaf):
    with running(EmulatorConfig(chain=hub_leaf, host_names=["myhub.azure-devices.net"])) as emu:
        yield emu


def test_a_module_behind_a_gateway_keeps_the_hubs_identity(tmp_path, edge, hub_root):
    edge.add_device("dev")
    record = edge.add_device("dev/mod")
    text = record.connection_string.replace(
        "HostName=localhost", "HostName=myhub.azure-devices.net"
    )
    assert "HostName=myhub.azure-devices.net" in text
    device = Device(tmp_path, edge, hub_root)
    out = device.run(MODULE, "dev/mod", mcs=text + ";GatewayHostName=localhost")
    assert out[0] == ["id", "myhub.azure-devices.net", "localhost"]
    assert out[-1] == ["twin", 1]
    message = edge.messages("dev/mod")[0]
    assert message.system["iothub-outputname"] == "alerts" and message.properties == {"p": "q"}


INPUTS = """
from azure_iot import IoTHubModuleClient
async def main():
    module = IoTHubModuleClient.from_connection_string(F["mcs"], roots=roots, port=F["port"])
    if F["iterates"]:
        messages = module.input_messages()
    else:
        came = asyncio.Event()
        async def take(message):
            out(message.input_name, message.data.decode(), message.properties)
            came.set()
        module.on_input(take)
    async with module:
        await module.get_twin()
        out("ready")
        if F["iterates"]:
            async for message in messages:
                out(message.input_name, message.data.decode(), message.properties)
                break
        else:
            await came.wait()
asyncio.run(main())
"""


@pytest.mark.parametrize("iterates", [True, False])
def test_a_module_hears_its_inputs(device, emu, iterates):
    name = "in-%s" % iterates
    emu.add_device(name)
    record = emu.add_device(name + "/mod")
    with device.start(
        INPUTS, name + "/mod", mcs=record.connection_string, iterates=iterates
    ) as process:
        process.wait_for("ready", 20)
        assert emu.send_input(name + "/mod", "alarms", b"hot", {"a": "b"}), "not subscribed"
        assert process.wait(20) == 0, process.text
    assert outputs(process.output)[-1] == ["alarms", "hot", {"a": "b"}]


PNP = """
from azure_iot import IoTHubDeviceClient, pnp
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"],
        model_id="dtmi:com:example:Thermostat;1", product_info="Taproot/0.1 (unix)")
    async with client:
        await client.patch_twin_reported_properties(pnp.component("thermo", {"max": 30}))
        async for change in client.desired_properties():
            for name, value, component in pnp.writable(change):
                out(name, value, component)
                await client.patch_twin_reported_properties(
                    pnp.response(name, value, 200, change.version, component=component))
            if change.patch.get("stop"):
                break
asyncio.run(main())
"""


def test_plug_and_play_model_components_and_writable_properties(device, emu):
    with device.start(PNP, "pnp") as process:
        emu.wait_for(lambda e: e["type"] == "connect" and e["identity"] == "pnp")
        time.sleep(0.5)
        emu.patch_desired("pnp", {"thermo": {"__t": "c", "target": 21}, "interval": 5})
        emu.patch_desired("pnp", {"stop": 1})
        assert process.wait(20) == 0, process.text
    connect = next(e for e in emu.events() if e["type"] == "connect" and e["identity"] == "pnp")
    assert "&model-id=dtmi%3Acom%3Aexample%3AThermostat%3B1" in connect["username"]
    assert "DeviceClientType=Taproot%2F0.1%20%28unix%29" in connect["username"]
    reported = emu.twin("pnp")["properties"]["reported"]
    assert reported["interval"]["value"] == 5 and reported["interval"]["ac"] == 200
    assert reported["thermo"]["target"]["value"] == 21 and reported["thermo"]["max"] == 30


WILL = """
from azure_iot import IoTHubDeviceClient, Message
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"],
        will=Message(b"gone", {"why": "no word"}))
    await client.connect(10)
    await client.send_message("here")
    if F["polite"]:
        await client.disconnect()
    else:
        import os
        out("die")
        while True:
            await asyncio.sleep(1)
asyncio.run(main())
"""


@pytest.mark.parametrize("polite", [True, False])
def test_the_will_is_telemetry_only_when_the_device_vanishes(device, emu, polite):
    name = "will-%s" % polite
    with device.start(WILL, name, polite=polite) as process:
        if polite:
            assert process.wait(20) == 0, process.text
        else:
            process.wait_for("die", 20)
            will = emu.call(lambda: emu.emulator.hub.registry.get(name).session._will)
            assert (int(will.qos), bool(will.retain)) == (1, False), (
                "the hub marks a retained message"
            )
            process.kill()
    time.sleep(0.5)
    wills = [m for m in emu.messages(name) if m.body == b"gone"]
    assert len(wills) == (0 if polite else 1)
    if wills:
        assert "Will" in repr(wills[0]), repr(wills[0])


C2D = """
from azure_iot import IoTHubDeviceClient
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"],
        fleet_size_hint=1)
    seen = []
    async def handle(message):
        seen.append(message.data.decode())
        out("handling", seen[-1])
        if len(seen) == 1:
            raise ValueError("not now")
        if seen[-1] == "slow":
            await asyncio.sleep(1.5)
        out("handled", seen[-1])
    client.on_c2d(handle)
    async with client:
        out("ready")
        await asyncio.sleep(F["seconds"])
asyncio.run(main())
"""


def test_a_message_comes_again_after_a_failed_handler_and_not_after_a_dropped_link(device, emu):
    with device.start(C2D, "again", seconds=7) as process:
        process.wait_for("ready", 20)
        emu.send_c2d("again", b"first")
        process.wait_for("handling", 10)
        emu.drop("again")
        process.wait_for('"handled", "first"', 10)
        emu.send_c2d("again", b"slow")
        process.wait_for('"handling", "slow"', 10)
        emu.drop("again")  # while it is being handled: it comes again and is recognised
        emu.send_c2d("again", b"last")
        process.wait_for('"handled", "last"', 10)
    seen = [o[1] for o in outputs(process.output) if o[0] == "handled"]
    assert seen == ["first", "slow", "last"]


EQUAL = """
from azure_iot import IoTHubDeviceClient
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"],
        fleet_size_hint=1)
    seen, gone = [], asyncio.Event()
    async def handle(message):
        seen.append(message)
        out("handling", len(seen))
        if len(seen) == 1:
            await gone.wait()
            await asyncio.sleep_ms(F["more_ms"])
    def on_event(name, fact):
        out(name)
        if name == "disconnected":
            gone.set()
    client.on_c2d(handle)
    client.on_event = on_event
    async with client:
        while len(seen) < 2:
            await asyncio.sleep_ms(20)
        await asyncio.sleep_ms(200)
asyncio.run(main())
"""


@pytest.mark.parametrize("more_ms", [0, 4000], ids=["handled", "being handled"])
def test_an_equal_message_is_another_one_though_a_link_ended_before(device, emu, more_ms):
    """The first one's time ends with its link: the hub does not send it again."""
    name = "equal-%d" % more_ms
    letters = lambda: emu.emulator.hub.registry.get(name).queue.letters  # noqa: E731
    with device.start(EQUAL, name, more_ms=more_ms, limit=30) as process:
        process.wait_for("settled", 20)
        emu.send_c2d(name, b"reboot", message_id="same")
        process.wait_for('"handling", 1', 10)
        emu.call(lambda: letters().clear())
        emu.drop(name)
        process.wait_for("disconnected", 10)
        process.wait_for("settled", 10)
        emu.send_c2d(name, b"reboot", message_id="same")
        process.wait_for('"handling", 2', 15)
        assert process.wait(10) == 0, process.text
    assert not emu.call(lambda: [*letters()])


GAP = """
from azure_iot import IoTHubDeviceClient
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"],
        fleet_size_hint=1)
    async with client:
        async for change in client.desired_properties():
            out(change.version, change.complete, change.patch)
            if change.patch.get("n") == 9:
                break
    out(client.stats.get("twin_gaps", 0))
asyncio.run(main())
"""


def test_changes_missed_while_away_arrive_as_one_complete_change(device, emu):
    with device.start(GAP, "gap") as process:
        process.wait_for("OUT", 20)
        emu.patch_desired("gap", {"n": 1})
        process.wait_for('"n": 1', 10)
        emu.fault({"action": "blackout", "seconds": 1.0})
        for n in range(2, 6):
            emu.patch_desired("gap", {"n": n})
        process.wait_for('"n": 5', 20)
        emu.patch_desired("gap", {"n": 9})
        assert process.wait(20) == 0, process.text
    seen = [o for o in outputs(process.output) if len(o) == 3]
    versions = [o[0] for o in seen]
    assert versions == sorted(set(versions))
    assert next(o for o in seen if o[2].get("n") == 5)[1] is True


REFUSED = """
from azure_iot import IoTHubDeviceClient, ServiceError
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"],
        fleet_size_hint=1)
    async with client:
        for patch in ({"x": "y" * 5000}, {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": {"j": {"k": 1}}}}}}}}}}}):
            try:
                await client.patch_twin_reported_properties(patch)
                out("accepted")
            except ServiceError as error:
                out(error.status, str(error))
        try:
            await client.send_message(b"x" * 262145)
        except ServiceError as error:
            out(error.status, str(error))
        try:
            await client.patch_twin_reported_properties({"x": "y" * 33000})
        except ServiceError as error:
            out(error.status, str(error))
        for properties, size in (({"p": "x" * 66000}, 0), ({"p": "ü" * 1400}, 0), ({"p": "x" * 99}, 262100)):
            try:
                await client.send_message(bytes(size), properties)
            except ServiceError as error:
                out(error.status, str(error))
        await client.send_message("still here", {"p": "x" * 4000})
asyncio.run(main())
"""


def test_what_the_hub_refuses_is_a_service_error_and_the_link_stays(device, emu):
    out = device.run(REFUSED, "refuse")
    assert [o[0] for o in out] == [400, 400, 413, 413, 413, 413, 413]
    assert ["topic" in o[1] for o in out[4:]] == [True, True, False]
    assert [m.body for m in emu.messages("refuse")] == [b"still here"]
    connects = [e for e in emu.events() if e["type"] == "connect" and e["identity"] == "refuse"]
    assert len(connects) == 1


STREAM = """
import gc
from hashlib import sha256
from azure_iot import IoTHubDeviceClient, ServiceError
class Reader:
    opened = 0
    def __init__(self):
        self.at = 0
        Reader.opened += 1
    def readinto(self, view):
        n = min(len(view), F["size"] - self.at)
        for i in range(n):
            view[i] = (self.at + i) % 251
        self.at += n
        return n
class Sink:
    aborted = closed = 0
    def __init__(self):
        self.digest = sha256()
        self.size = 0
        out("begins")
    def write(self, part):
        self.digest.update(part)
        self.size += len(part)
    def close(self):
        Sink.closed += 1
    def abort(self):
        Sink.aborted += 1
        out("aborted", self.size)
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"],
        fleet_size_hint=1)
    done = asyncio.Event()
    handled = []
    async def handler(message):
        handled.append(message.data)
        out("handler", message.message_id, len(handled))
        while len(handled) == 1 and client.connected.is_set():
            await asyncio.sleep_ms(10)          # the test drops the connection here
        if isinstance(message.data, Sink):
            out("got", message.data.size, message.data.digest.digest().hex())
        else:
            done.set()
    client.on_c2d(handler, sink=lambda message, size: Sink())
    async with client:
        gc.collect()
        ballast = []
        while gc.mem_free() > 190000:
            ballast.append(bytearray(500))
        await client.send_message(Reader, {"p": "q"}, size=F["size"])
        out("sent", gc.mem_free() < F["size"])
        try:
            await client.send_message(Reader, size=262145)
        except ServiceError as error:
            out("refused", error.status)
        await done.wait()
        await asyncio.sleep_ms(300)
    out("end", Sink.closed, Sink.aborted, client.stats.get("discarded", 0),
        client.stats.get("handler_errors", 0))
asyncio.run(main())
"""


def test_streams_need_no_memory_and_are_acknowledged_after_the_handler(device, emu):
    size = 200_000
    body = bytes(n % 253 for n in range(60_000))
    with device.start(STREAM, "stream", size=size) as process:
        process.wait_for('"refused"', 30)
        emu.send_c2d("stream", body, message_id="m1")
        process.wait_for('"handler", "m1", 1', 20)
        assert len(emu.call(lambda: emu.emulator.hub.registry.get("stream").queue.letters)) == 1, (
            "not acknowledged before the handler returned"
        )
        emu.drop("stream")
        process.wait_for('"got"', 20)
        emu.send_c2d("stream", b"small", message_id="m2")
        assert process.wait(20) == 0, process.text
    out = outputs(process.output)
    assert ["sent", True] in out and ["refused", 413] in out
    assert ["got", len(body), hashlib.sha256(body).hexdigest()] in out
    handlers = [o for o in out if o[0] == "handler"]
    assert [h[1] for h in handlers] == ["m1", "m2"], "handled once although it came twice"
    assert out.count(["begins"]) == 2
    assert out[-1][0] == "end" and out[-1][2:] == [0, 0, 0]
    assert [m.body for m in emu.messages("stream")] == [bytes(n % 251 for n in range(size))]
    assert emu.messages("stream")[0].properties == {"p": "q"}


LATE = """
from azure_iot import IoTHubDeviceClient
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"],
        fleet_size_hint=1)
    changes = client.desired_properties()
    async with client:
        while client._twin.version is None:
            await asyncio.sleep_ms(50)
        out("up")
        while client._twin.version != 31:  # the first was 1
            await asyncio.sleep_ms(50)
        desired = {}
        first = None
        while len(desired) < 30:
            change = await changes.__anext__()
            first = change.complete if first is None else first
            desired.update(change.patch)
        out(first, sorted(desired) == sorted("k%d" % n for n in range(30)))
        out(client.stats["twin_drops"] > 0)
asyncio.run(main())
"""


def test_who_reads_late_begins_with_a_complete_change(device, emu):
    with device.start(LATE, "late") as process:
        process.wait_for("up", 20)
        for n in range(30):
            emu.patch_desired("late", {f"k{n}": n})
        assert process.wait(20) == 0, process.text
    assert outputs(process.output)[1:] == [[True, True], [True]]


NOBODY_ANSWERS = """
from azure_iot import IoTHubDeviceClient
from azure_iot.errors import ConnectionFailedError
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"],
        twin_timeout_s=1, fleet_size_hint=1)
    async with client:
        await client.get_twin()
        out("up")
        while client.connected.is_set():
            await asyncio.sleep_ms(50)
        failed = 0
        for n in range(3):
            try:
                await client.patch_twin_reported_properties({"late": n})
            except ConnectionFailedError:
                failed += 1
        out(failed, client.stats["pending"])
        await client.connected.wait()
        await asyncio.sleep(1)
        out(await client.get_twin())
asyncio.run(main())
"""


def test_a_twin_request_that_timed_out_is_not_made_later(device, emu):
    with device.start(NOBODY_ANSWERS, "silence") as process:
        process.wait_for("up", 20)
        emu.fault({"action": "blackout", "seconds": 5.0})
        assert process.wait(30) == 0, process.text
    counts, (twin,) = outputs(process.output)[1:]
    assert counts == [3, 0] and "late" not in twin["reported"]


def test_many_gaps_under_a_throttle_are_one_request_at_a_time(device, emu):
    with device.start(GAP, "choked") as process:
        process.wait_for("OUT", 20)
        emu.fault({"action": "withhold", "packet": "PUBLISH", "device": "choked", "count": 1})
        emu.patch_desired("choked", {"lost": 1})
        time.sleep(0.3)
        emu.fault({"action": "throttle", "device": "choked", "count": 0})
        began = len(emu.events())
        for n in range(10, 40):
            emu.patch_desired("choked", {"n": n})
            time.sleep(0.1)
        time.sleep(4)
        gets = [
            event
            for event in emu.events()[began:]
            if event.get("identity") == "choked"
            and str(event.get("topic", "")).startswith("$iothub/twin/GET")
        ]
        assert 1 <= len(gets) <= 3, gets
        emu.clear_faults("choked")
        process.wait_for('"n": 39', 30)
        process.kill()


def test_a_device_that_was_created_anew_hears_its_new_twin(device, emu):
    """The new desired section has the number of the old one; the reported one has not."""
    record = emu.add_device("anew")
    program = GAP.replace(
        "async for", 'await client.patch_twin_reported_properties({"a": 1})\n        async for'
    )
    with device.start(program, "anew", cs=record.connection_string) as process:
        process.wait_for("OUT", 20)
        emu.patch_desired("anew", {"old": 1})
        process.wait_for('"old": 1', 10)
        emu.remove_device("anew")
        emu.add_device("anew", primary_key=record.primary_key)
        emu.patch_desired("anew", {"new": 1})
        process.wait_for('"new": 1', 30)
        process.kill()


RENEWING = """
from azure_iot import IoTHubDeviceClient
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"],
        fleet_size_hint=1)
    failed = 0
    async with client:
        await client.get_twin()
        for connects in (1, 2, 3):
            request = asyncio.create_task(client.patch_twin_reported_properties({"n": connects}))
            await asyncio.sleep_ms(200)  # it is on its way, and its answer takes longer
            link = client._link  # a token of 40 s is due
            link.renew_ms = 30000
            link._issued_ticks = client.clock.ticks_add(client.clock.ticks_ms(), -30000)
            renewal = asyncio.create_task(client._renew())
            try:
                await request
            except Exception as error:
                failed += 1
                out(repr(error))
            while client.stats["connects"] == connects:
                await asyncio.sleep_ms(20)
            renewal.cancel()
    out(failed)
asyncio.run(main())
"""


def test_a_planned_renewal_lets_twin_requests_end(device, emu):
    emu.fault(
        {
            "action": "delay",
            "packet": "PUBLISH",
            "direction": "out",
            "device": "renewing",
            "seconds": 0.5,
            "count": 0,
        }
    )  # so that a request is always on its way
    with device.start(RENEWING, "renewing") as process:
        assert process.wait(50) == 0, process.text
    emu.clear_faults("renewing")
    assert outputs(process.output)[-1] == [0], process.text


PLAIN = """
from collections import namedtuple
from azure_iot import IoTHubDeviceClient, Message, SasProvider
class Thing:
    pass
async def main():
    made = []
    def provide(resource, expiry):
        made.append(expiry)
        from azure_iot import sas
        import binascii
        return sas.token(resource, expiry, lambda data: sas.hmac_sha256(
            binascii.a2b_base64(F["key"]), data))
    client = IoTHubDeviceClient.from_credential(SasProvider(provide), "localhost", F["device_id"],
        roots=roots, port=F["port"], fleet_size_hint=1)
    loop = []
    loop.append(loop)
    bodies = {"set": {1, 2}, "thing": Thing(), "nan": float("nan"), "bytes": b"a", "loop": loop,
        "named": namedtuple("N", ("a", "b"))(1, "x"),
        "good": {"a": [1, 2.5, None, True, "x"]}}
    client.on_method("plain", lambda payload: (200, {"got": payload}))
    client.on_method("body", lambda payload: (200, bodies[payload]))
    got = []
    client.on_c2d(lambda message: got.append(message.data))
    async with client:
        out("up", len(made) > 0)
        for bad in ({"t": float("inf")}, [Thing()], {"b": b"x"}, loop):
            try:
                await client.send_message(bad)
            except ValueError as error:
                out("refused", str(error))
        try:
            await client.patch_twin_reported_properties({"t": float("nan")})
        except ValueError as error:
            out("refused", str(error))
        for bad in (bytearray(b"x"), Message({"t": 1})):
            try:
                await client.send_message(bad)
            except TypeError as error:
                out("refused", str(error))
        while len(got) < 2:
            await asyncio.sleep_ms(20)
        out("c2d", got)
        await asyncio.sleep(1)
asyncio.run(main())
"""


def test_handlers_may_be_plain_functions_and_what_is_no_json_is_not_sent(device, emu):
    record = emu.add_device("plain")
    facts = {"key": record.primary_key, "cs": record.connection_string}
    with device.start(PLAIN, "plain", **facts) as process:
        process.wait_for('"up", true', 20)
        for n in range(6):  # more than there are places
            answer = emu.invoke_method("plain", "plain", n, timeout_s=10)
            assert (answer.status, answer.payload) == (200, {"got": n})
        for name in ("set", "thing", "nan", "bytes", "loop", "named"):
            answer = emu.invoke_method("plain", "body", name, timeout_s=10)
            assert answer.status == 500 and answer.payload == {"error": "the answer is no JSON"}
        answer = emu.invoke_method("plain", "body", "good", timeout_s=10)
        assert answer.payload == {"a": [1, 2.5, None, True, "x"]}
        emu.send_c2d("plain", b"1")
        emu.send_c2d("plain", b"2")
        assert process.wait(20) == 0, process.text
    found = outputs(process.output)
    refused = [text for word, text in found if word == "refused"]
    assert len(refused) == 7 and all("JSON" in text or "a body of" in text for text in refused), (
        refused
    )
    assert not emu.messages("plain")
    assert len([o for o in found if o[0] == "c2d"]) == 1


LEFT = """
from azure_iot import IoTHubDeviceClient
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"],
        inbox_size=3)
    seen = []
    async def handle(message):
        await asyncio.sleep_ms(20)
        seen.append(message.data.decode())
    async def iterate():
        async for message in messages:
            await handle(message)
    if F["iterates"]:
        messages = client.c2d_messages()
    else:
        client.on_c2d(handle)
    async with client:
        if F["iterates"]:
            task = asyncio.create_task(iterate())
        await client.get_twin()
        out("ready")
        while len(seen) < 11:
            await asyncio.sleep_ms(20)
        await asyncio.sleep_ms(500)
        out(seen, client.stats["c2d_drops"] > 0, client.stats["connects"])
asyncio.run(main())
"""


@pytest.mark.parametrize("iterates", [False, True])
def test_what_found_no_room_is_fetched_from_the_hub_in_its_order(device, emu, iterates):
    name = "left-%s" % iterates
    with device.start(LEFT, name, iterates=iterates, limit=30) as process:
        process.wait_for("ready", 20)
        for n in range(11):
            emu.send_c2d(name, b"%d" % n)
        assert process.wait(15) == 0, process.text
    seen, dropped, connects = outputs(process.output)[-1]
    assert seen == [str(n) for n in range(11)]
    assert dropped and connects <= 4
    assert not emu.emulator.hub.registry.get(name).queue.letters


FAILS = """
from azure_iot import IoTHubDeviceClient
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"])
    times = []
    def handle(message):
        times.append(client.clock.ticks_ms())
        if len(times) < 4:
            raise ValueError("not now")
        out("handled", message.data.decode())
    client.on_c2d(handle)
    async with client:
        usual, client._c2d.pause_ms = client._c2d.pause_ms, 300
        out("ready")
        while len(times) < 4:
            await asyncio.sleep_ms(20)
        await asyncio.sleep_ms(300)
        out([b - a for a, b in zip(times, times[1:])], usual, client._c2d.pause_ms)
asyncio.run(main())
"""


def test_a_failed_message_is_fetched_again_after_a_growing_pause(device, emu):
    with device.start(FAILS, "fails", limit=30) as process:
        process.wait_for("ready", 20)
        emu.send_c2d("fails", b"x")
        assert process.wait(20) == 0, process.text
    _, handled, (pauses, usual, now) = outputs(process.output)
    assert handled == ["handled", "x"]
    for n, pause in enumerate(pauses):
        assert 300 << n <= pause < (300 << n) + 1000, pauses
    assert usual == now == 15000
    assert not emu.emulator.hub.registry.get("fails").queue.letters


LARGE = """
from azure_iot import IoTHubDeviceClient
class Sink:
    def __init__(self):
        self.size = 0
        out("opened")
    def write(self, part):
        self.size += len(part)
    def close(self):
        pass
    abort = close
async def main():
    client = IoTHubDeviceClient.from_connection_string(F["cs"], roots=roots, port=F["port"],
        inbox_size=1, fleet_size_hint=1)
    seen = []
    async def handle(message):
        await asyncio.sleep_ms(100)
        seen.append(message.message_id)
    client.on_c2d(handle, sink=lambda message, size: Sink())
    async with client:
        await client.get_twin()
        out("ready")
        while len(seen) < 4:
            await asyncio.sleep_ms(20)
        await asyncio.sleep_ms(300)
    out(seen)
asyncio.run(main())
"""


def test_a_large_message_without_room_stays_at_the_hub_before_its_sink_is_opened(device, emu):
    with device.start(LARGE, "large-left") as process:
        process.wait_for("ready", 20)
        for n in range(4):
            emu.send_c2d("large-left", bytes(6000), message_id=f"m{n}")
        assert process.wait(20) == 0, process.text
    found = outputs(process.output)
    assert found[-1] == [["m0", "m1", "m2", "m3"]]
    assert found.count(["opened"]) == 4
    assert not emu.emulator.hub.registry.get("large-left").queue.letters
