"""DPS semantics: the pure service, no socket."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import json
import time
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from taproot.emulator import credentials
from taproot.emulator.dps import Failure, Provisioning, Violation
from taproot.emulator.enrollments import Enrollment
from taproot.emulator.issuance import Issuer
from taproot.pki import Authority

pytestmark = pytest.mark.requirement("D1", "D2", "D3", "D4", "D5", "D6")

NOW = int(time.time())
SCOPE = "0ne00000001"
KEY = base64.b64encode(b"k" * 32).decode()
OTHER = base64.b64encode(b"x" * 32).decode()
GROUP_KEY = (
    "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
)
GROUP_ID = "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6"


def token(reg_id, key=KEY, expiry=NOW + 3600, scope=SCOPE, encode=True, skn="registration"):
    """Make a token the way an SDK does, with its own arithmetic."""
    sr = f"{scope}/registrations/{reg_id}"
    sr = quote(sr, safe="") if encode else sr
    mac = hmac.new(base64.b64decode(key), f"{sr}\n{expiry}".encode(), hashlib.sha256)
    sig = quote(base64.b64encode(mac.digest()), safe="")
    return f"SharedAccessSignature sr={sr}&sig={sig}&se={expiry}&skn={skn}"


def make(**options):
    events = []
    options.setdefault("own_hub", lambda: "hub.test")
    service = Provisioning(
        SCOPE,
        now=lambda: NOW,
        log=lambda kind, **facts: events.append((kind, facts)),
        **options,
    )
    service.events = events
    return service


def connect(service, reg_id="dev1", password=None, ders=(), version="2019-03-31", key=KEY):
    username = f"{SCOPE}/registrations/{reg_id}/api-version={version}&ClientVersion=test"
    if password is None and not ders:
        password = token(reg_id, key)
    code, session, reason = service.connect(reg_id, username, password, ders)
    assert code == 0, reason
    assert session.subscribe("$dps/registrations/res/#")
    return session


def register(session, rid="1", **extra):
    body = {"registrationId": session.registration_id, "payload": None, **extra}
    [reply] = session.publish(
        f"$dps/registrations/PUT/iotdps-register/?$rid={rid}", json.dumps(body).encode()
    )
    return reply.topic, json.loads(reply.payload)


def poll(session, operation, rid="2"):
    [reply] = session.publish(
        f"$dps/registrations/GET/iotdps-get-operationstatus/?$rid={rid}&operationId={operation}",
        b" ",
    )
    return reply.topic, json.loads(reply.payload)


def complete(session, **extra):
    topic, body = register(session, **extra)
    assert topic.startswith("$dps/registrations/res/202/?$rid=1"), (topic, body)
    for _ in range(20):
        topic, reply = poll(session, body["operationId"])
        if "/res/202/" not in topic:
            return topic, reply
    raise AssertionError("no result after 20 polls")


def test_group_key_is_derived_as_microsoft_documents():
    assert (
        credentials.derive_key(GROUP_KEY, GROUP_ID)
        == "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="
    )


@pytest.mark.parametrize(
    "text",
    [
        "SharedAccessSignature sr=0ne0001%2Fregistrations%2Fsn-007-888-abc-mac-a1-b2-c3-d4-e5-f6"
        "&sig=4fowDALkM7zWfLf%2FDVXPMT5nc0jiqdgmTvaugHIe%2BpU%3D&se=1893456000&skn=registration",
        "SharedAccessSignature sr=0ne0001/registrations/sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6"
        "&sig=Sh00j0Rf1KA5IJN88Tx92yRXBwxeRx4z%2BKHO1pdyj2I%3D&se=1893456000&skn=registration",
    ],
)
def test_signature_is_checked_over_sr_exactly_as_sent(text):
    key = credentials.derive_key(GROUP_KEY, GROUP_ID)
    resource = f"0ne0001/registrations/{GROUP_ID}"
    assert credentials.check_token(text, resource, [key], NOW).policy == "registration"
    swapped = text.replace("%2F", "/") if "sr=0ne0001%2F" in text else text.replace("/", "%2F", 2)
    with pytest.raises(credentials.Refused):
        credentials.check_token(swapped, resource, [key], NOW)


def test_resource_prefix_is_matched_by_whole_segments():
    parsed = credentials.parse_token("SharedAccessSignature sr=/a/b&sig=eA%3D%3D&se=1")
    assert parsed.covers("a/b/c")
    assert not parsed.covers("a/bc")


def test_register_polls_until_assigned():
    service = make()
    service.registry.add(Enrollment("dev1", primary_key=KEY, polls=2, retry_after=3))
    session = connect(service)
    topic, body = register(session, rid="a%20b-7")
    assert topic == "$dps/registrations/res/202/?$rid=a%20b-7&retry-after=3"
    assert body["status"] == "assigning"
    for _ in range(2):
        topic, _ = poll(session, body["operationId"])
        assert "/res/202/" in topic and topic.endswith("&retry-after=3")
    topic, reply = poll(session, body["operationId"], rid="z")
    assert topic == "$dps/registrations/res/200/?$rid=z"
    state = reply["registrationState"]
    assert (reply["status"], state["assignedHub"], state["deviceId"]) == (
        "assigned",
        "hub.test",
        "dev1",
    )
    assert state["substatus"] == "initialAssignment"
    assert "issuedCertificateChain" not in state and "connectionProfile" not in state


@pytest.mark.parametrize("key", ["primary", "secondary"])
def test_individual_accepts_both_keys_and_gives_them_to_the_hub(key):
    given = []
    service = make(assigned=lambda record, enrollment, how: given.append((record.device_id, how)))
    service.registry.add(Enrollment("dev1", primary_key=KEY, secondary_key=OTHER, device_id="d-9"))
    _, reply = complete(connect(service, key={"primary": KEY, "secondary": OTHER}[key]))
    assert reply["registrationState"]["deviceId"] == "d-9"
    assert given == [("d-9", {"auth": "sas", "keys": [KEY, OTHER]})]


def test_group_member_signs_with_the_derived_key():
    service = make()
    service.registry.add(Enrollment("g", group=True, primary_key=GROUP_KEY))
    derived = credentials.derive_key(GROUP_KEY, GROUP_ID)
    _, reply = complete(connect(service, GROUP_ID, key=derived))
    assert reply["status"] == "assigned"
    topic, body = register(connect(service, GROUP_ID, key=GROUP_KEY))
    assert "/res/401/" in topic and body["errorCode"] == 401002


def test_wrong_key_is_401_on_register_or_connack_5_by_switch():
    for bad_key in ("reply", "connack"):
        service = make(bad_key=bad_key)
        service.registry.add(Enrollment("dev1", primary_key=KEY))
        username = f"{SCOPE}/registrations/dev1/api-version=2019-03-31"
        code, session, _ = service.connect("dev1", username, token("dev1", OTHER), [])
        if bad_key == "connack":
            assert (code, session) == (5, None)
        else:
            session.subscribe("$dps/registrations/res/#")
            topic, body = register(session)
            assert "/res/401/" in topic
            assert set(body) == {"errorCode", "trackingId", "message", "timestampUtc"}


@pytest.mark.parametrize(
    ("client_id", "username", "password", "code"),
    [
        ("dev1", f"{SCOPE}/registrations/dev1/api-version=2019-03-31", None, 5),
        ("dev1", f"{SCOPE}/registrations/dev1/?api-version=2019-03-31", token("dev1"), 5),
        ("dev1", f"{SCOPE}/registrations/dev1/api-version=1999-01-01", token("dev1"), 5),
        ("dev1", f"{SCOPE}/registrations/dev1/", token("dev1"), 5),
        ("dev1", "other/registrations/dev1/api-version=2019-03-31", token("dev1"), 5),
        ("dev2", f"{SCOPE}/registrations/dev1/api-version=2019-03-31", token("dev1"), 2),
        ("-dev", f"{SCOPE}/registrations/-dev/api-version=2019-03-31", token("-dev"), 2),
        ("dev1", f"{SCOPE}/registrations/dev1/api-version=2019-03-31", token("dev2"), 5),
        ("dev1", f"{SCOPE}/registrations/dev1/api-version=2019-03-31", token("dev1", skn="x"), 5),
        ("dev1", f"{SCOPE}/registrations/dev1/api-version=2019-03-31", token("dev1", expiry=1), 5),
        ("dev1", f"{SCOPE}/registrations/dev1/api-version=2019-03-31", "nonsense", 5),
    ],
)
def test_connect_rules(client_id, username, password, code):
    service = make()
    service.registry.add(Enrollment("dev1", primary_key=KEY))
    assert service.connect(client_id, username, password, [])[:2] == (code, None)


@pytest.fixture(scope="module")
def client_ca():
    root = Authority.root("device root", "p256")
    return root, root.intermediate("device issuing", "p256")


def test_x509_group_needs_the_intermediate_and_cn_equal_to_the_id(client_ca):
    root, issuing = client_ca
    leaf = issuing.leaf("dev1", "p256", client=True)
    given = []
    service = make(assigned=lambda record, enrollment, how: given.append(how))
    service.registry.add(Enrollment("g", group=True, roots=(root.cert,)))
    topic, _ = complete(connect(service, ders=[leaf.der, issuing.der]))
    assert "/res/200/" in topic
    assert given[0]["thumbprints"] == [leaf.sha256.upper()]
    assert "/res/401/" in register(connect(service, ders=[leaf.der]))[0]
    other = issuing.leaf("dev2", "p256", client=True)
    assert "/res/401/" in register(connect(service, ders=[other.der, issuing.der]))[0]
    # a group may also be enrolled by its verified intermediate
    service.registry.remove("g")
    service.registry.add(Enrollment("g2", group=True, roots=(issuing.cert,)))
    assert "/res/202/" in register(connect(service, ders=[leaf.der, issuing.der]))[0]
    assert "/res/202/" in register(connect(service, ders=[leaf.der]))[0]


@pytest.mark.parametrize("which", [0, 1], ids=["sha1", "sha256"])
def test_x509_individual_by_thumbprint_checks_dates(client_ca, which):
    _, issuing = client_ca
    leaf = issuing.leaf("dev1", "p256", client=True)
    service = make()
    service.registry.add(
        Enrollment("dev1", thumbprints=(credentials.thumbprints(leaf.der)[which],))
    )
    assert "/res/200/" in complete(connect(service, ders=[leaf.der]))[0]
    old = issuing.leaf(
        "dev1",
        "p256",
        client=True,
        not_before=dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc),
        not_after=dt.datetime(2021, 1, 1, tzinfo=dt.timezone.utc),
    )
    service.registry.add(Enrollment("dev1", thumbprints=(old.sha256,)))
    assert "/res/401/" in register(connect(service, ders=[old.der]))[0]
    assert any("expired" in facts.get("reason", "") for _, facts in service.events)


def test_an_individual_enrolment_wins_over_a_group():
    service = make()
    service.registry.add(Enrollment("g", group=True, primary_key=GROUP_KEY))
    service.registry.add(Enrollment("dev1", primary_key=KEY))
    derived = credentials.derive_key(GROUP_KEY, "dev1")
    assert "/res/401/" in register(connect(service, key=derived))[0]
    assert "/res/202/" in register(connect(service, key=KEY))[0]


@pytest.mark.parametrize("outcome", ["failed", "unassigned", "disabled"])
def test_outcomes_other_than_assigned(outcome):
    service = make()
    service.registry.add(Enrollment("dev1", primary_key=KEY, outcome=outcome))
    topic, reply = complete(connect(service))
    assert "/res/200/" in topic and reply["status"] == outcome
    assert "assignedHub" not in reply["registrationState"]
    if outcome == "failed":
        assert reply["registrationState"]["errorCode"] == 400207


def test_disabled_enrolment_reports_disabled():
    service = make()
    service.registry.add(Enrollment("dev1", primary_key=KEY, enabled=False))
    assert complete(connect(service))[1]["status"] == "disabled"


@pytest.mark.parametrize("status", [401, 404, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("on", ["register", "query"])
def test_errors_on_demand_have_the_documented_body_and_then_end(status, on):
    service = make()
    service.registry.add(Enrollment("dev1", primary_key=KEY, polls=0))
    service.failures.append(Failure(status, retry_after=7, on=on, count=2))
    session = connect(service)
    for _ in range(2 if on == "register" else 0):
        topic, body = register(session)
        assert topic == f"$dps/registrations/res/{status}/?$rid=1&retry-after=7"
        assert body["errorCode"] // 1000 == status and "operationId" not in body
    _, body = register(session)
    for _ in range(2 if on == "query" else 0):
        topic, _ = poll(session, body["operationId"])
        assert topic == f"$dps/registrations/res/{status}/?$rid=2&retry-after=7"
    assert "/res/200/" in poll(session, body["operationId"])[0]


def test_unknown_operation_is_404_and_another_devices_operation_too():
    service = make()
    service.registry.add(Enrollment("dev1", primary_key=KEY))
    service.registry.add(Enrollment("dev2", primary_key=KEY))
    _, body = register(connect(service, "dev1"))
    assert "/res/404/" in poll(connect(service, "dev2"), body["operationId"])[0]
    assert "/res/404/" in poll(connect(service, "dev2"), "5.none")[0]


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b'{"registrationId":"dev2"}', b"\xff"])
def test_bad_register_body_is_400(payload):
    service = make()
    service.registry.add(Enrollment("dev1", primary_key=KEY))
    session = connect(service)
    [reply] = session.publish("$dps/registrations/PUT/iotdps-register/?$rid=1", payload)
    assert "/res/400/" in reply.topic


@pytest.mark.parametrize(
    "topic",
    [
        "$dps/registrations/PUT/iotdps-register/",
        "$dps/registrations/PUT/iotdps-register/?$rid=",
        "$dps/registrations/POST/x/?$rid=1",
        "devices/dev1/messages/events/",
        "$iothub/twin/GET/?$rid=1",
    ],
)
def test_undocumented_topic_closes(topic):
    service = make()
    service.registry.add(Enrollment("dev1", primary_key=KEY))
    with pytest.raises(Violation):
        connect(service).publish(topic, b"{}")


def test_a_token_without_skn_is_taken_as_the_python_sdk_sends_it():
    service = make()
    service.registry.add(Enrollment("dev1", primary_key=KEY))
    session = connect(service, password=token("dev1").partition("&skn=")[0])
    assert "/res/202/" in register(session)[0]


def test_only_the_documented_filter_is_granted_and_nothing_comes_without_it():
    service = make()
    service.registry.add(Enrollment("dev1", primary_key=KEY))
    session = connect(service)
    assert not session.subscribe("$dps/#")
    session.unsubscribe("$dps/registrations/res/#")
    assert session.publish("$dps/registrations/PUT/iotdps-register/?$rid=1", b"{}") == []


def test_custom_payload_both_ways_and_reassignment():
    seen = []

    def allocate(registration_id, payload, hub):
        seen.append((registration_id, payload, hub))
        target = ["one.test", "two.test", "one.test"][len(seen) - 1]
        return {"iotHubHostName": target, "payload": {"n": len(seen)}}

    service = make()
    service.registry.add(Enrollment("dev1", primary_key=KEY, allocate=allocate))
    session = connect(service)
    states = [complete(session, payload={"a": n})[1]["registrationState"] for n in range(3)]
    assert seen == [
        ("dev1", {"a": 0}, None),
        ("dev1", {"a": 1}, "one.test"),
        ("dev1", {"a": 2}, "two.test"),
    ]
    assert [state["payload"] for state in states] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert [state["substatus"] for state in states] == [
        "initialAssignment",
        "deviceDataMigrated",
        "reprovisionedToInitialAssignment",
    ]


def test_failing_allocation_function_is_a_failed_assignment():
    def allocate(*_):
        raise KeyError("x")

    service = make()
    service.registry.add(Enrollment("dev1", primary_key=KEY, allocate=allocate))
    state = complete(connect(service))[1]["registrationState"]
    assert state["status"] == "failed" and "KeyError" in state["errorMessage"]


def test_allocation_over_several_hubs_is_stable_and_follows_the_list():
    service = make()
    service.registry.add(Enrollment("g", group=True, primary_key=GROUP_KEY, hubs=("a", "b")))
    hubs = set()
    for n in range(12):
        name = f"dev{n}"
        session = connect(service, name, key=credentials.derive_key(GROUP_KEY, name))
        first = complete(session)[1]["registrationState"]["assignedHub"]
        assert complete(session)[1]["registrationState"]["assignedHub"] == first
        hubs.add(first)
    assert hubs == {"a", "b"}
    service.registry.groups["g"].hubs = ("c.device.azure-devices.net",)
    state = complete(session)[1]["registrationState"]
    assert state["assignedHub"] == "c.device.azure-devices.net"
    assert state["substatus"] == "deviceDataMigrated"


@pytest.mark.parametrize("profile", [None, "classic", "mqttV5", "later"])
def test_connection_profile_is_given_as_enrolled(profile):
    service = make()
    service.registry.add(Enrollment("dev1", primary_key=KEY, connection_profile=profile))
    assert complete(connect(service))[1]["registrationState"]["connectionProfile"] == profile


def csr(name, curve=None):
    key = ec.generate_private_key(curve or ec.SECP384R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .sign(key, hashes.SHA384())
    )
    der = request.public_bytes(serialization.Encoding.DER)
    return key, base64.b64encode(der).decode()


def test_csr_is_answered_with_a_chain_only_behind_the_preview_switch():
    issuer = Issuer()
    key, request = csr("dev1")
    for preview, version, issued in (
        (True, "2025-07-01-preview", True),
        (True, "2019-03-31", False),
        (False, "2025-07-01-preview", False),
    ):
        given = []
        service = make(
            preview=preview, issuer=issuer, assigned=lambda r, e, how, g=given: g.append(how)
        )
        service.registry.add(Enrollment("dev1", primary_key=KEY, issue_certificates=True))
        state = complete(connect(service, version=version), csr=request)[1]["registrationState"]
        if not issued:
            assert "issuedCertificateChain" not in state
            continue
        chain = [base64.b64decode(text) for text in state["issuedCertificateChain"]]
        assert 1 <= len(chain) <= 3
        leaf = x509.load_der_x509_certificate(chain[0])
        assert leaf.public_key() == key.public_key()
        credentials.check_chain(chain, [issuer.root.cert], NOW + 10)
        assert given == [{"auth": "x509_ca"}]


def test_chain_is_null_where_the_enrolment_issues_none():
    service = make(preview=True, issuer=Issuer())
    service.registry.add(Enrollment("dev1", primary_key=KEY))
    session = connect(service, version="2025-07-01-preview")
    assert complete(session, csr=csr("dev1")[1])[1]["registrationState"][
        "issuedCertificateChain"
    ] is None  # fmt: skip


@pytest.mark.parametrize("bad", ["name", "curve", "base64", "type", "signature"])
def test_bad_csr_is_400040(bad):
    service = make(preview=True, issuer=Issuer())
    service.registry.add(Enrollment("dev1", primary_key=KEY, issue_certificates=True))
    good = csr("dev1")[1]
    broken = bytearray(base64.b64decode(good))
    broken[-1] ^= 1
    request = {
        "name": csr("dev2")[1],
        "curve": csr("dev1", ec.SECP256R1())[1],
        "base64": "-----BEGIN",
        "type": 7,
        "signature": base64.b64encode(broken).decode(),
    }[bad]
    topic, body = register(connect(service, version="2025-07-01-preview"), csr=request)
    assert "/res/400/" in topic and body["errorCode"] == 400040


def test_operations_are_bounded(monkeypatch):
    monkeypatch.setattr("taproot.emulator.dps.MAX_OPERATIONS", 5)
    service = make()
    service.registry.add(Enrollment("dev1", primary_key=KEY))
    session = connect(service)
    for _ in range(9):
        register(session)
    assert len(service.operations) == 5
