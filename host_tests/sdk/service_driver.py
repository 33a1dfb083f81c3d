"""Drives Microsoft's azure-iot-hub against the emulator; runs in the SDK's own venv.

Reads one JSON job from stdin, runs every step and prints one JSON object with how each ended.
Started by `test_sdk_service.py`; no part of the product.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import traceback

JOB = json.load(sys.stdin)
os.environ["REQUESTS_CA_BUNDLE"] = JOB["root_file"]

from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, MethodResponse  # noqa: E402
from azure.iot.hub import (  # noqa: E402
    IoTHubConfigurationManager,
    IoTHubHttpRuntimeManager,
    IoTHubRegistryManager,
)
from azure.iot.hub.models import (  # noqa: E402
    CloudToDeviceMethod,
    Configuration,
    ConfigurationContent,
    ConfigurationMetrics,
    ConfigurationQueriesTestInput,
    ExportImportDevice,
    QuerySpecification,
    Twin,
    TwinProperties,
)
from msrest.exceptions import HttpOperationError  # noqa: E402

KEYS = [base64.b64encode(bytes([n]) * 32).decode() for n in range(8)]
RESOLVE = socket.getaddrinfo
PORTS = {8883: JOB["mqtt_port"], 443: JOB["https_port"]}
socket.getaddrinfo = lambda host, port, *a, **k: RESOLVE(host, PORTS.get(port, port), *a, **k)

registry = IoTHubRegistryManager.from_connection_string(JOB["connection_string"])
configurations = IoTHubConfigurationManager.from_connection_string(JOB["connection_string"])
runtime = IoTHubHttpRuntimeManager.from_connection_string(JOB["connection_string"])


def check(held: bool, what: object) -> None:
    if not held:
        raise AssertionError(what)


def refused(status: int, function, *args) -> None:
    try:
        function(*args)
    except HttpOperationError as error:
        check(error.response.status_code == status, error.response.status_code)
    else:
        raise AssertionError(f"not refused with {status}")


def devices() -> None:
    made = registry.create_device_with_sas("s1", KEYS[0], KEYS[1], "enabled")
    check(made.device_id == "s1" and made.status == "enabled", made)
    check(made.authentication.symmetric_key.primary_key == KEYS[0], "key")
    refused(409, registry.create_device_with_sas, "s1", KEYS[0], KEYS[1], "enabled")
    registry.create_device_with_x509("x1", "AB" * 20, "CD" * 20, "enabled")
    check(
        registry.get_device("x1").authentication.x509_thumbprint.secondary_thumbprint == "CD" * 20,
        "thumbprint",
    )
    registry.create_device_with_certificate_authority("c1", "disabled", status_reason="why")
    found = registry.get_device("c1")
    check((found.status, found.status_reason) == ("disabled", "why"), found)
    changed = registry.update_device_with_sas("s1", made.etag, KEYS[2], KEYS[3], "enabled")
    check(changed.authentication.symmetric_key.primary_key == KEYS[2], "new key")
    refused(412, registry.update_device_with_sas, "s1", made.etag, KEYS[4], KEYS[5], "enabled")
    x1 = registry.get_device("x1")
    registry.update_device_with_x509("x1", x1.etag, "EF" * 32, "01" * 32, "enabled")
    c1 = registry.get_device("c1")
    registry.update_device_with_certificate_authority("c1", c1.etag, "enabled")
    check(registry.get_device("c1").status == "enabled", "enabled")
    check({d.device_id for d in registry.get_devices(10)} == {"s1", "x1", "c1"}, "list")
    refused(404, registry.get_device, "none")


def modules() -> None:
    made = registry.create_module_with_sas("s1", "m1", "me", KEYS[4], KEYS[5])
    check(made.module_id == "m1" and made.managed_by == "me", made)
    registry.create_module_with_x509("s1", "m2", "me", "AB" * 20, "CD" * 20)
    registry.create_module_with_certificate_authority("s1", "m3", "me")
    registry.update_module_with_sas("s1", "m1", "you", made.etag, KEYS[6], KEYS[7])
    check(registry.get_module("s1", "m1").managed_by == "you", "managed by")
    m2, m3 = registry.get_module("s1", "m2"), registry.get_module("s1", "m3")
    registry.update_module_with_x509("s1", "m2", "you", m2.etag, "EF" * 20, "01" * 20)
    registry.update_module_with_certificate_authority("s1", "m3", "you", m3.etag)
    check({m.module_id for m in registry.get_modules("s1")} == {"m1", "m2", "m3"}, "modules")
    registry.delete_module("s1", "m3")
    refused(404, registry.get_module, "s1", "m3")


def twins() -> None:
    twin = Twin(tags={"ring": "blue"}, properties=TwinProperties(desired={"a": {"b": 1}, "c": 2}))
    made = registry.update_twin("s1", twin)
    check(made.tags == {"ring": "blue"}, made.tags)
    check(made.properties.desired["a"]["b"] == 1, made.properties.desired)
    refused(412, registry.update_twin, "s1", twin, "stale")
    registry.update_twin("s1", Twin(properties=TwinProperties(desired={"c": None})), made.etag)
    check("c" not in registry.get_twin("s1").properties.desired, "c is still there")
    registry.replace_twin("s1", Twin(properties=TwinProperties(desired={"only": 1})))
    after = registry.get_twin("s1")
    check("a" not in after.properties.desired and after.tags in (None, {}), after)
    registry.update_module_twin("s1", "m1", Twin(properties=TwinProperties(desired={"m": 1})))
    check(registry.get_module_twin("s1", "m1").properties.desired["m"] == 1, "module twin")
    registry.replace_module_twin("s1", "m1", Twin(properties=TwinProperties(desired={"n": 1})))
    check("m" not in registry.get_module_twin("s1", "m1").properties.desired, "not replaced")


def methods() -> None:
    options = {"server_verification_cert": JOB["root_pem"]}
    request = CloudToDeviceMethod(
        method_name="hello", payload={"n": 1}, response_timeout_in_seconds=10,
        connect_timeout_in_seconds=5,
    )  # fmt: skip
    for name, module in (("s1", None), ("s1", "m1")):
        key = KEYS[6] if module else KEYS[2]
        text = f"HostName=localhost;DeviceId={name};SharedAccessKey={key}"
        if module:
            text += f";ModuleId={module}"
        cls = IoTHubModuleClient if module else IoTHubDeviceClient
        client = cls.create_from_connection_string(text, **options)

        def answer(call, client=client):
            client.send_method_response(
                MethodResponse(call.request_id, 201, {"got": call.payload, "name": call.name})
            )

        client.on_method_request_received = answer
        client.connect()
        result = (
            registry.invoke_device_module_method(name, module, request)
            if module
            else registry.invoke_device_method(name, request)
        )
        check(result.status == 201, result.status)
        check(result.payload == {"got": {"n": 1}, "name": "hello"}, result.payload)
        client.shutdown()
    request.connect_timeout_in_seconds = 0
    refused(404, registry.invoke_device_method, "s1", request)


def queries() -> None:
    for n in range(25):
        registry.create_device_with_sas(f"q{n:02}", KEYS[0], KEYS[1], "enabled")
        registry.update_twin(f"q{n:02}", Twin(tags={"n": n}))
    text = "SELECT * FROM devices WHERE is_defined(tags.n) AND tags.n >= 3"
    seen, mark = [], None
    while True:
        result = registry.query_iot_hub(QuerySpecification(query=text), mark, 7)
        check(result.type == "Twin", result.type)
        seen += [twin.device_id for twin in result.items]
        mark = result.continuation_token
        if mark is None:
            break
    check(seen == [f"q{n:02}" for n in range(3, 25)], seen)
    refused(400, registry.query_iot_hub, QuerySpecification(query="SELECT"))


def configuration() -> None:
    made = configurations.create_configuration(
        Configuration(
            id="roll",
            schema_version="1.0",
            target_condition="tags.n = 5",
            priority=3,
            labels={"a": "b"},
            content=ConfigurationContent(
                device_content={"properties.desired.trust": {"version": 9}}
            ),
            metrics=ConfigurationMetrics(
                queries={
                    "set": "SELECT deviceId FROM devices "
                    "WHERE properties.desired.trust.version = 9"
                }
            ),
        )
    )
    check(made.system_metrics.results["appliedCount"] == 1, made.system_metrics.results)
    check(registry.get_twin("q05").properties.desired["trust"] == {"version": 9}, "not set")
    found = configurations.get_configuration("roll")
    check(found.metrics.results == {"set": 1} and found.labels == {"a": "b"}, found)
    found.target_condition = "tags.n = 6"
    configurations.update_configuration(found, found.etag)
    check(registry.get_twin("q06").properties.desired["trust"] == {"version": 9}, "not moved")
    check([c.id for c in configurations.get_configurations(10)] == ["roll"], "list")
    tested = configurations.test_configuration_queries(
        ConfigurationQueriesTestInput(
            target_condition="tags.n = ", custom_metric_queries={"bad": "SELECT"}
        )
    )
    check(bool(tested.target_condition_error), "no target error")
    check("bad" in tested.custom_metric_query_errors, tested.custom_metric_query_errors)
    registry.create_device_with_sas("edge", KEYS[0], KEYS[1], "enabled", iot_edge=True)
    configurations.apply_configuration_on_edge_device(
        "edge",
        ConfigurationContent(modules_content={"$edgeAgent": {"properties.desired": {"e": 1}}}),
    )
    check(registry.get_module_twin("edge", "$edgeAgent").properties.desired["e"] == 1, "edge")
    configurations.delete_configuration("roll")
    refused(404, configurations.get_configuration, "roll")


def statistics() -> None:
    found = registry.get_device_registry_statistics()
    check(found.total_device_count == found.enabled_device_count, found)
    check(registry.get_service_statistics().connected_device_count == 0, "connected")


def bulk() -> None:
    result = registry.bulk_create_or_update_devices(
        [
            ExportImportDevice(id="b1", import_mode="create", status="enabled"),
            ExportImportDevice(id="b2", import_mode="create", status="disabled"),
        ]
    )
    check(result.is_successful is True, result)
    check(registry.get_device("b2").status == "disabled", "b2")
    result = registry.bulk_create_or_update_devices(
        [ExportImportDevice(id="none", import_mode="delete")]
    )
    check(not result.is_successful and result.errors[0].device_id == "none", result)


def feedback() -> None:
    check(runtime.receive_feedback_notification() is None, "feedback")
    refused(412, runtime.complete_feedback_notification, "no-such-lock")
    refused(412, runtime.abandon_feedback_notification, "no-such-lock")


def removal() -> None:
    etag = registry.get_device("x1").etag
    refused(412, registry.delete_device, "x1", "stale")
    registry.delete_device("x1", etag)
    registry.delete_device("s1")
    refused(404, registry.get_device, "s1")
    refused(404, registry.get_module, "s1", "m1")


def unauthorized() -> None:
    parts = JOB["connection_string"].rpartition("SharedAccessKey=")
    stranger = IoTHubRegistryManager.from_connection_string(parts[0] + parts[1] + KEYS[0])
    refused(401, stranger.get_devices)


def main() -> None:
    ended = []
    for step in (
        devices, modules, twins, methods, queries, configuration, statistics, bulk, feedback,
        removal, unauthorized,
    ):  # fmt: skip
        try:
            step()
        except Exception:
            ended.append({"name": step.__name__, "ok": False, "error": traceback.format_exc()})
        else:
            ended.append({"name": step.__name__, "ok": True})
    print(json.dumps({"steps": ended}), flush=True)


main()
os._exit(0)  # uamqp's finalizers wait for an AMQP peer that does not exist
