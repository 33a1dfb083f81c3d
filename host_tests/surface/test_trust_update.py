"""A device that follows its operator through a root migration, and one that does not."""

import contextlib
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.surface import outputs
from taproot.emulator import EmulatorConfig, running
from taproot.emulator.downloads import Download
from taproot.emulator.ignoring import ignoring_front
from taproot.pki import Authority
from taproot.trust import package as packages
from taproot.trust.fleet import Fleet

PROGRAM = """
from azure_iot.agent import Agent
from azure_iot.unix.platform import Platform
async def main():
    agent = Agent(Platform({
        "connection_string": F["cs"], "factory_folder": "factory", "trust_folder": "trust",
        "update_agent": F["update_agent"], "client": {"port": F["port"], "fleet_size_hint": 1}}))
    client = await agent.start()
    def event(name, fact):
        out(name, str(fact), getattr(fact, "code", None))
    client.on_event = event
    number = 0
    while True:
        await client.send_message(b"%d" % number, wait=False)
        number += 1
        await asyncio.sleep_ms(20)
asyncio.run(main())
"""


POST = """
from azure_iot import IoTHubDeviceClient
from azure_iot.bringup import open_trust
from azure_iot.clock import default
from azure_iot.errors import AzureIoTError
from azure_iot.trust.errors import RefusedError
from azure_iot.trust.files import FileSource
from azure_iot.updater import Updater
from azure_iot.upload import Uploader
async def main():
    trust = open_trust({"factory_folder": "factory", "trust_folder": "trust"}, default())
    trust.install(FileSource("package.json"), "url")
    client = IoTHubDeviceClient.from_connection_string(
        F["cs"], trust=trust, port=F["port"], https_port=F["https"])
    uploader = Uploader(client)
    await uploader.send_message("by post")
    out(trust.store.state.tries, client._link.attempt.source)
    updater = Updater(trust, lambda n: 0, ({}, None, None))
    for work in (uploader._blob("https://store.example/b", b"x"),
                 updater._download("http://files.example/p.json", None)):
        try:
            await work
        except RefusedError as error:
            out(error.code)
asyncio.run(main())
"""


JUDGE = """
from azure_iot.bringup import open_trust
from azure_iot.clock import default
from azure_iot.trust.errors import RefusedError
from azure_iot.trust.files import FileSource
for dps in ({}, {"dps": {}}):
    config = {"factory_folder": "factory", "trust_folder": "trust%d" % len(dps)}
    config.update(dps)
    trust = open_trust(config, default())
    for name in ("unreadable.json", "hub.json"):
        try:
            out(trust.install(FileSource(name), "url"))
        except RefusedError as error:
            out(error.code)
"""


def chain(name: str):
    root = Authority.root(name, key="p256")
    return root, root.intermediate(name + " ca", key="p256").leaf(
        "localhost", dns=["localhost"], key="p256"
    )


@pytest.fixture(scope="module")
def world():
    old_root, old = chain("old root")
    new_root, new = chain("new root")
    fleet = Fleet.create("demo-surface", bundle=(2, 3), root=(1, 1))
    with running(EmulatorConfig(chain=old)) as emu:
        yield emu, fleet, old_root, old, new_root, new


def until(test, process, limit=20.0):
    end = time.monotonic() + limit
    while not test():
        assert time.monotonic() < end and process.running, process.text[-4000:]
        time.sleep(0.05)


@pytest.mark.requirement("R-19", "R-38")
@pytest.mark.parametrize("channel", ["url", "twin"])
def test_a_device_installs_a_bundle_and_survives_the_switch(tmp_path, world, channel, hub_root):
    from support.surface import Device

    emu, fleet, old_root, old, new_root, new = world
    emu.switch_chain(old)
    name = "dev-" + channel
    hub = ("hub", "dps")
    first = fleet.bundle_jws(version=1, roots=[("old", old_root.der, hub)])
    fleet.write_factory(tmp_path / "factory", first)
    device = Device(tmp_path, emu, hub_root)
    cs = emu.add_device(name).connection_string
    with device.start(PROGRAM, name, update_agent=True, cs=cs) as process:
        reported = lambda: emu.twin(name)["properties"]["reported"].get("trust", {})  # noqa: E731
        until(lambda: reported().get("state") == "good", process)
        # a package with one signature of two is refused, and says so
        weak = fleet.bundle_jws(
            version=2, roots=[("old", old_root.der, hub)], signers=fleet.bundle_keys[:1]
        )
        bad = fleet.package(weak)
        emu.patch_desired(
            name,
            {"trust": packages.desired_url(2, bad, emu.publish_file(name + "-bad.json", bad))},
        )
        until(lambda: (reported().get("last_error") or {}).get("code") == "THRESHOLD", process)
        assert reported()["state"] == "good" and reported()["version"] == 1
        # the good one
        good = fleet.package(
            fleet.bundle_jws(
                version=2, roots=[("old", old_root.der, hub), ("new", new_root.der, hub)]
            )
        )
        if channel == "url":
            wish = packages.desired_url(2, good, emu.publish_file(name + ".json", good))
        else:
            wish = packages.desired_twin(2, good)
        emu.patch_desired(name, {"trust": wish})
        until(
            lambda: reported().get("version") == 2 and reported().get("state") == "good", process
        )
        assert reported().get("last_error") is None
        process.kill()
    with device.start(PROGRAM, name, update_agent=True, cs=cs) as process:
        # The twin still names the package: it is in use, so it is neither fetched nor judged again.
        process.wait_for('"settled"', 20)
        seen = len(emu.messages(name))
        emu.switch_chain(new, drop=True)
        until(lambda: len(emu.messages(name)) > seen + 50, process)
        until(lambda: reported().get("via") == new_root.sha256, process)
        assert "is installed" not in process.text
        process.kill()
    numbers = [int(message.body) for message in emu.messages(name)]
    assert sorted(set(numbers)) == list(range(max(numbers) + 1)), "a message was lost"


LEFTOVER = """
from azure_iot.agent import Agent
from azure_iot.managed import ManagedConnection
from azure_iot.trust.errors import RefusedError
from azure_iot.trust.parts import Parts
from azure_iot.unix.platform import Platform
async def app(client):
    for _ in range(600):
        trust = client.trust.report()
        if trust["version"] == 2 and trust["state"] == "good":
            break
        await asyncio.sleep_ms(50)
    out(trust["version"], trust["state"], Parts("trust/parts").count, len(short))
with open("package.json", "rb") as file:
    package = file.read()
parts = Parts("trust/parts")
parts.begin(F["sha256"], 2)
for number, part in enumerate((package[:2000], package[2000:])):
    parts.add(number, part)
real = ManagedConnection.install_package
short = []
async def install_package(self, source, channel):
    if len(short) < F["short"]:
        short.append(1)
        raise RefusedError("no room", "MEMORY")
    return await real(self, source, channel)
ManagedConnection.install_package = install_package
agent = Agent(Platform({
    "connection_string": F["cs"], "factory_folder": "factory", "trust_folder": "trust",
    "channels": ["c2d"], "client": {"port": F["port"], "fleet_size_hint": 1}}))
asyncio.run(agent.run(app))
"""


@pytest.mark.parametrize("short", [0, 1])
def test_a_package_in_parts_is_installed_after_a_power_cut_behind_its_last_part(
    tmp_path, world, hub_root, short
):
    """Every part was acknowledged, so the hub does not send them again; nor after a try for which
    memory was short."""
    from support.surface import Device

    emu, fleet, old_root, old, _, _ = world
    emu.switch_chain(old)
    roots = [("old", old_root.der, ("hub", "dps"))]
    fleet.write_factory(tmp_path / "factory", fleet.bundle_jws(version=1, roots=roots))
    package = fleet.package(fleet.bundle_jws(version=2, roots=roots))
    (tmp_path / "package.json").write_bytes(package)
    (tmp_path / "trust").mkdir()
    digest = hashlib.sha256(package).hexdigest()
    out = Device(tmp_path, emu, hub_root).run(
        LEFTOVER, "leftover-%d" % short, sha256=digest, short=short
    )
    assert out == [[2, "good", 0, short]]


WHOLE = """
nap = asyncio.sleep_ms
asyncio.sleep_ms = lambda ms: nap(min(ms, 200))
from azure_iot.agent import Agent
from azure_iot.managed import ManagedConnection
from azure_iot.trust.errors import RefusedError
from azure_iot.trust.files import exists
from azure_iot.unix.platform import Platform
real = ManagedConnection.install_package
short = []
async def install_package(self, source, channel):
    if len(short) < F["short"]:
        short.append(1)
        raise RefusedError("no room", "MEMORY") if len(short) % 2 else MemoryError
    return await real(self, source, channel)
ManagedConnection.install_package = install_package
async def app(client):
    for _ in range(200):
        trust = client.trust.report()
        files = [exists("trust/%s.new" % name) for name in ("c2d", "method")]
        if not any(files) and trust["state"] == "good" and client.upkeep.left is False \
                and trust["version"] == F["version"]:
            break
        await nap(50)
    out(trust["version"], trust["state"], files, len(short), (trust["last_error"] or {}).get("code"))
agent = Agent(Platform({
    "connection_string": F["cs"], "factory_folder": "factory", "trust_folder": "trust",
    "channels": F["channels"], "client": {"port": F["port"]}}))
asyncio.run(agent.run(app))
"""


@pytest.mark.parametrize(
    ("case", "channels", "short", "version"),
    [
        ("whole", ["c2d"], 0, 2),
        ("short", ["c2d"], 2, 2),
        ("too-short", ["c2d"], 3, 1),
        ("cut", ["c2d"], 0, 1),
        ("off", ["inbox"], 0, 1),
    ],
)
def test_a_package_in_one_message_is_installed_or_gone_after_a_power_cut(
    tmp_path, world, hub_root, case, channels, short, version
):
    """It was acknowledged, so it is tried as often as one in parts; a method's caller calls again."""
    from support.surface import Device

    emu, fleet, old_root, old, _, _ = world
    emu.switch_chain(old)
    roots = [("old", old_root.der, ("hub", "dps"))]
    fleet.write_factory(tmp_path / "factory", fleet.bundle_jws(version=1, roots=roots))
    package = fleet.package(fleet.bundle_jws(version=2, roots=roots))
    (tmp_path / "trust").mkdir()
    (tmp_path / "trust" / "method.new").write_bytes(package)
    (tmp_path / "trust" / "c2d.new").write_bytes(package[:1000] if case == "cut" else package)
    out = Device(tmp_path, emu, hub_root).run(
        WHOLE, "one-message-" + case, channels=channels, short=short, version=version
    )
    code = {"cut": "MALFORMED", "too-short": "MEMORY"}.get(case)
    assert out[0][:4] == [version, "good", [False, False], short]
    assert case == "too-short" or out[0][4] == code


BURST = """
from azure_iot.agent import Agent
from azure_iot.unix.platform import Platform
async def app(client):
    await client.connect(20)
    out("up")
    real, gate = client.install_package, asyncio.Event()
    async def install_package(source, channel):
        await gate.wait()
        return await real(source, channel)
    client.install_package = install_package
    while not client.upkeep.left:
        await asyncio.sleep_ms(20)
    gate.set()
    for _ in range(400):
        trust = client.trust.report()
        if trust["version"] == 3 and trust["state"] == "good":
            break
        await asyncio.sleep_ms(50)
    out(trust["version"], trust["state"], client.stats.get("handler_errors"))
agent = Agent(Platform({
    "connection_string": F["cs"], "factory_folder": "factory", "trust_folder": "trust",
    "channels": ["c2d"], "client": {"port": F["port"]}}))
asyncio.run(agent.run(app))
"""


def test_a_second_package_waits_at_the_hub_until_the_first_is_installed(tmp_path, world, hub_root):
    from support.surface import Device

    emu, fleet, old_root, old, _, _ = world
    emu.switch_chain(old)
    roots = [("old", old_root.der, ("hub", "dps"))]
    fleet.write_factory(tmp_path / "factory", fleet.bundle_jws(version=1, roots=roots))
    cs = emu.add_device("burst").connection_string
    with Device(tmp_path, emu, hub_root).start(BURST, "burst", cs=cs) as process:
        process.wait_for("up", 20)
        for version in (2, 3):
            package = fleet.package(fleet.bundle_jws(version=version, roots=roots))
            emu.send_c2d("burst", package, {"trust": "package"})
        assert process.wait(40) == 0, process.text
        assert outputs(process.output)[-1] == [3, "good", 1], process.text


@pytest.mark.requirement("R-38")
def test_a_device_without_update_agent_says_which_root_is_missing(tmp_path, world, hub_root):
    from support.surface import Device

    emu, fleet, old_root, old, new_root, new = world
    emu.switch_chain(old)
    first = fleet.bundle_jws(version=1, roots=[("o", old_root.der, ("hub", "dps"))])
    fleet.write_factory(tmp_path / "factory", first)
    device = Device(tmp_path, emu, hub_root)
    with device.start(PROGRAM, "control", update_agent=False) as process:
        process.wait_for('"settled"', 20)
        good = fleet.package(
            fleet.bundle_jws(version=2, roots=[("n", new_root.der, ("hub", "dps"))])
        )
        emu.patch_desired(
            "control",
            {"trust": packages.desired_url(2, good, emu.publish_file("control.json", good))},
        )
        emu.switch_chain(new, drop=True)
        line = process.wait_for('"connect_failed"', 20)
        assert "new root" in line and "UNTRUSTED" in line
        assert outputs(process.output)


@contextlib.contextmanager
def small_server(download):
    """Plain HTTP that answers every request with `download`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer = download.answer("GET", self.headers, time.time())
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *what):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
def test_small_buffers_ask_a_server_that_ignores_mfl_for_ranges(tmp_path, world, hub_root, ranges):
    from support.surface import Device

    emu, fleet, old_root, old, new_root, _ = world
    emu.switch_chain(old)
    name = "small-%d" % ranges
    hub = ("hub", "dps", "https")
    fleet.write_factory(
        tmp_path / "factory", fleet.bundle_jws(version=1, roots=[("old", old_root.der, hub)])
    )
    good = fleet.package(
        fleet.bundle_jws(version=2, roots=[("old", old_root.der, hub), ("new", new_root.der, hub)])
    )
    device = Device(tmp_path, emu, hub_root)
    download = Download(good, ranges=ranges)
    # Another name than the hub's, of which is known that it keeps to small records.
    store = old_root.leaf("store", dns=["127.0.0.1"], ips=["127.0.0.1"], key="p256")
    with (
        small_server(download) as plain,
        ignoring_front(store, plain) as port,
        device.start(PROGRAM, name, update_agent=True, build="unix64-board") as process,
    ):
        reported = lambda: emu.twin(name)["properties"]["reported"].get("trust", {})  # noqa: E731
        until(lambda: reported().get("state") == "good", process)
        url = "https://127.0.0.1:%d/package.json" % port
        emu.patch_desired(name, {"trust": packages.desired_url(2, good, url)})
        if ranges:
            until(lambda: reported().get("version") == 2, process)
        else:
            until(lambda: (reported().get("last_error") or {}).get("code") == "NO_RANGE", process)
        process.kill()
    asked = [request.get("range", "") for request in download.requests]
    if not ranges:
        assert len(asked) == 1 and reported()["version"] == 1, "refused, not tried again and again"
        return
    spans = [tuple(int(n) for n in text.removeprefix("bytes=").split("-")) for text in asked]
    assert all(last - first < 2048 for first, last in spans)
    assert spans[0][0] == 0 and spans[-1][1] >= len(good) - 1
    assert all(request["if-match"] == download.tag for request in download.requests[1:])


@pytest.mark.requirement("R-40", "R-50")
def test_telemetry_by_post_spends_no_try_and_a_demo_fleet_stays_home(tmp_path, world, hub_root):
    from support.surface import Device

    emu, fleet, old_root, old, _, _ = world
    emu.switch_chain(old)
    roots = [("old", old_root.der, ("hub", "dps", "https"))]
    fleet.write_factory(tmp_path / "factory", fleet.bundle_jws(version=1, roots=roots))
    second = fleet.package(fleet.bundle_jws(version=2, roots=roots))
    (tmp_path / "package.json").write_bytes(second)
    out = Device(tmp_path, emu, hub_root).run(POST, "post")
    assert out == [[3, "factory"], ["DEMO_HOST"], ["DEMO_HOST"]]


@pytest.mark.requirement("R-29", "R-30")
def test_a_deployed_device_asks_tls_about_each_root_and_keeps_one_for_dps(
    tmp_path, world, hub_root, monkeypatch
):
    from support.surface import Device
    from taproot.trust import builder

    emu, fleet, old_root, _, _, _ = world
    first = fleet.bundle_jws(version=1, roots=[("o", old_root.der, ("hub", "dps"))])
    fleet.write_factory(tmp_path / "factory", first)
    broken = bytearray(old_root.der)
    broken[broken.index(b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07") + 9] ^= 0x60
    hub = fleet.package(fleet.bundle_jws(version=3, roots=[("o", old_root.der, ("hub",))]))
    (tmp_path / "hub.json").write_bytes(hub)
    monkeypatch.setattr(builder.Bundle, "problems", lambda bundle: [])
    unread = fleet.package(
        fleet.bundle_jws(version=2, roots=[("x", bytes(broken), ("hub", "dps"))])
    )
    (tmp_path / "unreadable.json").write_bytes(unread)
    out = Device(tmp_path, emu, hub_root).run(JUDGE, "judge")
    assert out == [["NOT_CA"], [3], ["NOT_CA"], ["NO_ROOTS"]]


BROKEN = """
nap = asyncio.sleep_ms
asyncio.sleep_ms = lambda ms: nap(min(ms, 1000))
from azure_iot.agent import Agent
from azure_iot.unix.platform import Platform
async def main():
    agent = Agent(Platform({"connection_string": F["cs"], "factory_folder": "factory",
        "trust_folder": "trust", "client": {"port": F["port"], "fleet_size_hint": 1}}))
    client = await agent.start()
    install = client.install_package
    async def fails(source, channel):
        client.install_package = install
        raise MemoryError if F["how"] == "raises" else asyncio.CancelledError
    if F["how"] != "disconnects":
        client.install_package = fails
        while client.install_package is not install:
            await asyncio.sleep_ms(20)
    else:
        while not agent.trust.last_error:  # the download failed and waits for the next try
            await asyncio.sleep_ms(20)
        await client.disconnect()
        await client.start()
    out("again")
    while True:
        await asyncio.sleep(1)
asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["raises", "stray", "disconnects"])
def test_a_wish_whose_work_was_cut_short_comes_again(tmp_path, world, hub_root, how):
    from support.surface import Device

    emu, fleet, old_root, old, new_root, _ = world
    emu.switch_chain(old)
    hub = ("hub", "dps")
    fleet.write_factory(
        tmp_path / "factory", fleet.bundle_jws(version=1, roots=[("old", old_root.der, hub)])
    )
    good = fleet.package(
        fleet.bundle_jws(version=2, roots=[("old", old_root.der, hub), ("new", new_root.der, hub)])
    )
    url = emu.publish_file(how + ".json", good)
    cs = emu.add_device(how).connection_string
    missing = url.replace(how, "later") if how == "disconnects" else url
    emu.patch_desired(how, {"trust": packages.desired_url(2, good, missing)})
    device = Device(tmp_path, emu, hub_root)
    with device.start(BROKEN, how, cs=cs, how=how) as process:
        process.wait_for("again", 20)
        emu.publish_file("later.json", good)
        reported = lambda: emu.twin(how)["properties"]["reported"].get("trust", {})  # noqa: E731
        until(lambda: reported().get("version") == 2, process)


def test_a_message_too_large_for_a_package_is_refused_in_words_and_does_not_come_again(
    tmp_path, world, hub_root
):
    from support.surface import Device

    emu, fleet, old_root, old, _, _ = world
    emu.switch_chain(old)
    roots = [("old", old_root.der, ("hub", "dps"))]
    fleet.write_factory(tmp_path / "factory", fleet.bundle_jws(version=1, roots=roots))
    program = PROGRAM.replace('"update_agent":', '"channels": ["c2d"], "update_agent":')
    with Device(tmp_path, emu, hub_root).start(program, "large", update_agent=True) as process:
        process.wait_for('"settled"', 20)
        emu.send_c2d("large", b" " * 40000, {"trust": "package"})
        reported = lambda: emu.twin("large")["properties"]["reported"].get("trust", {})  # noqa: E731
        until(lambda: (reported().get("last_error") or {}).get("code") == "TOO_LARGE", process)
        emu.drop("large")
        process.wait_for('"settled"', 20)
        assert process.text.count("larger than 32768") == 1, process.text


PARTS = """
from azure_iot.agent import Agent
from azure_iot.unix.platform import Platform
async def app(client):
    await client.connect(20)
    await asyncio.sleep_ms(200)
    from azure_iot.trust.parts import Parts
    real, gate, took = Parts.add, asyncio.Event(), []
    def add(self, index, data):
        if F["case"] == "short" and index == 1 and not took:
            took.append(1)
            raise MemoryError
        return real(self, index, data)
    Parts.add = add
    install = client.install_package
    async def install_package(source, channel):
        while F["case"] == "burst" and not client.upkeep.left and not gate.is_set():
            await asyncio.sleep_ms(20)
        gate.set()
        return await install(source, channel)
    client.install_package = install_package
    out("up")
    while True:
        if client.stats.get("handler_errors", 0) == 2 and F["case"] == "short":
            out("left")
            await client._mqtt.reconnect()
            F["case"] = "left"
        await asyncio.sleep_ms(500)
agent = Agent(Platform({
    "connection_string": F["cs"], "factory_folder": "factory", "trust_folder": "trust",
    "channels": ["c2d"], "client": {"port": F["port"], "fleet_size_hint": 1}}))
asyncio.run(agent.run(app))
"""


@pytest.mark.parametrize("case", ["gone", "short", "burst"])
def test_a_part_stays_at_the_hub_while_it_can_be_used_later(tmp_path, world, hub_root, case):
    """gone: the part before it never comes, so it is acknowledged and refused in words. short: the
    part before it was left at the hub. burst: another package waits to be installed."""
    from support.surface import Device

    emu, fleet, old_root, old, _, _ = world
    emu.switch_chain(old)
    roots = [("old", old_root.der, ("hub", "dps"))]
    fleet.write_factory(tmp_path / "factory", fleet.bundle_jws(version=1, roots=roots))
    name = "parts-" + case
    cs = emu.add_device(name).connection_string
    letters = lambda: emu.emulator.hub.registry.get(name).queue.letters  # noqa: E731
    reported = lambda: emu.twin(name)["properties"]["reported"].get("trust", {})  # noqa: E731
    with Device(tmp_path, emu, hub_root).start(PARTS, name, cs=cs, case=case) as process:
        process.wait_for('"up"', 20)
        for version in (2, 3) if case == "burst" else (2,):
            package = fleet.package(fleet.bundle_jws(version=version, roots=roots))
            parts = [package[at : at + 1000] for at in range(0, len(package), 1000)]
            about = {"count": str(len(parts)), "sha256": hashlib.sha256(package).hexdigest()}
            for index, part in enumerate(parts):
                if case != "gone" or index != 1:
                    emu.send_c2d(name, part, {"trust": "part", "index": str(index), **about})
        assert len(parts) == 3
        if case == "gone":
            until(lambda: (reported().get("last_error") or {}).get("code") == "DOWNLOAD", process)
        else:
            until(lambda: reported().get("version") == version, process)
        until(lambda: not emu.call(lambda: [*letters()]), process, 5)
        assert process.text.count('"left"') == (case == "short")
