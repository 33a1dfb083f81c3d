"""Certificate renewal over MQTT and DPS on the wire."""

from __future__ import annotations

import base64
import itertools
import json
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support import wire
from taproot.emulator import EmulatorConfig, credentials, running

pytestmark = pytest.mark.requirement("H22", "D1")

PREVIEW = "api-version=2025-08-01-preview"
RESULTS = "$iothub/credentials/res/#"
_rids = itertools.count(1000)


def csr(name):
    key = ec.generate_private_key(ec.SECP384R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .sign(key, hashes.SHA384())
    )
    return key, base64.b64encode(request.public_bytes(serialization.Encoding.DER)).decode()


@pytest.fixture
def renewal(hub):
    """The renewal service with its switches back at their defaults afterwards."""
    service = hub.emulator.hub.renewal
    before = dict(service.__dict__)
    yield service
    for pending in list(service.active.values()):
        hub.call(service._forget, pending)
    service.__dict__.update(before)


def ask(link, device, body, rid=None, root="credentials"):
    rid = rid or f"req-{next(_rids)}"
    data = json.dumps(body).encode()
    topic = f"$iothub/{root}/POST/issueCertificate/?$rid={rid}"
    link.send(wire.publish(topic, data, 1, 9))
    link.expect(wire.PUBACK)
    return rid


def answer(link):
    first, body = link.expect(wire.PUBLISH)
    size = int.from_bytes(body[:2], "big")
    skip = 2 if first & 6 else 0
    return body[2 : 2 + size].decode(), json.loads(body[2 + size + skip :])


def listen(device, topic_filter=RESULTS):
    link = device.connect(query=PREVIEW)
    link.send(wire.subscribe(1, (topic_filter, 0)))
    assert link.expect(wire.SUBACK)[1][2:] == b"\x00"
    return link


@pytest.mark.parametrize("shape", ["array", "certificates", "pem"])
@pytest.mark.parametrize("order", ["leaf_first", "root_first"])
def test_a_request_is_accepted_and_answered_in_every_documented_shape(
    device, renewal, shape, order
):
    renewal.shape, renewal.order = shape, order
    link = listen(device)
    key, request = csr(device.id)
    rid = ask(link, device, {"id": device.id, "csr": request})
    topic, accepted = answer(link)
    assert topic == f"$iothub/credentials/res/202/?$rid={rid}"
    assert set(accepted) == {"correlationId", "operationExpires"}
    topic, body = answer(link)
    assert topic == f"$iothub/credentials/res/200/?$rid={rid}"
    texts = body if shape == "array" else body["certificates"]
    if shape == "pem":
        chain = [x509.load_pem_x509_certificate(text.encode()) for text in texts]
    else:
        chain = [x509.load_der_x509_certificate(base64.b64decode(text)) for text in texts]
    if order == "root_first":
        chain.reverse()
    assert chain[0].public_key() == key.public_key()
    assert 7 <= (chain[0].not_valid_after_utc - chain[0].not_valid_before_utc).days <= 90
    ders = [cert.public_bytes(serialization.Encoding.DER) for cert in chain]
    credentials.check_chain(ders, [chain[-1]], renewal.now() + 1)


def test_singular_topic_root_and_the_tail_with_a_version(device, renewal):
    renewal.topic_tail = "version"
    link = listen(device, "$iothub/credential/res/#")
    rid = ask(link, device, {"id": device.id, "csr": csr(device.id)[1]}, root="credential")
    assert answer(link)[0] == f"$iothub/credential/res/202/?$rid={rid}&$version=1"
    assert answer(link)[0].startswith("$iothub/credential/res/200/")


def test_one_request_at_a_time_and_replace(device, renewal):
    renewal.result_after = 60.0
    link = listen(device)
    body = {"id": device.id, "csr": csr(device.id)[1]}
    first = ask(link, device, body)
    assert "/res/202/" in answer(link)[0]
    ask(link, device, body)
    topic, error = answer(link)
    assert "/res/409/" in topic and error["errorCode"] == 409005
    assert error["info"]["requestId"] == first
    ask(link, device, {**body, "replace": "other-request"})
    assert answer(link)[1]["errorCode"] == 412001
    ask(link, device, {**body, "replace": first})
    assert "/res/202/" in answer(link)[0]
    renewal.result_after = 0.0
    ask(link, device, {**body, "replace": "*"})
    assert "/res/202/" in answer(link)[0] and "/res/200/" in answer(link)[0]
    ask(link, device, {**body, "replace": "none-active"})
    assert answer(link)[1]["errorCode"] == 412001


def test_errors_are_those_of_the_service(device, renewal):
    link = listen(device)
    ask(link, device, {"id": device.id, "csr": "%%%"})
    assert "/res/202/" in answer(link)[0]
    topic, error = answer(link)
    assert "/res/400/" in topic and error["errorCode"] == 400040
    assert error["info"]["credentialError"] == "FailedToDecodeCsr"
    ask(link, device, {"id": "another", "csr": csr(device.id)[1]})
    assert answer(link)[1]["errorCode"] == 400004
    ask(link, device, {"id": device.id, "csr": csr(device.id)[1]}, rid="-x-")
    assert answer(link)[1]["errorCode"] == 400003
    renewal.failures = [{"status": 429, "code": 429002, "message": "Throttled", "retry_after": 5}]
    ask(link, device, {"id": device.id, "csr": csr(device.id)[1]})
    topic, error = answer(link)
    assert "/res/429/" in topic and error["retryAfter"] == 5


def test_the_result_reaches_the_connection_of_that_moment(device, renewal):
    renewal.result_after = 0.3
    link = listen(device)
    ask(link, device, {"id": device.id, "csr": csr(device.id)[1]})
    assert "/res/202/" in answer(link)[0]
    later = listen(device)  # takes the older connection's place
    assert "/res/200/" in answer(later)[0]


def test_without_the_preview_version_the_filter_is_refused(device):
    link = device.connect()
    link.send(wire.subscribe(1, (RESULTS, 0)))
    assert link.expect(wire.SUBACK)[1][2:] == b"\x80"


def test_a_renewed_certificate_connects(hub, renewal, device, tmp_path):
    """What renewal issues is a credential of the hub from the next connect on."""
    hub.emulator.hub.registry.get(device.id).auth = "x509_ca"
    key, request = csr(device.id)
    chain = renewal.issuer.issue(request, device.id, renewal.now())
    certs = [x509.load_der_x509_certificate(der) for der in chain[:2]]
    file = tmp_path / "device.pem"
    file.write_bytes(
        b"".join(cert.public_bytes(serialization.Encoding.PEM) for cert in certs)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.create_default_context(cadata=hub.root_pem)
    for loaded, code in ((True, 0), (False, 5)):
        if loaded:
            context.load_cert_chain(file)
        else:
            context = ssl.create_default_context(cadata=hub.root_pem)
        device.connect(tls=context, password=None, code=code)


def dps_connect(link, scope, reg_id, key, client_id=None):
    password = wire.token(f"{scope}/registrations/{reg_id}", key, policy="registration")
    username = f"{scope}/registrations/{reg_id}/api-version=2019-03-31"
    link.send(wire.connect(client_id or reg_id, username=username, password=password, clean=False))
    return link.expect(wire.CONNACK)[1]


def test_dps_on_the_wire_is_never_persistent_and_grants_qos_1_for_2():
    key = base64.b64encode(b"k" * 32).decode()
    with running(EmulatorConfig(plain_port=0)) as emu:
        scope = emu.emulator.config.id_scope
        emu.enroll("wired", primary_key=key, payload={"p": 1})
        for _ in range(2):
            link = wire.Wire.plain(emu.plain_port)
            assert dps_connect(link, scope, "wired", key) == b"\x00\x00"
            link.send(wire.subscribe(1, ("$dps/registrations/res/#", 2), ("$dps/#", 0)))
            assert link.expect(wire.SUBACK)[1][2:] == b"\x01\x80"
            body = json.dumps({"registrationId": "wired"}).encode()
            link.send(wire.publish("$dps/registrations/PUT/iotdps-register/?$rid=1", body, 1, 7))
            link.expect(wire.PUBACK)
            topic, _ = answer(link)
            assert topic == "$dps/registrations/res/202/?$rid=1&retry-after=0"
            link.close()
        link = wire.Wire.plain(emu.plain_port)
        assert dps_connect(link, scope, "wired", key, client_id="other")[1] == 2
        link = wire.Wire.plain(emu.plain_port)
        dps_connect(link, scope, "wired", key)
        link.send(wire.publish("devices/wired/messages/events/", b"x"))
        with pytest.raises(wire.Closed):
            link.expect(wire.PUBACK)
        assert emu.emulator.hub.registry.find("wired") is not None
