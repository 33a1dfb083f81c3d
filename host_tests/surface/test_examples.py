"""Every example in firmware/examples runs against the emulator, from a copy beside its secrets."""

import base64
import json
import shutil
import time
from pathlib import Path

import pytest
from taproot import interpreters
from taproot.emulator import EmulatorConfig, running
from taproot.emulator.chains import TLSOptions
from taproot.pki import Authority
from taproot.trust.fleet import Fleet

EXAMPLES = Path(__file__).resolve().parents[2] / "firmware" / "examples"
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
        (folder / "root.der").write_bytes(root.der)
        self.facts = {"HTTPS_PORT": emu.https_port, "HOST": "localhost"}

    def secrets(self, **facts) -> None:
        self.facts.update(facts)
        lines = [f"{name} = {value!r}" for name, value in self.facts.items()]
        lines.append("def options():")
        lines.append(
            f"    return {{'roots': [open('root.der', 'rb').read()], 'port': {self.emu.mqtt_port}}}"
        )
        (self.folder / "secrets.py").write_text("\n".join(lines + self.extra) + "\n")

    extra: list[str] = []

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
            "unix64", script, heap="1m", limit=40, folder=self.folder, env=self.env
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
    example.secrets(
        DPS_HOST="localhost", REGISTRATION_ID="ex-dps", ID_SCOPE="0ne00000001", DEVICE_KEY=KEY
    )
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
    example.extra = [
        "async def token_service(resource, expiry):",
        "    from azure_iot import sas, credentials",
        f"    return sas.token(resource, expiry, credentials.SymmetricKey({KEY!r}).sign)",
    ]
    example.secrets(DEVICE_ID="ex-sas")
    example.run("sas_provider.py")
    assert len(emu.messages("ex-sas")) == 1


def test_secure_element(example, emu):
    emu.add_device("ex-chip", primary_key=KEY)
    example.extra = [
        "async def chip_hmac_sha256(message):",
        "    from azure_iot import credentials",
        f"    return credentials.SymmetricKey({KEY!r}).sign(message)",
    ]
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
    factory = example.folder / "factory"
    factory.mkdir()
    (factory / "keyset.jws").write_bytes(fleet.keyset_jws())
    roots = [("hub", hub_root.der, ("hub", "dps"))]
    (factory / "bundle.jws").write_bytes(fleet.bundle_jws(version=1, roots=roots))
    (factory / "build_date").write_text(str(fleet.issued))
    config = {
        "connection_string": record.connection_string, "factory_folder": "factory",
        "trust_folder": "trust",
        "client": {"port": emu.mqtt_port, "https_port": emu.https_port},
    }  # fmt: skip
    (example.folder / "device.json").write_text(json.dumps(config))
    assert "trust: good" in example.run("trust_update.py")


def test_no_example_is_left_out_and_main_has_ten_lines():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    here = Path(__file__).read_text()
    untested = {n for n in names if f'"{n}"' not in here}
    assert untested <= {"main.py", "secrets_example.py"}
    lines = [line for line in (EXAMPLES / "main.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= 10
