"""Enrolments from TOML, CLI and control API, and a service's string."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request

import pytest
from support import wire
from taproot.console import UsageFailed
from taproot.emulator import EmulatorConfig, config, running
from taproot.emulator.enrollments import Enrollment
from taproot.pki import Authority

pytestmark = pytest.mark.requirement("C1", "D3", "D4")

KEY = base64.b64encode(b"k" * 32).decode()


def control(emu, operation, **body):
    request = urllib.request.Request(
        f"{emu.control_url}/v1/{operation}",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {emu.control_token}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)["result"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


def register(emu, reg_id, key=KEY):
    """Register over MQTT; return the status of the answer and its body."""
    scope = emu.emulator.config.id_scope
    with wire.Wire.plain(emu.plain_port) as link:
        password = wire.token(f"{scope}/registrations/{reg_id}", key, policy="registration")
        username = f"{scope}/registrations/{reg_id}/api-version=2019-03-31"
        link.send(wire.connect(reg_id, username=username, password=password))
        assert link.expect(wire.CONNACK)[1] == b"\x00\x00"
        link.send(wire.subscribe(1, ("$dps/registrations/res/#", 0)))
        link.expect(wire.SUBACK)
        body = json.dumps({"registrationId": reg_id}).encode()
        link.send(wire.publish("$dps/registrations/PUT/iotdps-register/?$rid=1", body))
        topic, payload, _, _ = link.delivery()
        return topic.split("/")[3], json.loads(payload)


def test_enrolments_from_a_file(tmp_path):
    ca = Authority.root("line", "p256")
    (tmp_path / "ca.pem").write_text(ca.pem)
    file = tmp_path / "emulator.toml"
    file.write_text(
        f"""plain_port = 0
[[enrollments]]
id = "reg-1"
primary_key = "{KEY}"
payload = {{ site = "Ulm" }}
polls = 0
[[enrollments]]
id = "line"
group = true
roots = ["{tmp_path}/ca.pem"]
"""
    )
    with running(config.load(file)) as emu:
        assert register(emu, "reg-1")[0] == "202"
        found = emu.emulator.dps.registry
        assert found.individual["reg-1"].payload == {"site": "Ulm"}
        assert found.groups["line"].authorities == (ca.cert,)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('id = "a"', 2, "no attestation"),
        ('id = "a"\nprimary_key = "short"', 3, "primary_key"),
        ('id = "a"\nthumbprints = ["xy"]', 3, "hex digits"),
        ('id = "a"\nroots = ["/no/such.pem"]', 3, "No such file"),
        (f'id = "a"\nprimary_key = "{KEY}"\noutcome = "lost"', 4, "outcome"),
        (f'id = "a"\nprimary_key = "{KEY}"\npoll = 1', 4, "unknown key 'poll'"),
        (f'id = "a"\nprimary_key = "{KEY}"\npolls = -1', 4, "not negative"),
    ],
)
def test_a_wrong_enrolment_is_named_with_its_line(tmp_path, text, line, said):
    file = tmp_path / "e.toml"
    file.write_text(f"[[enrollments]]\n{text}\n")
    with pytest.raises(UsageFailed, match=said) as caught:
        config.load(file)
    assert f"e.toml:{line}:" in caught.value.message


@pytest.fixture(scope="module")
def emu():
    with running(EmulatorConfig(plain_port=0)) as found:
        yield found


def test_enrolling_by_the_control_api(emu):
    root = Authority.root("c", "p256")
    assert control(emu, "enroll", identity="c1", primary_key=KEY, polls=0)["id"] == "c1"
    assert control(emu, "enroll", identity="g1", group=True, roots=[root.pem])["group"] is True
    assert register(emu, "c1")[0] == "202"
    for body, said in (
        ({"identity": "x"}, "no attestation"),
        ({"identity": "x", "roots": ["not a certificate"]}, "PEM"),
        ({"identity": "x", "allocate": "rm"}, "unknown member"),
        ({"identity": "x", "primary_key": "AAAA"}, "16 to 64 bytes"),
    ):
        code, text = control(emu, "enroll", **body)
        assert code == 400 and said in text


def test_registering_again_with_a_rolled_key_tells_the_hub(emu):
    rolled = base64.b64encode(b"r" * 32).decode()
    for key in (KEY, rolled):
        emu.enroll("rolling", primary_key=key, initial_twin={"tags": {"line": 4}})
        assert register(emu, "rolling", key)[0] == "202"
        with wire.Wire.plain(emu.plain_port) as link:
            link.send(wire.connect("rolling", **wire.credentials("localhost", "rolling", key)))
            assert link.expect(wire.CONNACK)[1][1] == 0
    assert emu.twin("rolling")["tags"] == {"line": 4}
    assert register(emu, "rolling", KEY)[0] == "401"


def test_errors_on_demand_by_the_control_api(emu):
    emu.enroll("f1", primary_key=KEY)
    control(emu, "dps_fail", status=429, retry_after=9, identity="f1")
    control(emu, "dps_fail", status=503, on="register")
    assert [register(emu, "f1")[0] for _ in range(3)] == ["429", "503", "202"]
    assert control(emu, "dps_fail", status=200)[0] == 400
    assert control(emu, "dps_fail", status=500, identity="nobody")[0] == 400


def test_a_services_connection_string_is_asked_for_by_policy(emu):
    text = control(emu, "service_connection_string", policy="registryReadWrite")
    assert text.startswith("HostName=localhost;SharedAccessKeyName=registryReadWrite;")
    assert text == emu.service_connection_string("registryReadWrite")
    assert control(emu, "service_connection_string", policy="none")[0] == 400
    key = text.rpartition("SharedAccessKey=")[2]
    assert key not in json.dumps(emu.events()) and key not in json.dumps(emu.status())


def test_keys_do_not_show_in_a_repr():
    assert KEY not in repr(Enrollment("a", primary_key=KEY, secondary_key=KEY))
