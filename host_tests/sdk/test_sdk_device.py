"""The official azure-iot-device against the emulator (as an outside judge).

Every public method and property of the sync and aio clients, over TCP and WebSocket, with SAS and
X.509. The list comes from the SDK and what was called is counted inside the SDK's process.
"""

from __future__ import annotations

import itertools
import json

import pytest
from sdk_support import drive
from taproot.emulator import EmulatorConfig, running
from taproot.emulator.credentials import derive_key
from taproot.pki import Authority

# Not emulated: the IoT Edge runtime's local socket and its method calls through it.
REAL_NAME = "myhub.azure-devices.net"
LEFT_OUT = {"create_from_edge_environment", "invoke_method"}
GROUP_KEY = (
    "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
)

ALL = set(itertools.product(("sync", "aio"), ("tcp", "ws"), ("sas", "x509")))
CLIENTS = ("device", "module", "dps")


def named(name):
    return {"name": name, "device": name, "identity": name}


class Maker:
    """Registers what a case needs and describes it for the driver."""

    def __init__(self, emu, folder):
        self.emu, self.folder = emu, folder
        self.authority = Authority.root("SDK devices", "p256")
        self.issuing = self.authority.intermediate("SDK issuing", "p256")
        emu.call(emu.emulator.trust_client_root, self.authority.pem)
        emu.enroll("sdk-group", group=True, primary_key=GROUP_KEY, payload={"given": 1})
        emu.enroll("sdk-x509", group=True, roots=(self.authority.cert,), payload={"given": 1})

    def certificate(self, name):
        leaf = self.issuing.leaf(name, "p256", client=True)
        chain, key = leaf.write(self.folder, name)
        return leaf, {"cert_file": str(chain), "key_file": str(key)}

    def case(self, client, flavour, transport, auth):
        name = f"{client}-{flavour}-{transport}-{auth}"
        case = {"name": name, "flavour": flavour, "transport": transport, "auth": auth,
                "device": name, "identity": name, "kind": "hub"}  # fmt: skip
        if client == "dps":
            case["kind"] = "dps"
            if auth == "sas":
                return case | {"key": derive_key(GROUP_KEY, name)}
            return case | self.certificate(name)[1]
        files = {}
        settings = {}
        if auth == "x509":
            leaf, files = self.certificate(name)
            settings = {"auth": "x509_ca"}
            if client == "module":
                settings = {"auth": "x509_thumbprint", "thumbprints": (leaf.sha256,)}
        device = self.emu.add_device(name, **(settings if client == "device" else {}))
        record = device
        if client == "module":
            record = self.emu.add_device(f"{name}/mod", **settings)
            case |= {"module": "mod", "identity": f"{name}/mod"}
        return case | files | {
            "key": record.primary_key,
            "connection_string": record.connection_string,
            "resource": f"localhost/{record.resource}",
        }  # fmt: skip

    def others(self):
        """A realistic hub name behind a gateway, dropped connections, DPS that makes one wait."""
        base = {"flavour": "aio", "transport": "tcp", "auth": "sas"}
        device = self.emu.add_device("other-gateway")
        text = (
            f"HostName={REAL_NAME};DeviceId={device.id};SharedAccessKey={device.primary_key};"
            "GatewayHostName=localhost"
        )
        yield {**base, "kind": "gateway", "connection_string": text} | named("other-gateway")
        for transport in ("tcp", "ws"):
            name = f"other-dropped-{transport}"
            text = self.emu.add_device(name).connection_string
            yield {
                **base, "kind": "dropped", "transport": transport, "connection_string": text
            } | named(name)  # fmt: skip
        key = derive_key(GROUP_KEY, "other-patience")
        self.emu.enroll(
            "other-patience", primary_key=key, polls=2, retry_after=1, payload={"given": 1}
        )
        self.emu.dps_fail("other-patience", status=429, retry_after=1, on="register")
        self.emu.dps_fail("other-patience", status=503, retry_after=1, on="query")
        yield {**base, "kind": "dps", "key": key} | named("other-patience")

    def refusals(self):
        device = self.emu.add_device("refused-key")
        disabled = self.emu.add_device("refused-disabled")
        self.emu.set_enabled("refused-disabled", False)
        stranger = Authority.root("stranger", "p256").leaf("refused-cert", "p256", client=True)
        self.emu.add_device("refused-cert", auth="x509_ca")
        chain, key = stranger.write(self.folder, "refused")
        base = {"kind": "refused", "flavour": "aio", "transport": "tcp", "auth": "sas"}
        other = device.secondary_key[::-1].lstrip("=") + "="
        for name, facts in (
            ("refused-key", {"key": other}),
            ("refused-absent", {"key": device.primary_key}),
            ("refused-disabled", {"key": disabled.primary_key}),
            ("refused-cert", {"auth": "x509", "cert_file": str(chain), "key_file": str(key)}),
            ("refused-dps", {"kind": "refused_dps", "key": GROUP_KEY}),
        ):
            yield {**base, "name": name, "device": name, "identity": name, **facts}


@pytest.fixture(scope="module")
def report(sdk_python, tmp_path_factory):
    """One process of the SDK that has run every case of this run."""
    folder = tmp_path_factory.mktemp("sdk")
    with running(EmulatorConfig(host_names=["localhost", REAL_NAME])) as emu:
        maker = Maker(emu, folder)
        cases = [maker.case(client, *c) for client in CLIENTS for c in sorted(ALL)]
        cases += [*maker.others(), *maker.refusals()]
        job = {
            "host": "localhost",
            "mqtt_port": emu.mqtt_port,
            "https_port": emu.https_port,
            "root_pem": emu.root_pem,
            "control_url": emu.control_url,
            "control_token": emu.control_token,
            "id_scope": emu.emulator.config.id_scope,
            "cases": cases,
            "parallel": 16,
        }
        found = drive(sdk_python, "driver.py", job, 300)
        found["events"] = emu.events()
        found["keys"] = [case["key"] for case in cases if case.get("key")] + [GROUP_KEY]
    return found


NAMES = [f"{client}-{'-'.join(c)}" for client in CLIENTS for c in sorted(ALL)]
NAMES += [f"other-{what}" for what in ("gateway", "dropped-tcp", "dropped-ws", "patience")]
NAMES += [f"refused-{what}" for what in ("key", "absent", "disabled", "cert", "dps")]


@pytest.mark.parametrize("name", NAMES)
def test_case(report, name):
    [ended] = [case for case in report["cases"] if case["name"] == name]
    assert ended["ok"], ended["error"]


def test_every_public_member_of_the_sdk_was_called(report):
    wanted = {m for m in report["members"] if m.rpartition(".")[2] not in LEFT_OUT}
    assert len(wanted) >= 100  # the list is the SDK's, not empty by accident
    missing = sorted(wanted - set(report["called"]))
    assert not missing, f"never called: {missing}"


def test_the_sdk_broke_no_rule_of_mqtt(report):
    broken = [e for e in report["events"] if e["type"] == "strictness"]
    assert not broken


def test_both_transports_and_both_credentials_were_used(report):
    connects = [e for e in report["events"] if e["type"] == "connect"]
    assert {e.get("transport", "tcp") for e in connects} == {"tcp", "websocket"}
    assert {bool(e.get("client_certificate")) for e in connects} == {True, False}


def test_no_event_shows_a_key_or_a_token(report):
    text = json.dumps(report["events"])
    assert len(report["keys"]) > 10
    for secret in (*report["keys"], "SharedAccessSignature", "sig=", "PRIVATE KEY"):
        assert secret not in text, secret[:6]
