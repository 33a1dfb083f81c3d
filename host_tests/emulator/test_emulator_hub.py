"""Hub semantics over real packets: credentials, twin, methods, C2D, modules, limits, switches."""

from __future__ import annotations

import concurrent.futures
import json
import random
import time
from contextlib import contextmanager

import pytest
from emulator.conftest import make_device
from support import wire
from support.wire import puback, publish, subscribe, token
from taproot.emulator import EmulatorConfig, running
from taproot.emulator.c2d import QueueFull, TooLarge
from taproot.emulator.hub import Limits, Reactions
from taproot.emulator.registry import RegistryError
from taproot.emulator.twin import Twin, TwinError

TWIN = "$iothub/twin/res/#"
METHODS = "$iothub/methods/POST/#"
DESIRED = "$iothub/twin/PATCH/properties/desired/#"
VERSION = "?api-version=2021-04-12"


@contextmanager
def hub_with(**settings):
    """A hub of its own, and a device on it."""
    with running(EmulatorConfig(plain_port=0, https_port=None, **settings)) as emu:
        maker = make_device(emu, "d")
        yield emu, next(maker)
        next(maker, None)


def refused(hub, since, data):
    """Send a CONNECT that must be refused; return (code, reason)."""
    with wire.Wire.plain(hub.plain_port) as link:
        link.send(data)
        [(first, body)] = link.closed()
    [event] = [e for e in since("connack") if e["code"]]
    assert (first, body) == (0x20, bytes([0, event["code"]]))
    return event["code"], event["reason"]


# -- CONNECT ---------------------------------------------------------------------------------


def bad_logins():
    """(name, function of (host, record, other key) -> keyword arguments of connect, reason)."""
    resource = "{0}/devices/{1}".format

    def login(make):
        return lambda host, d, other: {
            "username": f"{host}/{d.id}/{VERSION}",
            "password": make(host, d, other),
        }

    return [
        ("wrong key", login(lambda h, d, k: token(resource(h, d.id), k)), "signature does not match"),
        ("other device", login(lambda h, d, k: token(resource(h, d.id + "x"), d.primary_key)), "another resource"),
        ("other hub", login(lambda h, d, k: token(resource("other", d.id), d.primary_key)), "another resource"),
        ("expired", login(lambda h, d, k: token(resource(h, d.id), d.primary_key, -5)), "expired"),
        ("no token", login(lambda h, d, k: "hello"), "not a shared access signature"),
        ("not text", login(lambda h, d, k: b"\xff\xfe"), "not text"),
        ("empty", login(lambda h, d, k: ""), "no password"),
        ("service policy", login(lambda h, d, k: token(h, d.primary_key, policy="service")), "policy 'service' may not"),
        ("unknown policy", login(lambda h, d, k: token(h, d.primary_key, policy="boss")), "policy 'boss' may not"),
        ("twice se", login(lambda h, d, k: token(resource(h, d.id), d.primary_key) + "&se=9"), "malformed"),
        ("no signature", login(lambda h, d, k: "SharedAccessSignature sr=a&se=1"), "without sig"),
        ("no user name", lambda h, d, k: {}, "user name"),
        ("other host name", lambda h, d, k: {"username": f"other/{d.id}/{VERSION}", "password": "x"}, "this hub is not 'other'"),
        ("version", lambda h, d, k: {**wire.credentials(h, d.id, d.primary_key, query="api-version=1999")}, "unknown api-version"),
        ("client id", lambda h, d, k: {**wire.credentials(h, d.id + "x", d.primary_key)}, "not that of the user name"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "make,reason", [r[1:] for r in bad_logins()], ids=[r[0] for r in bad_logins()]
)
@pytest.mark.requirement("H1", "H2", "H3", "F7")
def test_a_bad_login_is_connack_5(hub, device, since, make, reason):
    """Every failure of a credential is CONNACK 5, and the event says why without the secret."""
    other = hub.add_device(f"{device.id}-other").primary_key
    data = wire.connect(device.id, **make(hub.host, device.record, other))
    code, text = refused(hub, since, data)
    assert code == 5 and reason in text
    assert device.key not in json.dumps(since()) and "sig=" not in json.dumps(since())


@pytest.mark.requirement("H3", "H4")
def test_good_tokens(hub, device):
    """Secondary key, policies, a prefix of the resource, fields in any order, raw sr."""
    record, host = device.record, hub.host
    resource = f"{host}/devices/{device.id}"
    policies = hub.emulator.hub.registry.policies
    for password in (
        token(resource, record.secondary_key),
        token(host, policies["device"].primary_key, policy="device"),
        token(f"{host}/devices", policies["iothubowner"].secondary_key, policy="iothubowner"),
        token(resource.replace("localhost", "LOCALHOST"), record.primary_key),
    ):
        device.connect(password=password).close()
    head, fields = token(resource, record.primary_key).split(" ")
    device.connect(password=f"{head} {'&'.join(reversed(fields.split('&')))}").close()


@pytest.mark.requirement("H3")
def test_a_prefix_counts_by_segment(hub, device, since):
    """A token for `.../dev` does not cover `.../dev1`."""
    short = token(f"{hub.host}/devices/{device.id[:-1]}", device.key)
    device.connect(password=short, code=5)


@pytest.mark.requirement("H5")
def test_disabled_and_removed_devices(hub, device, since):
    """Disabling or removing ends the connection; then CONNACK 5."""
    link = device.connect()
    hub.set_enabled(device.id, False)
    assert link.closed() == []
    device.connect(code=5)
    hub.set_enabled(device.id, True)
    link = device.connect()
    hub.remove_device(device.id)
    assert link.closed() == []
    device.connect(code=5)


@pytest.mark.requirement("H6", "C3")
def test_the_connection_ends_with_its_token(hub, device, since):
    """Real seconds, and by the emulator's clock moved ahead."""
    start = time.monotonic()
    link = device.connect(ttl=2)
    assert link.closed(4) == [] and 0.9 < time.monotonic() - start < 2.6
    link = device.connect(ttl=3600)
    hub.advance_clock(3601)
    try:
        assert link.closed(2) == []
    finally:
        hub.advance_clock(-3601)
    assert [e["code"] for e in since("log")] == [401003, 401003]


@pytest.mark.requirement("H1")
@pytest.mark.parametrize(
    "reaction,accepted,events", [("report", True, 1), ("accept", True, 0), ("refuse", False, 0)]
)
def test_missing_api_version_is_a_switch(reaction, accepted, events):
    """What the hub does is not known: accepted and reported by default."""
    with hub_with(reactions=Reactions(missing_api_version=reaction)) as (emu, device):
        device.connect(query="", code=0 if accepted else 5)
        rules = [e["rule"] for e in emu.events() if e["type"] == "strictness"]
        assert rules == ["hub-api-version"] * events


@pytest.mark.requirement("H1", "D6")
def test_preview_versions_connect_and_their_features_need_the_switch(hub, device):
    """`2025-08-01-preview` connects everywhere; certificates are asked for where preview is on."""
    device.connect(query="api-version=2025-08-01-preview").close()
    with hub_with() as (_, other):
        link = other.connect(query="api-version=2025-08-01-preview")
        link.send(subscribe(1, ("$iothub/credentials/res/#", 0)))
        assert link.expect(wire.SUBACK)[1][2:] == b"\x80"
        other.connect(query="api-version=2025-08-02-preview", code=5)


# -- subscriptions ---------------------------------------------------------------------------


@pytest.mark.requirement("H11")
def test_a_sixth_subscription_is_refused():
    """Five at a time; replacing one is no sixth; UNSUBSCRIBE makes room."""
    with hub_with(limits=Limits(subscriptions=2)) as (_, device):
        link = device.connect()
        link.send(subscribe(1, (TWIN, 0), (DESIRED, 0), (METHODS, 0), (TWIN, 1)))
        assert link.expect(wire.SUBACK)[1][2:] == bytes([0, 0, 0x80, 1])
        link.send(wire.unsubscribe(2, DESIRED), subscribe(3, (METHODS, 0)))
        link.expect(wire.UNSUBACK)
        assert link.expect(wire.SUBACK)[1][2:] == b"\0"


@pytest.mark.requirement("H11")
@pytest.mark.parametrize("reaction", ["unknown_filter", "too_many_filters", "unknown_topic"])
def test_unknown_reactions_are_switches(reaction):
    """Close instead of 0x80, ignore instead of close."""
    other = "ignore" if reaction == "unknown_topic" else "close"
    settings = Reactions(**{reaction: other})
    with hub_with(reactions=settings, limits=Limits(subscriptions=1)) as (_, device):
        link = device.connect()
        if reaction == "unknown_topic":
            link.send(publish("no/such/topic", b"", 1, 1))
            assert link.expect(wire.PUBACK)
            return
        filters = [("a/#", 0)] if reaction == "unknown_filter" else [(TWIN, 0), (DESIRED, 0)]
        link.send(subscribe(1, *filters))
        assert link.closed() == []


def test_another_devices_filter_is_unknown(hub, device):
    """A device cannot listen to another one."""
    link = device.connect()
    link.send(subscribe(1, ("devices/somebody/messages/devicebound/#", 1)))
    assert link.expect(wire.SUBACK)[1][2:] == b"\x80"


# -- telemetry -------------------------------------------------------------------------------


@pytest.mark.requirement("H13", "H14")
def test_telemetry_properties(hub, device):
    """System and application properties, both spellings, null and empty, RETAIN."""
    link = device.connect()
    tails = [
        "%24.ct=application%2Fjson&%24.ce=utf-8&a=b%20c&n&e=&p=1%2B1",
        "?$.ct=text&$.mid=7/",
        "",
    ]
    for tail in tails:
        link.send(publish(device.events + tail, b"{}", 0))
    link.send(publish(device.events[:-1], b"bare", 1, 1, retain=True))
    link.expect(wire.PUBACK)
    first, second, third, bare = hub.messages(device.id)
    assert first.properties == {"a": "b c", "n": None, "e": "", "p": "1+1"}
    assert first.system["content-type"] == "application/json" and first.json() == {}
    assert second.system["message-id"] == "7" and second.properties == {}
    assert third.properties == {}
    assert (bare.body, bare.properties) == (b"bare", {"mqtt-retain": "true"})


@pytest.mark.requirement("H19")
def test_a_message_above_256_kb_closes(hub, device):
    """262,144 bytes pass, one more does not."""
    link = device.connect()
    link.send(publish(device.events, bytes(262_144), 1, 1))
    link.expect(wire.PUBACK)
    link.send(publish(device.events, bytes(262_145), 1, 2))
    assert link.closed() == []
    assert [len(m.body) for m in hub.messages(device.id)] == [262_144]


@pytest.mark.requirement("H19")
def test_throttling(device):
    """Telemetry waits, twin requests get 429, connects are refused."""
    limits = Limits(d2c_per_second=5, twin_per_second=2, connects_per_second=3)
    with hub_with(limits=limits) as (_, one):
        link = one.connect()
        start = time.monotonic()
        link.send(*(publish(one.events, b"x", 1, n) for n in range(1, 9)))
        order = [link.expect(wire.PUBACK)[1][1] for _ in range(8)]
        assert order == list(range(1, 9)) and time.monotonic() - start > 0.45
        link.send(
            subscribe(1, (TWIN, 0)), *(publish(f"$iothub/twin/GET/?$rid={n}") for n in range(4))
        )
        link.expect(wire.SUBACK)
        statuses = [link.delivery()[0].split("/")[3] for _ in range(4)]
        assert statuses == ["200", "200", "429", "429"]
        codes = []
        for _ in range(4):
            again = one.connect(code=None)
            codes.append(again.expect(wire.CONNACK)[1][1])
        assert 3 in codes and codes[0] == 0


# -- twin ------------------------------------------------------------------------------------


def twin_link(device, *filters):
    """A connection that listens to twin replies."""
    link = device.connect()
    link.send(subscribe(1, (TWIN, 0), *((f, 0) for f in filters)))
    link.expect(wire.SUBACK)
    return link


@pytest.mark.requirement("H15")
def test_twin_get_and_patch(hub, device):
    """rid echoed byte for byte, versions, null deletes, an empty body on 204."""
    link = twin_link(device)
    rid = "%41;x=-~1"
    link.send(publish(f"$iothub/twin/GET/?$rid={rid}", b" "))
    topic, body, _, _ = link.delivery()
    assert topic == f"$iothub/twin/res/200/?$rid={rid}"
    assert json.loads(body) == {"desired": {"$version": 1}, "reported": {"$version": 1}}
    for number, patch in enumerate(
        [{"a": {"b": 1, "c": 2}, "x": [1, {"y": 2}]}, {"a": {"b": None}}]
    ):
        link.send(
            publish(
                f"$iothub/twin/PATCH/properties/reported/?$rid=p{number}",
                json.dumps(patch).encode(),
            )
        )
        assert link.delivery()[:2] == (
            f"$iothub/twin/res/204/?$rid=p{number}&$version={number + 2}",
            b"",
        )
    assert hub.twin(device.id)["properties"]["reported"]["a"] == {"c": 2}
    metadata = hub.twin(device.id)["properties"]["reported"]["$metadata"]
    assert set(metadata["a"]) == {"$lastUpdated", "c"}


@pytest.mark.requirement("H15", "H16", "H19")
@pytest.mark.parametrize(
    "body,status",
    [
        (b"{", "400"), (b"[1]", "400"), (b"", "400"), (b"\xff", "400"), (b'{"a.b":1}', "400"),
        (b'{"$x":1}', "400"), (b'{"a b":1}', "400"), (b'{"a":[null]}', "400"),
        (json.dumps({"a": "x" * 4097}).encode(), "400"), (b'{"a":4503599627370497}', "400"),
        (b'{"a":' * 11 + b"1" + b"}" * 11, "400"), (b"[" * 100_000, "400"), (b'{"a":NaN}', "400"),
        (json.dumps({f"k{n}": "x" * 4000 for n in range(9)}).encode(), "413"),
    ],
)  # fmt: skip
def test_a_patch_the_twin_cannot_hold(hub, device, body, status):
    """Refused with a status and an error body; nothing changes, the connection stays."""
    link = twin_link(device)
    link.send(publish("$iothub/twin/PATCH/properties/reported/?$rid=1", body))
    topic, answer, _, _ = link.delivery()
    assert topic == f"$iothub/twin/res/{status}/?$rid=1" and json.loads(answer)["message"]
    assert hub.twin(device.id)["properties"]["reported"]["$version"] == 1
    link.ping()


@pytest.mark.requirement("H16")
def test_ten_levels_are_allowed():
    """The limit is on the eleventh."""
    twin = Twin(time.time)
    deep = {"v": 1}
    for _ in range(9):
        deep = {"l": deep}
    twin.reported.patch(deep)
    with pytest.raises(TwinError, match="deeper"):
        twin.reported.patch({"l": deep})


@pytest.mark.requirement("H16")
def test_desired_push(hub, device):
    """Sent while connected and subscribed, with the version; the patch and no more."""
    hub.patch_desired(device.id, {"old": 1})
    link = twin_link(device, DESIRED)
    version = hub.patch_desired(device.id, {"a": {"b": 1}, "old": None})
    topic, body, _, _ = link.delivery()
    assert topic == f"$iothub/twin/PATCH/properties/desired/?$version={version}"
    assert json.loads(body) == {"a": {"b": 1}, "old": None, "$version": version}
    link.send(publish("$iothub/twin/GET/?$rid=1", b" "))
    assert json.loads(link.delivery()[1])["desired"] == {"a": {"b": 1}, "$version": version}


def test_twin_request_without_rid_closes(device):
    """The hub has nobody to answer."""
    link = twin_link(device)
    link.send(publish("$iothub/twin/GET/", b" "))
    assert link.closed() == []


def test_replies_never_cross(hub, device):
    """Two devices with the same filter and the same rid: each gets its own."""
    other = hub.add_device(f"{device.id}-b")
    hub.patch_desired(other.id, {"who": "b"})
    first = twin_link(device)
    second = wire.Wire.plain(hub.plain_port)
    second.send(wire.connect(other.id, **wire.credentials(hub.host, other.id, other.primary_key)))
    second.send(subscribe(1, (TWIN, 0)), publish("$iothub/twin/GET/?$rid=1"))
    second.expect(wire.CONNACK), second.expect(wire.SUBACK)
    assert json.loads(second.delivery()[1])["desired"]["who"] == "b"
    first.ping()
    second.close()


# -- methods ---------------------------------------------------------------------------------


@pytest.mark.requirement("H17")
def test_methods(hub, device):
    """Answer, device status, no body, time-out, not connected, late and foreign answers."""
    assert hub.invoke_method(device.id, "m", timeout_s=1).hub_status == 404
    link = device.connect()
    link.send(subscribe(1, (METHODS, 0)))
    link.expect(wire.SUBACK)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        call = pool.submit(hub.invoke_method, device.id, "go", {"x": 1}, 5)
        topic, body, _, _ = link.delivery()
        assert topic.startswith("$iothub/methods/POST/go/?$rid=") and json.loads(body) == {"x": 1}
        rid = topic.split("$rid=")[1]
        link.send(publish("$iothub/methods/res/200/?$rid=zz", b"{}"))  # nobody waits for it
        link.send(publish(f"$iothub/methods/res/418/?$rid={rid}", b'{"tea":true}'))
        result = call.result(5)
        assert (result.hub_status, result.status, result.payload) == (200, 418, {"tea": True})
        call = pool.submit(hub.invoke_method, device.id, "none", None, 5)
        topic, body, _, _ = link.delivery()
        assert body == b""
        link.send(publish("$iothub/methods/res/200/?$rid=" + topic.split("$rid=")[1]))
        assert call.result(5).payload is None
        call = pool.submit(hub.invoke_method, device.id, "bad", None, 5)
        topic, *_ = link.delivery()
        link.send(publish("$iothub/methods/res/200/?$rid=" + topic.split("$rid=")[1], b"{"))
        assert call.result(5).hub_status == 502
        result = hub.invoke_method(device.id, "slow", timeout_s=0.3)
        assert (result.hub_status, result.error["errorCode"]) == (504, 504101)
        link.delivery()
    assert hub.invoke_method(device.id, "big", "x" * 131_073).hub_status == 413
    for name in ("a+b", "#", "a/b", "", "a\n"):
        with pytest.raises(ValueError, match="no method can be named"):
            hub.invoke_method(device.id, name)
    link.send(publish("$iothub/methods/res/good/?$rid=1"))
    assert link.closed() == []


@pytest.mark.requirement("H17")
def test_a_method_waits_for_the_device_to_connect(hub, device):
    """With a connect time-out the call is sent as soon as the device has subscribed."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        call = pool.submit(hub.invoke_method, device.id, "late", None, 5, 5)
        time.sleep(0.2)
        link = device.connect()
        link.send(subscribe(1, (METHODS, 0)))
        link.expect(wire.SUBACK)
        topic, *_ = link.delivery()
        link.send(publish("$iothub/methods/res/200/?$rid=" + topic.split("$rid=")[1]))
        assert call.result(5).ok


# -- cloud to device -------------------------------------------------------------------------


def listen(device, clean=False, qos=1):
    """A connection that listens to its messages."""
    link = device.connect(clean=clean)
    link.send(subscribe(1, (device.inbox, qos)))
    link.expect(wire.SUBACK)
    return link


@pytest.mark.requirement("H10")
def test_c2d_bag(hub, device):
    """System keys are written %24, values are percent-encoded, null has no equals sign."""
    link = listen(device)
    number = hub.send_c2d(device.id, b"\0\xff", {"a b": "c&d", "none": None, "empty": ""})
    topic, body, pid, _ = link.delivery()
    bag = topic.split("/devicebound/")[1]
    assert body == b"\0\xff" and bag == (
        f"%24.mid={number}&%24.to=%2Fdevices%2F{device.id}%2Fmessages%2Fdevicebound"
        "&a%20b=c%26d&none&empty="
    )
    link.send(puback(pid))


@pytest.mark.requirement("H9", "H10")
def test_c2d_queue(hub, device):
    """Nothing before the first session; kept offline afterwards; 50 at most; clean drops them."""
    hub.send_c2d(device.id, "too early")
    listen(device).close()
    hub.wait_for(lambda e: e["type"] == "disconnect" and e.get("identity") == device.id)
    for n in range(50):
        hub.send_c2d(device.id, f"{n}")
    with pytest.raises(QueueFull):
        hub.send_c2d(device.id, "51")
    link = device.connect(clean=False)
    got = [link.delivery() for _ in range(50)]
    assert [body for _, body, _, _ in got] == [b"%d" % n for n in range(50)]
    link.send(*(puback(pid) for _, _, pid, _ in got[:49]))
    link.ping()
    link.close()
    listen(device, clean=True).ping()
    assert not device.record.queue.letters


@pytest.mark.requirement("H9")
def test_clean_session_may_keep_the_queue():
    """The other variant of what the sources say, behind its switch."""
    with hub_with(reactions=Reactions(clean_session_drops_c2d=False)) as (emu, device):
        listen(device).close()
        emu.wait_for(lambda e: e["type"] == "disconnect")
        emu.send_c2d("d", "kept")
        link = listen(device, clean=True)
        assert link.delivery()[1] == b"kept"


@pytest.mark.requirement("H10")
def test_c2d_time_to_live_and_feedback(hub, device):
    """Expired messages go, with feedback for those who asked."""
    listen(device).close()
    hub.wait_for(lambda e: e["type"] == "disconnect" and e.get("identity") == device.id)
    hub.send_c2d(device.id, "a", ttl=10, ack="negative", message_id="m1")
    hub.send_c2d(device.id, "b", ttl=10)
    hub.send_c2d(device.id, "c", ttl=1000, ack="full", message_id="m3")
    hub.advance_clock(11)
    try:
        link = device.connect(clean=False)
        topic, body, pid, _ = link.delivery()
        assert body == b"c" and "iothub-ack=full" in topic
        link.send(puback(pid))
        link.ping()
    finally:
        hub.advance_clock(-11)
    feedback = [(f["originalMessageId"], f["statusCode"]) for f in device.record.queue.feedback]
    assert feedback == [("m1", "Expired"), ("m3", "Success")]


@pytest.mark.requirement("H10")
def test_c2d_gives_up_after_ten_deliveries():
    """A device that never acknowledges does not get a message for ever."""
    with hub_with(limits=Limits(c2d_deliveries=3)) as (emu, device):
        listen(device).close()
        emu.wait_for(lambda e: e["type"] == "disconnect")
        emu.send_c2d("d", "poison", ack="negative", message_id="p")
        for n in range(3):
            link = device.connect(clean=False)
            assert link.delivery()[3] == (0x3A if n else 0x32)
            link.close()
        device.connect(clean=False).ping()
        [feedback] = device.record.queue.feedback
        assert feedback["statusCode"] == "DeliveryCountExceeded"


def test_c2d_at_qos_0(hub, device):
    """Sent once, done at once."""
    link = listen(device, qos=0)
    hub.send_c2d(device.id, "x")
    assert link.delivery()[2:] == (0, 0x30)
    assert not device.record.queue.letters


@pytest.mark.requirement("H19")
def test_c2d_size(hub, device):
    """64 KB with the properties."""
    link = listen(device)
    with pytest.raises(TooLarge):
        hub.send_c2d(device.id, bytes(65_536))
    hub.send_c2d(device.id, bytes(65_000))
    assert len(link.delivery()[1]) == 65_000


# -- modules ---------------------------------------------------------------------------------


@pytest.mark.requirement("H18", "H4")
def test_modules(hub, device):
    """Own login, own twin, own methods, inputs; the device's key does not fit."""
    name = f"{device.id}/mod"
    maker = make_device(hub, name)
    module = next(maker)
    assert "ModuleId=mod" in module.record.connection_string
    link = module.connect()
    root = f"devices/{device.id}/modules/mod/"
    link.send(subscribe(1, (TWIN, 0), (root + "inputs/#", 1), (device.inbox, 1), (METHODS, 0)))
    assert link.expect(wire.SUBACK)[1][2:] == bytes([0, 1, 0x80, 0])
    link.send(publish(f"{root}messages/events/$.on=out1&k=v", b"x", 1, 1))
    link.expect(wire.PUBACK)
    [message] = hub.messages(name)
    assert (message.device, message.module) == (device.id, "mod")
    assert message.system["iothub-outputname"] == "out1" and message.properties == {"k": "v"}
    assert hub.messages(device.id) == []
    assert hub.call(hub.emulator.hub.send_input, name, "in1", b"data", {"p": "q"})
    assert link.delivery()[:2] == (f"{root}inputs/in1/p=q", b"data")
    hub.patch_desired(name, {"m": 1})
    assert "m" not in hub.twin(device.id)["properties"]["desired"]
    module.connect(
        password=token(f"{hub.host}/devices/{device.id}/modules/mod", device.key), code=5
    )
    link = module.connect()
    hub.set_enabled(device.id, False)
    assert link.closed() == []
    next(maker, None)


# -- the registry ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "identity,facts,status",
    [
        ("", {}, 400), ("a b", {}, 400), ("x" * 129, {}, 400), ("no-such-device/m", {}, 404),
        ("ok", {"auth": "magic"}, 400), ("ok", {"primary_key": "%%%"}, 400),
        ("ok", {"primary_key": "eA=="}, 400), ("ok", {"auth": "x509_thumbprint"}, 400),
        ("ok", {"auth": "x509_thumbprint", "thumbprints": ["zz"]}, 400),
    ],
)  # fmt: skip
def test_the_registry_refuses(hub, identity, facts, status):
    """Wrong names, keys and kinds, each with the status REST answers."""
    with pytest.raises(RegistryError) as caught:
        hub.add_device(identity, **facts)
    assert caught.value.status == status


def test_a_device_is_registered_once(hub, device):
    """409 on the second time."""
    with pytest.raises(RegistryError) as caught:
        hub.add_device(device.id)
    assert caught.value.status == 409


# -- hostile devices -------------------------------------------------------------------------


@pytest.mark.timeout(400)
def test_any_publish_and_subscribe_is_answered_or_closes(hub, count):
    """Well-formed packets with hostile content: the hub answers or closes, and never fails inside.

    A failure inside ends the module's emulator with an error, whatever the device sees.
    """
    source = random.Random(41)
    maker = make_device(hub, "hostile")
    device = next(maker)
    pieces = ["devices/hostile/messages/events/", "$iothub/twin/GET/", "$iothub/twin/PATCH/properties/reported/",
              "$iothub/methods/res/", "$iothub/credentials/POST/issueCertificate/", "?$rid=", "200", "-1", "/", "&",
              "=", "%", "%zz", "%24.ct", "\u20ac", "9" * 400, "$version=x", "$rid", "modules/m/", "$.exp=", ";"]  # fmt: skip
    bodies = [b"", b" ", b"null", b"1", b'"x"', b"{}", b'{"a":1}', b'{"$version":5}', b"[]", b"\xff", b"{" * 2000,
              b'{"a":' * 500, b'{"a":1e999}', b'{"a":-0}', b'{"\\ud800":1}', b'{"a":"\\ud800"}', b'{"":1}']  # fmt: skip
    filters = [
        TWIN,
        DESIRED,
        METHODS,
        device.inbox,
        "#",
        "+/+",
        "$iothub/credentials/res/#",
        "$share/x/y",
    ]
    link, closes = None, 0
    for number in range(1, count(1500, 50_000)):
        if link is None:
            link = device.connect(query="api-version=2025-08-01-preview")
            closes += 1
        topic = "".join(source.choices(pieces, k=source.randrange(1, 6)))
        if source.randrange(4) == 0:
            topic = source.choice(pieces[:5]) + "?$rid=" + topic
        data = publish(topic[:60_000], source.choice(bodies), 1, number % 60_000 + 1)
        if source.randrange(5) == 0:
            data = subscribe(number % 60_000 + 1, (source.choice(filters), source.randrange(3)))
        try:
            link.send(data)
            while link.take()[0] >> 4 not in (wire.PUBACK, wire.SUBACK):
                pass
        except (OSError, wire.Closed):
            link.close()
            link = None
    assert closes > 10
    next(maker, None)
    assert hub.emulator.internal_errors == []
