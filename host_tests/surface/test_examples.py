"""Every example in firmware/examples runs against the emulator, from a copy beside its secrets."""

import base64
import hmac
import json
import re
import shutil
import time
from pathlib import Path

import pytest
from azure_iot import sas
from support.first_hour import REFUSED, SECOND
from support.surface import HUBS, free_port
from taproot import interpreters
from taproot.emulator import EmulatorConfig, running
from taproot.emulator.chains import TLSOptions
from taproot.pki import Authority
from taproot.trust.fleet import Fleet

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "firmware" / "examples"
SECRETS = EXAMPLES / "secrets_example.py"
KEY = base64.b64encode(b"k" * 32).decode()
TESTED = set()


@pytest.fixture(scope="module")
def ca():
    return Authority.root("device root", key="p256")


@pytest.fixture(scope="module")
def emu(hub_leaf, ca, tmp_path_factory):
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_text(ca.pem)
    with running(EmulatorConfig(chain=hub_leaf, client_roots=[str(path)])) as emulator:
        yield emulator


class Example:
    """One example in a folder of its own."""

    def __init__(self, folder: Path, emu, root) -> None:
        self.folder, self.emu = folder, emu
        if root is not None:
            (folder / "root.der").write_bytes(root.der)
        self.facts = {
            "PORT": emu.mqtt_port, "HTTPS_PORT": emu.https_port, "HOST": "localhost",
            "DPS_HOST": "localhost", "ID_SCOPE": "0ne00000001", "DEVICE_KEY": KEY,
        }  # fmt: skip

    def secrets(self, **facts) -> None:
        """Fill in secrets_example.py as its reader does; later lines win."""
        self.facts.update(facts)
        lines = [f"{name} = {value!r}" for name, value in self.facts.items()]
        text = (EXAMPLES / "secrets_example.py").read_text()
        (self.folder / "secrets.py").write_text(text + "\n".join(lines) + "\n")

    def _copy(self, name: str) -> Path:
        TESTED.add(name)
        shutil.copy(EXAMPLES / name, self.folder / name)
        env = {"MICROPYPATH": f".:{interpreters.firmware_folder()}:.frozen"}
        self.env = env
        return self.folder / name

    def run(self, name: str) -> str:
        script = self._copy(name)
        result = interpreters.run(
            "unix64", script, heap="1m", timeout=40, cwd=self.folder, env=self.env
        )
        assert result.returncode == 0, result.text
        return result.stdout

    def start(self, name: str):
        script = self._copy(name)
        return interpreters.Process(
            "unix64", script, heap="1m", limit=60, folder=self.folder, env=self.env
        )


@pytest.fixture
def example(tmp_path, emu, hub_root):
    return Example(tmp_path, emu, hub_root)


def with_device(example, name):
    record = example.emu.add_device(name)
    example.secrets(CONNECTION_STRING=record.connection_string)


def test_telemetry(example, emu):
    with_device(example, "ex-telemetry")
    assert "TLSv1.2" in example.run("telemetry.py")
    assert len(emu.messages("ex-telemetry")) == 12


def test_twin(example, emu):
    with_device(example, "ex-twin")
    with example.start("twin.py") as process:
        process.wait_for("reported version", 20)
        emu.patch_desired("ex-twin", {"interval": 7})
        assert process.wait(20) == 0, process.text
    reported = emu.twin("ex-twin")["properties"]["reported"]
    assert reported["interval"] == 7 and "old" not in reported


def call(emu, name, method, payload):
    for _ in range(40):
        answer = emu.invoke_method(name, method, payload, timeout_s=5)
        if answer.hub_status != 404:
            return answer
        time.sleep(0.1)
    return answer


def test_direct_method(example, emu):
    with_device(example, "ex-method")
    with example.start("direct_method.py") as process:
        process.wait_for("waiting", 20)
        assert call(emu, "ex-method", "blink", {"times": 2}).payload == {"blinked": 2}
        assert call(emu, "ex-method", "stop", None).payload == {"unknown": "stop"}
        assert process.wait(20) == 0, process.text


def test_c2d(example, emu):
    with_device(example, "ex-c2d")
    with example.start("c2d.py") as process:
        process.wait_for("waiting", 20)
        time.sleep(0.5)
        emu.send_c2d("ex-c2d", b"hello", {"a": "b"})
        emu.send_c2d("ex-c2d", b"stop")
        assert process.wait(20) == 0, process.text
    assert "hello" in process.text


def test_streaming(example, emu):
    with_device(example, "ex-stream")
    with example.start("streaming.py") as process:
        process.wait_for("sent", 20)
        emu.send_c2d("ex-stream", bytes(50_000), {"a": "b"})
        process.wait_for("received received.bin 50000 {'a': 'b'}", 20)
        assert process.wait(20) == 0, process.text
    (message,) = emu.messages("ex-stream")
    assert message.body == b"".join(b"line %d\n" % n for n in range(2000))
    assert message.properties == {"file": "log.txt"}


def test_provision(example, emu):
    emu.enroll("ex-dps", primary_key=KEY, payload={"site": "Ulm"})
    example.secrets(REGISTRATION_ID="ex-dps")
    assert "Ulm" in example.run("provision.py")
    assert emu.messages("ex-dps")[0].json() == {"hello": "ex-dps"}


def test_x509(example, emu, ca):
    leaf = ca.intermediate("line", key="p256").leaf("ex-x509", key="p256", client=True)
    (example.folder / "device.pem").write_text(leaf.chain_pem)
    (example.folder / "device.key").write_text(leaf.key_pem)
    emu.add_device("ex-x509", auth="x509_ca")
    example.secrets()
    example.run("x509.py")
    assert emu.messages("ex-x509")[0].json() == {"proof": "certificate"}


def test_sas_provider(example, emu):
    emu.add_device("ex-sas", primary_key=KEY)
    example.secrets(DEVICE_ID="ex-sas")
    example.run("sas_provider.py")
    assert len(emu.messages("ex-sas")) == 1


def test_secure_element(example, emu):
    emu.add_device("ex-chip", primary_key=KEY)
    example.secrets(DEVICE_ID="ex-chip")
    example.run("secure_element.py")
    assert emu.messages("ex-chip")[0].json() == {"proof": "secure element"}


def test_will(example, emu):
    with_device(example, "ex-will")
    with example.start("will.py") as process:
        process.wait_for("cut my power", 20)
        process.kill()
        emu.wait_for(
            lambda e: e["type"] == "disconnect" and e.get("identity") == "ex-will", limit=10
        )
    assert [message.body for message in emu.messages("ex-will")] == [b"here", b"gone"]


def test_module(example, emu):
    emu.add_device("ex-dev")
    record = emu.add_device("ex-dev/mod")
    example.secrets(MODULE_CONNECTION_STRING=record.connection_string)
    assert "reported version" in example.run("module.py")


def test_plug_and_play(example, emu):
    with_device(example, "ex-pnp")
    with example.start("plug_and_play.py") as process:
        process.wait_for("waiting", 20)
        emu.patch_desired("ex-pnp", {"thermostat1": {"__t": "c", "targetTemperature": 20}})
        assert process.wait(20) == 0, process.text
    reported = emu.twin("ex-pnp")["properties"]["reported"]
    assert reported["thermostat1"]["targetTemperature"]["ac"] == 200


def test_websocket(example, emu):
    with_device(example, "ex-ws")
    example.run("websocket.py")
    assert emu.messages("ex-ws")[0].json() == {"way": "websocket"}


def test_file_upload(example, emu):
    with_device(example, "ex-up")
    (example.folder / "log.txt").write_bytes(b"line\n" * 3000)
    assert "uploaded ex-up/log.txt" in example.run("file_upload.py")


def test_https_telemetry(example, emu):
    with_device(example, "ex-post")
    assert "delivered" in example.run("https_telemetry.py")
    assert emu.messages("ex-post")[0].properties == {"alert": "no"}


def test_deep_sleep(example, emu, hub_root, hub_leaf):
    tickets = EmulatorConfig(chain=hub_leaf, tls=TLSOptions(tickets="kept"))
    with running(tickets) as hub:
        sleeper = Example(example.folder, hub, hub_root)
        with_device(sleeper, "ex-sleep")
        text = sleeper.run("deep_sleep.py")
        assert "full handshake" in text and "no message" in text
        hub.send_c2d("ex-sleep", b"while asleep")
        text = sleeper.run("deep_sleep.py")
        assert "resumed" in text and "while asleep" in text
        text = sleeper.run("deep_sleep.py")
        assert "resumed" in text and "no message" in text
        seen = [
            e["resumed"] for e in hub.events() if e["type"] == "tls" and e["listener"] == "mqtt"
        ]
        assert seen == [False, True, True]
        present = [e["session_present"] for e in hub.events() if e["type"] == "connack"]
        assert present == [False, True, True]
    kept = [path.stat().st_size for path in example.folder.glob("tls*.kv")]
    assert len(kept) == 1 and kept[0] <= 512, "RTC memory is small"


def test_trust_update(example, emu, hub_root):
    record = emu.add_device("ex-trust")
    fleet = Fleet.create("demo-examples", root=(1, 1), bundle=(1, 1))
    roots = [("hub", hub_root.der, ("hub", "dps"))]
    bundle = fleet.bundle_jws(version=1, roots=roots)
    fleet.write_factory(example.folder / "factory", bundle)
    config = {
        "connection_string": record.connection_string, "factory_folder": "factory",
        "trust_folder": "trust",
        "client": {"port": emu.mqtt_port, "https_port": emu.https_port},
    }  # fmt: skip
    (example.folder / "device.json").write_text(json.dumps(config))
    assert "trust: good" in example.run("trust_update.py")


def test_static_token(example, emu):
    emu.add_device("ex-token", primary_key=KEY)
    key, resource = base64.b64decode(KEY), "localhost%2Fdevices%2Fex-token"
    token = sas.token(
        resource, int(time.time()) + 3600, lambda text: hmac.digest(key, text, "sha256")
    )
    example.secrets(DEVICE_ID="ex-token", TOKEN=token)
    text = example.run("static_token.py")
    assert "<StaticToken until " in text and "sig=" not in text
    proofs = [message.json()["proof"] for message in emu.messages("ex-token")]
    assert proofs == ["token", "connection string"]


def test_provision_x509(example, emu, ca):
    leaf = ca.leaf("ex-dps-x509", key="p256", client=True)
    (example.folder / "device.pem").write_text(leaf.chain_pem)
    (example.folder / "device.key").write_text(leaf.key_pem)
    emu.enroll("ex-dps-line", group=True, roots=(ca.cert,))
    example.secrets()
    assert "assigned to localhost as ex-dps-x509" in example.run("provision_x509.py")
    assert emu.messages("ex-dps-x509")[0].json() == {"hello": "ex-dps-x509"}


def test_reprovision(example, hub_root):
    leaf = hub_root.intermediate("hubs", key="p256").leaf(
        HUBS[0], dns=list(HUBS), ips=list(HUBS), key="p256"
    )
    ports = {"mqtt_port": free_port(), "https_port": free_port()}
    hubs = [EmulatorConfig(bind=at, host_names=[at], chain=leaf, **ports) for at in HUBS]
    with running(hubs[0]) as first, running(hubs[1]) as second:
        first.enroll("ex-move", primary_key=KEY, hubs=(HUBS[0],))
        for hub in (first, second):
            hub.add_device("ex-move", primary_key=KEY)
        moving = Example(example.folder, first, hub_root)
        moving.secrets(REGISTRATION_ID="ex-move", DPS_HOST=HUBS[0])
        with moving.start("reprovision.py") as process:
            process.wait_for(f"connected to {HUBS[0]}", 20)
            found = first.call(lambda: first.emulator.dps.registry.find("ex-move"))
            first.call(lambda: setattr(found, "hubs", (HUBS[1],)))
            first.set_enabled("ex-move", False)
            process.wait_for(f"moved to {HUBS[1]}", 30)
            assert process.wait(20) == 0, process.text
        assert second.messages("ex-move")[0].json() == {"moved to": HUBS[1]}


def test_clouds(example, emu):
    emu.add_device("ex-cloud", primary_key=KEY)
    example.secrets(DEVICE_ID="ex-cloud")
    lines = example.run("clouds.py").splitlines()
    assert lines[1] == ("azure-devices.us us-government global.azure-devices-provisioning.us")
    assert emu.messages("ex-cloud")[0].json() == {"cloud": "public"}


def test_module_input(example, emu):
    emu.add_device("ex-edge")
    record = emu.add_device("ex-edge/mod")
    example.secrets(MODULE_CONNECTION_STRING=record.connection_string)
    with example.start("module_input.py") as process:
        process.wait_for("waiting", 20)
        for name in ("first", "last"):
            for _ in range(50):
                if emu.send_input("ex-edge/mod", name, b"hello"):
                    break
                time.sleep(0.1)
        assert process.wait(20) == 0, process.text
    assert "message b'hello' at first" in process.text
    assert [message.json() for message in emu.messages("ex-edge/mod")] == [{"length": 5}] * 2


def test_fetch(example, emu):
    body = b"roots" * 2000
    example.secrets(URL=emu.publish_file("ex-fetch", body, https=True))
    assert "fetched 10000 bytes" in example.run("fetch.py")
    assert (example.folder / "download.bin").read_bytes() == body


def test_every_secret_an_example_uses_is_in_the_example_of_secrets():
    here = set(re.findall(r"^(?:async def |def )?(\w+)(?: =|\()", SECRETS.read_text(), re.M))
    used = set()
    for path in EXAMPLES.glob("*.py"):
        used |= set(re.findall(r"\bsecrets\.(\w+)", path.read_text())) - {"py"}
    assert used == here


def test_each_feature_has_an_example_in_both_tables():
    names = {path.name for path in EXAMPLES.glob("*.py")} - {"secrets_example.py"}
    shown = {
        "ten lines": ("main.py", "test_examples.py"),
        "kept while offline": ("telemetry.py", "test_blackout.py"),
        "SAS .*renew": ("telemetry.py", "test_credentials.py"),
        "downloads over verified HTTPS": ("fetch.py", "test_https.py"),
    }
    for page in ("README.md", "firmware/README.md"):
        text = (ROOT / page).read_text()
        rows = [line for line in text.splitlines() if line.startswith("| ") and ".py" in line]
        missing = {name for name in names if not re.search(rf"\b{name}\b", " ".join(rows))}
        assert not missing, page
        for what, files in shown.items():
            (row,) = [row for row in rows if re.search(what, row)]
            assert all(name in row for name in files), row
        for name in re.findall(r"\btest_\w+\.py", " ".join(rows)):
            assert list((ROOT / "host_tests").glob(f"*/{name}")), name


BOARD = """
# What esp32/platform.py imports of a board, as far as main.py gets here; the network is the host's.
class NVS:
    def __init__(self, namespace):
        self.kept = {}
    def get_blob(self, key, buffer):
        raise OSError(-4354)
    def set_blob(self, key, value):
        self.kept[key] = value
    def commit(self):
        pass
class RTC:
    def datetime(self, fields):
        raise AssertionError("nobody offered a time")
def reset():
    raise SystemExit(3)
"""


def on_board(example, connection_string):
    """main.py beside a device.json, where the modules of a board are stand-ins."""
    for name in ("esp32", "machine", "network"):
        (example.folder / f"{name}.py").write_text(BOARD)
    config = {
        "connection_string": connection_string, "roots": ["root.der"],
        "time_servers": ["127.0.0.1"],
        "client": {"port": example.emu.mqtt_port, "https_port": example.emu.https_port},
    }  # fmt: skip
    (example.folder / "device.json").write_text(json.dumps(config))
    return example.start("main.py")


def test_main(example, emu):
    record = emu.add_device("ex-main")
    with on_board(example, record.connection_string) as process:
        emu.wait_for(lambda e: e["type"] == "connect" and e["identity"] == "ex-main", limit=20)
        for _ in range(100):
            if emu.messages("ex-main"):
                break
            time.sleep(0.1)
        assert emu.messages("ex-main")[0].json() == {"temperature": 21.5}
        assert not process.output, "a console stays calm while nothing is wrong"


def test_main_says_on_the_console_what_is_wrong_with_its_key(example, emu):
    record = emu.add_device("ex-wrong")
    text = record.connection_string.replace(record.primary_key, KEY)
    with on_board(example, text) as process:
        said = process.wait_for("warning: mqtt: CONNACK 5", 20)
        process.wait_for("az iot hub device-identity show -d ex-wrong -n localhost", 2)
    assert REFUSED[1] in said
    assert KEY not in process.text


def test_main_says_on_the_console_that_its_id_is_used_twice(example, emu, tmp_path):
    text = emu.add_device("ex-twice").connection_string
    other = tmp_path / "other"
    other.mkdir()
    second = Example(other, emu, None)
    (other / "root.der").write_bytes((example.folder / "root.der").read_bytes())
    with on_board(example, text) as process, on_board(second, text):
        process.wait_for(SECOND[1][0], 58)


def test_no_example_is_left_out_and_main_has_ten_lines():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    here = Path(__file__).read_text()
    untested = {n for n in names if f'"{n}"' not in here}
    assert untested <= {"secrets_example.py"}
    lines = [line for line in (EXAMPLES / "main.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= 10
