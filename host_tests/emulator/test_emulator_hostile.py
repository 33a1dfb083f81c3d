"""Whatever a client sends ends in an answer, never in an unexpected exception (emulator issue)."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from taproot.emulator import credentials, query
from taproot.emulator.blobs import BlobStore
from taproot.emulator.connection import Engine
from taproot.emulator.credentials import Refused
from taproot.emulator.device_rest import DeviceAPI
from taproot.emulator.downloads import Download
from taproot.emulator.dps import Provisioning, Violation
from taproot.emulator.enrollments import Enrollment
from taproot.emulator.events import Recorder
from taproot.emulator.faults import Faults
from taproot.emulator.hub import Hub
from taproot.emulator.issuance import BadRequest, load_csr
from taproot.emulator.rest import Request
from taproot.emulator.service import ServiceAPI

pytestmark = pytest.mark.requirement("H23", "H21", "D2")

KEY = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
NOW = 1_800_000_000.0


@pytest.fixture
def rules(count):
    """Settings with the short or the long count."""
    return settings(
        max_examples=count(150, 2000),
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
words = st.sampled_from(
    "select * from devices devices.modules where group by top and or not in nin ( ) [ ] , . = < "
    "> <= != 1 2.5 'x' \"y\" tags properties reported deviceId count is_defined as null true - /"
    .split()
)  # fmt: skip


def test_any_query_is_answered_or_refused(rules):
    documents = [{"deviceId": "a", "tags": {"x": 1}, "properties": {"reported": {"v": "1"}}}]

    @rules
    @given(st.lists(words, max_size=14).map(" ".join) | st.text(max_size=60))
    def check(text):
        try:
            parsed = query.parse(text)
        except query.QueryError:
            return
        assert isinstance(parsed.run(documents), list)

    check()


def test_any_token_is_judged_or_refused(rules):
    parts = st.sampled_from(["sr", "sig", "se", "skn", "x", "=", "&", "%2F", "1", "a%", "AA=="])

    @rules
    @given(st.lists(parts, max_size=12).map("".join) | st.text(max_size=60))
    def check(text):
        with pytest.raises(Refused):
            credentials.check_token("SharedAccessSignature " + text, "h/devices/d", [KEY], NOW)

    check()


def test_any_certificate_request_is_refused(rules):
    @rules
    @given(json_value | st.binary(max_size=200).map(lambda b: b.hex()))
    def check(value):
        with pytest.raises(BadRequest):
            load_csr(value)

    check()


def test_any_dps_request_is_answered_or_closes(rules):
    service = Provisioning("s", now=lambda: NOW)
    service.registry.add(Enrollment("d", primary_key=KEY))
    verbs = st.sampled_from(["PUT/iotdps-register/", "GET/iotdps-get-operationstatus/", "X", ""])
    tails = st.sampled_from(["?$rid=1", "?$rid=", "?", "", "?$rid=1&operationId=5.x", "?a&b=&=c"])
    session = service.connect(
        "d", "s/registrations/d/api-version=2019-03-31",
        "SharedAccessSignature sr=s%2Fregistrations%2Fd&sig=AA%3D%3D&se=1900000000", [],
    )[1]  # fmt: skip
    session.subscribe("$dps/registrations/res/#")
    session._attest = lambda: service.registry.individual["d"]

    @rules
    @given(verbs, tails, json_value.map(lambda v: json.dumps(v).encode()) | st.binary(max_size=40))
    def check(verb, tail, payload):
        try:
            replies = session.publish(f"$dps/registrations/{verb}{tail}", payload)
        except Violation:
            return
        for reply in replies:
            assert reply.topic.startswith("$dps/registrations/res/")
            assert isinstance(json.loads(reply.payload), dict)

    check()


def test_any_service_request_has_an_answer(rules, monkeypatch):
    engine = Engine(recorder=Recorder(time.time), now=time.time, faults=Faults())
    hub = Hub(engine)
    hub.registry.add("d")
    hub.registry.add("d/m")
    api = ServiceAPI(hub)
    monkeypatch.setattr(api, "_authorize", lambda request, rights: None)
    paths = st.sampled_from(
        "/devices /devices/d /devices/e /devices/d/modules /devices/d/modules/m /devices/query "
        "/twins/d /twins/d/modules/m /twins/d/methods /configurations /configurations/c "
        "/configurations/testQueries /statistics/devices /devices/d/applyConfigurationContent "
        "/messages/serviceBound/feedback /x".split()
    )
    member = st.sampled_from(
        "deviceId moduleId authentication type symmetricKey primaryKey x509Thumbprint tags status "
        "primaryThumbprint properties desired query content deviceContent targetCondition id "
        "importMode metrics queries priority methodName payload responseTimeoutInSeconds "
        "customMetricQueries modulesContent capabilities iotEdge properties.desired".split()
    )
    body = st.recursive(
        json_value,
        lambda inner: st.dictionaries(member, inner, max_size=5) | st.lists(inner, max_size=3),
        max_leaves=12,
    )
    header = st.dictionaries(
        st.sampled_from(["if-match", "x-ms-continuation", "x-ms-max-item-count"]),
        st.sampled_from(["*", '"x"', "", "1", "-1", "zz", "W10="]),
    )
    methods = st.sampled_from(["GET", "PUT", "POST", "PATCH", "DELETE"])
    loop = asyncio.new_event_loop()

    @rules
    @given(methods, paths, body, header)
    def check(method, path, value, headers):
        query_fields = {"api-version": "2021-04-12", "top": "3"}
        request = Request(method, path, query_fields, headers, json.dumps(value).encode())
        response = loop.run_until_complete(api.handle(request))
        assert 200 <= response.status < 600
        assert isinstance(response.data, bytes)

    try:
        check()
    finally:
        loop.close()


def test_any_upload_or_download_request_has_an_answer(rules, monkeypatch):
    engine = Engine(recorder=Recorder(time.time), now=time.time, faults=Faults())
    hub = Hub(engine)
    device = hub.registry.add("d")
    blobs = BlobStore(time.time)
    api = DeviceAPI(hub, blobs, lambda: "h")
    monkeypatch.setattr(api, "_authenticate", lambda name, request: device)
    monkeypatch.setattr(blobs, "_authorize", lambda name, request: None)
    paths = st.sampled_from(["/devices/d/files", "/devices/d/files/notifications", "/uploads/a/b"])
    fields = st.dictionaries(
        st.sampled_from(["comp", "blockid", "api-version"]),
        st.sampled_from(["block", "blocklist", "QUE=", "2019-10-01", ""]),
    )
    headers = st.dictionaries(
        st.sampled_from(["x-ms-blob-type", "content-md5", "range", "if-match"]),
        st.sampled_from(["BlockBlob", "x", "bytes=0-1", "bytes=-", "bytes=9-1", "*"]),
    )
    xml = st.sampled_from(
        [b"<BlockList><Latest>QUE=</Latest></BlockList>", b"<a/>", b"<!DOCTYPE a>"]
    )
    bodies = json_value.map(lambda v: json.dumps(v).encode()) | st.binary(max_size=30) | xml
    download = Download(b"0123456789")

    @rules
    @given(st.sampled_from(["POST", "PUT", "GET", "HEAD"]), paths, fields, headers, bodies)
    def check(method, path, query_fields, given_headers, body):
        request = Request(method, path, query_fields, given_headers, body)
        answer = (blobs if path.startswith("/uploads") else api).handle(request)
        assert 200 <= answer.status < 600
        part = download.answer(method, given_headers, NOW)
        assert part.status in (200, 206, 405, 412, 416)
        assert part.body in b"0123456789"

    check()
