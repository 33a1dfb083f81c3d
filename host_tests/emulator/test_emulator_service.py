"""The service REST subset: rights, registry, twins, queries, configurations."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from urllib.parse import quote

import pytest
from taproot.emulator.connection import Engine
from taproot.emulator.events import Recorder
from taproot.emulator.faults import Faults
from taproot.emulator.hub import Hub
from taproot.emulator.rest import Request
from taproot.emulator.service import ServiceAPI

pytestmark = pytest.mark.requirement("H23")

HOST = "hub.test"


@pytest.fixture
def api():
    engine = Engine(recorder=Recorder(time.time), now=time.time, faults=Faults())
    return ServiceAPI(Hub(engine, hosts=[HOST]))


def token(api, policy="iothubowner", host=HOST, expiry=None, key=None):
    known = api.hub.registry.policies.get(policy)
    key = key or (known.primary_key if known else base64.b64encode(b"x" * 32).decode())
    expiry = expiry or int(time.time()) + 60
    sr = quote(host, safe="")
    mac = hmac.new(base64.b64decode(key), f"{sr}\n{expiry}".encode(), hashlib.sha256).digest()
    sig = quote(base64.b64encode(mac), safe="")
    return f"SharedAccessSignature sr={sr}&sig={sig}&se={expiry}&skn={policy}"


def call(api, method, path, body=None, *, policy="iothubowner", auth=None, query=None, **headers):
    request = Request(
        method,
        path,
        {"api-version": "2021-04-12"} if query is None else query,
        {
            "authorization": auth if auth is not None else token(api, policy),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
        json.dumps(body).encode() if body is not None else b"",
    )
    response = asyncio.run(api.handle(request))
    return response.status, json.loads(response.data or b"null"), response.headers


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"policy": "service"}, 401),
        ({"policy": "registryRead"}, 200),
        ({"policy": "nobody"}, 401),
        ({"auth": ""}, 401),
        ({"auth": "Bearer x"}, 401),
        ({"query": {}}, 400),
        ({"query": {"api-version": "x"}}, 400),
    ],
)
def test_rights_and_api_version(api, how, status):
    assert call(api, "GET", "/devices", **how)[0] == status


def test_token_must_be_for_this_host_in_time_and_by_the_policy_key(api):
    for bad in (
        token(api, host="other.test"),
        token(api, expiry=5),
        token(api, key=api.hub.registry.policies["service"].primary_key),
    ):
        status, body, headers = call(api, "GET", "/devices", auth=bad)
        assert status == 401 and headers["iothub-errorcode"] == "IotHubUnauthorizedAccess"
        assert bad not in json.dumps(body)
    secondary = api.hub.registry.policies["iothubowner"].secondary_key
    assert call(api, "GET", "/devices", auth=token(api, key=secondary))[0] == 200


def test_device_is_made_changed_by_etag_and_removed(api):
    status, made, _ = call(api, "PUT", "/devices/d1", {"deviceId": "d1"})
    assert status == 200 and made["authentication"]["type"] == "sas"
    assert len(base64.b64decode(made["authentication"]["symmetricKey"]["primaryKey"])) == 32
    assert call(api, "PUT", "/devices/d1", {"deviceId": "d1"})[0] == 409
    change = {"deviceId": "d1", "status": "disabled", "statusReason": "test"}
    assert call(api, "PUT", "/devices/d1", change, if_match='"wrong"')[0] == 412
    status, changed, _ = call(api, "PUT", "/devices/d1", change, if_match=f'"{made["etag"]}"')
    assert (status, changed["status"], changed["statusReason"]) == (200, "disabled", "test")
    assert changed["authentication"] == made["authentication"] and changed["etag"] != made["etag"]
    assert call(api, "DELETE", "/devices/d1", if_match='"wrong"')[0] == 412
    assert call(api, "DELETE", "/devices/d1", if_match="*")[0] == 204
    assert call(api, "GET", "/devices/d1")[0] == 404
    assert call(api, "PUT", "/devices/d1", change, if_match="*")[0] == 404


@pytest.mark.parametrize(
    ("authentication", "status"),
    [
        ({"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "ab" * 20}}, 200),
        ({"type": "selfSigned"}, 400),
        ({"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "xy"}}, 400),
        ({"type": "certificateAuthority"}, 200),
        ({"type": "other"}, 400),
        ({"type": "sas", "symmetricKey": {"primaryKey": "short"}}, 400),
    ],
)
def test_authentication_kinds(api, authentication, status):
    body = {"deviceId": "d1", "authentication": authentication}
    found, made, _ = call(api, "PUT", "/devices/d1", body)
    assert found == status, made
    if found == 200:
        assert made["authentication"]["type"] == authentication["type"]
        assert made["authentication"]["symmetricKey"]["primaryKey"] is None


def test_modules_live_under_their_device(api):
    assert call(api, "PUT", "/devices/d1/modules/m1", {})[0] == 404
    call(api, "PUT", "/devices/d1", {})
    status, made, _ = call(api, "PUT", "/devices/d1/modules/m1", {"managedBy": "me"})
    assert (status, made["moduleId"], made["managedBy"]) == (201, "m1", "me")
    assert [m["moduleId"] for m in call(api, "GET", "/devices/d1/modules")[1]] == ["m1"]
    assert call(api, "GET", "/twins/d1/modules/m1")[1]["moduleId"] == "m1"
    assert call(api, "DELETE", "/devices/d1/modules/m1", if_match="*")[0] == 204
    assert call(api, "GET", "/devices/d1/modules/m1")[0] == 404


def test_twin_patch_replace_and_etag(api):
    call(api, "PUT", "/devices/d1", {})
    body = {"tags": {"a": 1}, "properties": {"desired": {"x": {"y": 1}, "z": 2}}}
    status, twin, _ = call(api, "PATCH", "/twins/d1", body)
    assert status == 200 and twin["tags"] == {"a": 1}
    assert twin["properties"]["desired"]["$version"] == 2
    assert "$lastUpdated" in twin["properties"]["desired"]["$metadata"]["x"]["y"]
    patch = {"properties": {"desired": {"z": None}}}
    assert call(api, "PATCH", "/twins/d1", patch, if_match='"stale"')[0] == 412
    status, twin, _ = call(api, "PATCH", "/twins/d1", patch, if_match=f'"{twin["etag"]}"')
    assert "z" not in twin["properties"]["desired"]
    _, twin, _ = call(api, "PUT", "/twins/d1", {"properties": {"desired": {"n": 1}}})
    desired = twin["properties"]["desired"]
    assert twin["tags"] == {} and desired["n"] == 1 and "x" not in desired
    assert call(api, "PATCH", "/twins/d1", {"tags": {"b": "x" * 9000}})[0] in (400, 413)
    assert call(api, "PATCH", "/twins/d1", [])[0] == 400


def test_query_pages_by_continuation_and_survives_changes_between_pages(api):
    for n in range(25):
        api.hub.registry.add(f"d{n:02}")
        api.hub.registry.get(f"d{n:02}").twin.reported.patch({"v": n % 3})
    text = "SELECT deviceId FROM devices WHERE properties.reported.v < 2"
    seen, mark, pages = [], None, 0
    while True:
        headers = {"x_ms_max_item_count": "5"}
        if mark:
            headers["x_ms_continuation"] = mark
        status, rows, found = call(api, "POST", "/devices/query", {"query": text}, **headers)
        assert status == 200 and len(rows) <= 5 and found["x-ms-item-type"] == "Raw"
        seen += [row["deviceId"] for row in rows]
        pages += 1
        mark = found.get("x-ms-continuation")
        if pages == 1:
            api.hub.registry.remove("d00")  # a page already read
            api.hub.registry.remove("d24")  # one still to come, filtered anyway or not
        if mark is None:
            break
        other = call(
            api,
            "POST",
            "/devices/query",
            {"query": "SELECT * FROM devices"},
            x_ms_continuation=mark,
        )
        assert other[0] == 400
    expected = [f"d{n:02}" for n in range(25) if n % 3 < 2 and n != 24]
    assert seen == expected and pages >= 3
    assert call(api, "POST", "/devices/query", {"query": "x"})[2]["iothub-errorcode"] == (
        "IotHubQueryParserError"
    )
    assert call(api, "POST", "/devices/query", {"query": text}, x_ms_continuation="%%")[0] == 400


def test_query_top_ends_across_pages_and_groups_page_too(api):
    for n in range(10):
        api.hub.registry.add(f"d{n}").twin.reported.patch({"v": n})
    body = {"query": "SELECT TOP 7 deviceId FROM devices"}
    _, rows, headers = call(api, "POST", "/devices/query", body, x_ms_max_item_count="5")
    mark = headers["x-ms-continuation"]
    _, rest, headers = call(
        api, "POST", "/devices/query", body, x_ms_max_item_count="5", x_ms_continuation=mark
    )
    assert (len(rows), len(rest)) == (5, 2) and "x-ms-continuation" not in headers
    body = {
        "query": "SELECT properties.reported.v AS v, COUNT() AS n FROM devices "
        "GROUP BY properties.reported.v AS v"
    }
    _, rows, headers = call(api, "POST", "/devices/query", body, x_ms_max_item_count="6")
    _, rest, headers = call(
        api,
        "POST",
        "/devices/query",
        body,
        x_ms_max_item_count="6",
        x_ms_continuation=headers["x-ms-continuation"],
    )
    assert [row["v"] for row in rows + rest] == list(range(10))


def test_configuration_sets_desired_on_what_it_targets_by_priority(api):
    for name, ring in (("a", "blue"), ("b", "green")):
        api.hub.registry.add(name).twin.patch_tags({"ring": ring})
    base = {
        "targetCondition": "*",
        "priority": 1,
        "content": {"deviceContent": {"properties.desired.trust": {"version": 1}}},
    }
    assert call(api, "PUT", "/configurations/base", {"id": "base", **base})[0] == 201
    blue = {
        "targetCondition": "tags.ring = 'blue'",
        "priority": 5,
        "content": {"deviceContent": {"properties.desired.trust.version": 2}},
        "metrics": {
            "queries": {
                "second": "SELECT deviceId FROM devices WHERE properties.desired.trust.version = 2"
            }
        },
    }
    status, made, _ = call(api, "PUT", "/configurations/blue", blue)
    assert status == 201, made
    assert made["systemMetrics"]["results"] == {"targetedCount": 1, "appliedCount": 1}
    assert made["metrics"]["results"] == {"second": 1}

    def version(name):
        return api.hub.registry.get(name).twin.desired.values["trust"]["version"]

    assert (version("a"), version("b")) == (2, 1)
    call(api, "PATCH", "/twins/b", {"tags": {"ring": "blue"}})
    assert version("b") == 2
    before = api.hub.registry.get("b").twin.desired.version
    call(api, "GET", "/configurations/blue")
    assert api.hub.registry.get("b").twin.desired.version == before  # nothing set twice
    assert call(api, "PUT", "/configurations/blue", blue)[0] == 409
    assert (
        call(api, "PUT", "/configurations/blue", {**blue, "priority": 9}, if_match="*")[0] == 200
    )
    assert len(call(api, "GET", "/configurations")[1]) == 2
    assert call(api, "DELETE", "/configurations/blue", if_match="*")[0] == 204
    assert call(api, "GET", "/configurations/blue")[0] == 404
    bad = {"targetCondition": "tags.ring ="}
    assert call(api, "PUT", "/configurations/bad", bad)[0] == 400
    tested = {"targetCondition": "(", "customMetricQueries": {"m": "SELECT"}}
    body = call(api, "POST", "/configurations/testQueries", tested)[1]
    assert body["targetConditionError"] and body["customMetricQueryErrors"]["m"]


def test_bulk_reports_each_error(api):
    api.hub.registry.add("old")
    entries = [
        {"id": "n1", "importMode": "create", "tags": {"a": 1}},
        {"id": "old", "importMode": "create"},
        {"id": "gone", "importMode": "delete"},
        {"id": "old", "importMode": "update", "status": "disabled"},
    ]
    status, body, _ = call(api, "POST", "/devices", entries)
    assert status == 400 and not body["isSuccessful"]
    assert [error["deviceId"] for error in body["errors"]] == ["old", "gone"]
    assert api.hub.registry.get("n1").twin.tags == {"a": 1}
    assert not api.hub.registry.get("old").enabled


def test_method_on_an_absent_device_is_404103(api):
    api.hub.registry.add("d1")
    body = {"methodName": "m", "payload": {}, "responseTimeoutInSeconds": 5}
    status, answer, _ = call(api, "POST", "/twins/d1/methods", body)
    assert status == 404 and json.loads(answer["Message"])["errorCode"] == 404103
    assert (
        call(api, "POST", "/twins/d1/methods", {**body, "responseTimeoutInSeconds": 1})[0] == 400
    )
    assert call(api, "POST", "/twins/none/methods", body)[0] == 404


def test_feedback_is_locked_completed_or_given_back(api):
    device = api.hub.registry.add("d1")
    device.ever_connected = True
    assert call(api, "GET", "/messages/serviceBound/feedback")[0] == 204
    api.hub.send_c2d("d1", b"x", ack="full", ttl=-1.0)
    device.queue.expire()
    status, body, headers = call(api, "GET", "/messages/serviceBound/feedback")
    assert status == 200 and body[0]["statusCode"] == "Expired"
    lock = headers["ETag"].strip('"')
    assert call(api, "POST", f"/messages/serviceBound/feedback/{lock}/abandon")[0] == 204
    lock = call(api, "GET", "/messages/servicebound/feedback")[2]["ETag"].strip('"')
    assert call(api, "DELETE", f"/messages/serviceBound/feedback/{lock}")[0] == 204
    assert call(api, "DELETE", f"/messages/serviceBound/feedback/{lock}")[0] == 412
    api.hub.send_c2d("d1", b"x")
    assert call(api, "DELETE", "/devices/d1/commands")[1]["totalMessagesPurged"] == 1


def test_statistics_and_unknown_paths(api):
    api.hub.registry.add("a")
    api.hub.registry.add("b", enabled=False)
    assert call(api, "GET", "/statistics/devices")[1] == {
        "totalDeviceCount": 2,
        "enabledDeviceCount": 1,
        "disabledDeviceCount": 1,
    }
    assert call(api, "GET", "/statistics/service")[1] == {"connectedDeviceCount": 0}
    assert call(api, "GET", "/jobs")[0] == 404
    assert call(api, "POST", "/statistics/service")[0] == 405
