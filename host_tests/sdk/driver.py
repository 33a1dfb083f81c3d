"""Drives Microsoft's azure-iot-device against the emulator; runs in the SDK's own venv.

Reads one JSON job from stdin (host, ports, root, control API, cases), runs every case and prints
one JSON object: what was called, how each case ended. One scenario serves the sync and the aio
clients: calls of the sync ones go to a thread. The SDK's literal ports 8883 and 443 become the
emulator's inside this process only. Started by `test_sdk_device.py`; no part of the product.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import inspect
import json
import logging
import socket
import ssl
import sys
import time
import traceback
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import azure.iot.device as sync_sdk
import azure.iot.device.aio as aio_sdk
from azure.iot.device import X509, Message, MethodResponse
from azure.iot.device.exceptions import ClientError, CredentialError, NoConnectionError

CLASSES = ("IoTHubDeviceClient", "IoTHubModuleClient", "ProvisioningDeviceClient")
JOB = json.load(sys.stdin)
CALLED: Counter[str] = Counter()
STEP_LIMIT = 20.0
DESIRED = "$iothub/twin/PATCH/properties/desired/#"
METHODS = "$iothub/methods/POST/#"


def redirect() -> None:
    """Send the SDK's literal ports to the emulator's listeners."""
    ports = {8883: JOB["mqtt_port"], 443: JOB["https_port"]}
    resolve = socket.getaddrinfo

    def getaddrinfo(host, port, *args, **kwargs):
        return resolve(host, ports.get(port, port), *args, **kwargs)

    socket.getaddrinfo = getaddrinfo


def public_members() -> list[str]:
    """List every public method and property of the clients, as the SDK has them."""
    found = []
    for module in (sync_sdk, aio_sdk):
        for name in CLASSES:
            cls = getattr(module, name)
            found += [f"{label(module)}.{name}.{m}" for m in dir(cls) if not m.startswith("_")]
    return found


def label(module) -> str:
    return "aio" if module is aio_sdk else "sync"


def watch() -> None:
    """Count every call of a public member where it happens."""
    for module in (sync_sdk, aio_sdk):
        for class_name in CLASSES:
            cls = getattr(module, class_name)
            for name in [m for m in dir(cls) if not m.startswith("_")]:
                key = f"{label(module)}.{class_name}.{name}"
                setattr(cls, name, counted(key, inspect.getattr_static(cls, name)))


def counted(key, member):
    """Wrap a method, class method or property so that its use is counted."""
    if isinstance(member, property):

        def fget(self):
            if member.fset is None:
                CALLED[key] += 1
            return member.fget(self)

        def fset(self, value):
            CALLED[key] += 1
            member.fset(self, value)

        return property(fget, fset if member.fset else None)
    if isinstance(member, classmethod):

        def made(cls, *args, **kwargs):
            CALLED[key] += 1
            return member.__func__(cls, *args, **kwargs)

        return classmethod(made)

    def called(self, *args, **kwargs):
        CALLED[key] += 1
        return member(self, *args, **kwargs)

    return called


def control(operation: str, **body):
    """Call the emulator's control API."""
    request = urllib.request.Request(
        f"{JOB['control_url']}/v1/{operation}",
        None if operation.startswith(("status", "events")) else json.dumps(body).encode(),
        {"Authorization": f"Bearer {JOB['control_token']}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=STEP_LIMIT) as response:
        answer = json.load(response)
    return answer.get("result", answer)


def token(resource: str, key: str, life: int) -> str:
    """Make a SAS token by hand, as an application of the SDK does."""
    sr, expiry = quote(resource, safe=""), int(time.time()) + life
    mac = hmac.new(base64.b64decode(key), f"{sr}\n{expiry}".encode(), hashlib.sha256)
    sig = quote(base64.b64encode(mac.digest()), safe="")
    return f"SharedAccessSignature sr={sr}&sig={sig}&se={expiry}"


async def within(awaitable, limit: float = STEP_LIMIT):
    return await asyncio.wait_for(awaitable, limit)


async def until(test, what: str, limit: float = STEP_LIMIT):
    """Wait until `test()` gives something; polls, because the SDK has no event for it."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found = test()
        if found:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {limit:g} s: {what}")


def check(held: bool, what: str) -> None:
    if not held:
        raise AssertionError(what)


class Client:
    """One SDK client, sync or aio, behind one way of calling it."""

    def __init__(self, case: dict, sdk_client) -> None:
        self.case, self.sdk = case, sdk_client
        self.identity = case["identity"]
        self.aio = case["flavour"] == "aio"
        self.since = control("status")["events"]
        self.errors: list[str] = []
        self.states: list[bool] = []

    async def call(self, name: str, *args, **kwargs):
        """Call a method and wait for its result."""
        method = getattr(self.sdk, name)
        if self.aio:
            return await within(method(*args, **kwargs))
        return await within(asyncio.to_thread(method, *args, **kwargs))

    def handler(self, function):
        """Make a handler of the kind this flavour wants."""
        if not self.aio:
            return function

        async def wrapped(*args):
            function(*args)

        return wrapped

    def begin(self, name: str, *args) -> asyncio.Task:
        """Begin to receive."""
        method = getattr(self.sdk, name)
        if self.aio:
            return asyncio.create_task(method(*args))
        return asyncio.create_task(asyncio.to_thread(method, *args, timeout=STEP_LIMIT))

    async def subscribed(self, *wanted: str) -> None:
        """Wait until the hub has granted filters that contain these texts to this client."""

        def granted() -> bool:
            filters = [
                text
                for event in control(f"events?since={self.since}")["events"]
                if event["type"] == "subscribe" and event.get("identity") == self.identity
                for text, code in zip(event["filters"], event["codes"], strict=True)
                if code < 128
            ]
            return all(any(text in one for one in filters) for text in wanted)

        end = time.monotonic() + STEP_LIMIT
        while not await asyncio.to_thread(granted):
            check(time.monotonic() < end, f"no subscription to {wanted}")
            await asyncio.sleep(0.05)

    def observe(self) -> None:
        """Set the handlers that every client has, and read them back."""
        sdk = self.sdk
        sdk.on_connection_state_change = self.handler(lambda: self.states.append(sdk.connected))
        sdk.on_background_exception = self.handler(lambda e: self.errors.append(repr(e)))
        if sdk.on_connection_state_change is None or sdk.on_background_exception is None:
            raise AssertionError("a handler is not readable")


def options(case: dict) -> dict:
    return {
        "server_verification_cert": JOB["root_pem"],
        "websockets": case["transport"] == "ws",
        "keep_alive": 30,
        **({"connection_retry_interval": 1} if case["kind"] == "dropped" else {}),
    }


def make(case: dict, how: str) -> Client:
    """Make a client by one of the SDK's constructors."""
    module = aio_sdk if case["flavour"] == "aio" else sync_sdk
    module_id = case.get("module")
    cls = module.IoTHubModuleClient if module_id else module.IoTHubDeviceClient
    extra = options(case)
    ids = {"hostname": JOB["host"], "device_id": case["device"]}
    if module_id:
        ids["module_id"] = module_id
    if how == "connection_string":
        sdk = cls.create_from_connection_string(case["connection_string"], **extra)
    elif how == "symmetric_key":
        sdk = cls.create_from_symmetric_key(case["key"], **ids, **extra)
    elif how == "sastoken":
        sdk = cls.create_from_sastoken(token(case["resource"], case["key"], 123), **extra)
    else:
        sdk = cls.create_from_x509_certificate(
            X509(case["cert_file"], case["key_file"]), **ids, **extra
        )
    return Client(case, sdk)


# -- what is done with a client -------------------------------------------------------------------


async def telemetry(client: Client) -> None:
    message = Message('{"t": 21.5}', message_id="m-1")
    message.content_type, message.content_encoding = "application/json", "utf-8"
    message.correlation_id = "c/1 %"
    message.custom_properties["key one"] = "a&b=c+d é"
    await client.call("send_message", message)
    await client.call("send_message", "plain text")
    found = await asyncio.to_thread(control, "messages", identity=client.identity)
    first, second = found[-2:]
    check(first["text"] == '{"t": 21.5}' and second["text"] == "plain text", "bodies")
    check(first["properties"] == {"key one": "a&b=c+d é"}, f"properties {first['properties']}")
    check(first["system"]["content-type"] == "application/json", "content type")
    check(first["system"]["message-id"] == "m-1", "message id")
    check(first["system"]["correlation-id"] == "c/1 %", "correlation id")


async def twin(client: Client) -> None:
    marker = f"{client.case['name']}-{time.monotonic_ns()}"
    await client.call("patch_twin_reported_properties", {"mark": marker, "gone": None})
    held = await client.call("get_twin")
    check(held["reported"]["mark"] == marker, f"reported {held}")
    check(held["desired"]["$version"] >= 1, "desired version")


async def output(client: Client) -> None:
    await client.call("send_message_to_output", "to output", "out1")
    found = await asyncio.to_thread(control, "messages", identity=client.identity)
    check(found[-1]["system"].get("iothub-outputname") == "out1", f"{found[-1]['system']}")


async def receive_api(client: Client) -> None:
    identity = client.identity
    task = client.begin("receive_twin_desired_properties_patch")
    await client.subscribed(DESIRED)
    await asyncio.to_thread(control, "patch_desired", identity=identity, patch={"level": 7})
    patch = await within(task)
    check(patch["level"] == 7 and patch["$version"] >= 2, f"desired {patch}")
    request = client.begin("receive_method_request")
    await client.subscribed(METHODS)
    call = asyncio.create_task(
        asyncio.to_thread(
            control,
            "invoke_method",
            identity=identity,
            name="do it",
            payload={"n": [1, None]},
            timeout_s=10,
            connect_timeout_s=5,
        )
    )
    found = await within(request)
    check(found.name == "do it" and found.payload == {"n": [1, None]}, f"method {found.payload}")
    await client.call("send_method_response", MethodResponse(found.request_id, 207, {"ok": True}))
    answer = await within(call)
    check(answer["status"] == 207 and answer["payload"] == {"ok": True}, f"answer {answer}")


def incoming(client: Client) -> str:
    return "/inputs/#" if client.case.get("module") else "/messages/devicebound/#"


def send_down(client: Client, text: str) -> None:
    if client.case.get("module"):
        control(
            "send_input", identity=client.identity, name="in1", text=text, properties={"a": "b c"}
        )
    else:
        control("send_c2d", identity=client.identity, text=text, properties={"a": "b c"})


async def messages(client: Client) -> None:
    if client.case.get("module"):
        name, args = "receive_message_on_input", ("in1",)
    else:
        name, args = "receive_message", ()
    task = client.begin(name, *args)
    await client.subscribed(incoming(client))
    while not task.done():
        # The SDK makes the queue of a module input only after the SUBACK and loses what arrives in
        # between; a sender that knows nothing of the device sends again.
        await asyncio.to_thread(send_down, client, "down")
        await asyncio.wait([task], timeout=1.0 if client.case.get("module") else STEP_LIMIT)
    message = await task
    check(message.data == b"down", f"{message.data!r}")
    check(message.custom_properties == {"a": "b c"}, f"{message.custom_properties}")
    if client.case.get("module"):
        check(message.input_name == "in1", f"{message.input_name}")
        return
    check(bool(message.message_id), "message id")
    await client.call("disconnect")
    check(client.sdk.connected is False, "still connected")
    await asyncio.to_thread(send_down, client, "kept while away")
    await client.call("connect")
    message = await within(client.begin(name, *args))
    check(message.data == b"kept while away", f"{message.data!r}")


async def upload(client: Client) -> None:
    info = await client.call("get_storage_info_for_blob", "folder/file 1.txt")
    path = quote(f"{info['containerName']}/{info['blobName']}")
    url = f"https://{info['hostName']}/{path}{info['sasToken']}"

    def put() -> int:
        request = urllib.request.Request(
            url, b"blob body", {"x-ms-blob-type": "BlockBlob"}, method="PUT"
        )
        context = ssl.create_default_context(cadata=JOB["root_pem"])
        with urllib.request.urlopen(request, context=context) as response:
            return response.status

    check(await asyncio.to_thread(put) == 201, "blob not stored")
    await client.call("notify_blob_upload_status", info["correlationId"], True, 200, "done")


async def handlers(client: Client) -> None:
    """The other way to receive: functions the client calls."""
    sdk, got = client.sdk, {}
    sdk.on_message_received = client.handler(lambda m: got.__setitem__("message", m))
    sdk.on_twin_desired_properties_patch_received = client.handler(
        lambda patch: got.__setitem__("patch", patch)
    )
    answered = []

    if client.aio:

        async def method(request):
            got["method"] = request
            await sdk.send_method_response(MethodResponse(request.request_id, 200, "fine"))
            answered.append(1)

    else:

        def method(request):
            got["method"] = request
            sdk.send_method_response(MethodResponse(request.request_id, 200, "fine"))
            answered.append(1)

    sdk.on_method_request_received = method
    await client.subscribed(incoming(client), DESIRED, METHODS)
    await asyncio.to_thread(send_down, client, "to handler")
    await asyncio.to_thread(control, "patch_desired", identity=client.identity, patch={"h": 1})
    answer = await asyncio.to_thread(
        control, "invoke_method", identity=client.identity, name="h", timeout_s=10,
        connect_timeout_s=5,
    )  # fmt: skip
    check(answer["payload"] == "fine", f"{answer}")
    await until(lambda: answered and "message" in got and "patch" in got, f"only {sorted(got)}")
    check(got["message"].data == b"to handler" and got["patch"]["h"] == 1, "handler values")


async def token_renewal(case: dict) -> None:
    """A client with a token of its own asks for a new one before the end, and takes it."""
    client = make(case, "sastoken")
    client.observe()
    asked: list[float] = []
    fresh = token(case["resource"], case["key"], 3600)
    if client.aio:

        async def renew():
            await client.sdk.update_sastoken(fresh)
            asked.append(time.monotonic())

    else:

        def renew():
            client.sdk.update_sastoken(fresh)
            asked.append(time.monotonic())

    client.sdk.on_new_sastoken_required = renew
    await client.call("connect")
    await until(lambda: asked, "on_new_sastoken_required", 15)
    await until(lambda: client.sdk.connected, "reconnection with the new token")
    await client.call("send_message", "after renewal")
    await end(client)


async def end(client: Client) -> None:
    check(client.sdk.connected is True, "not connected at the end")
    # Before the end: the handler runs when the SDK finds time, and then asks for the state.
    await until(lambda: True in client.states, "news of the connection")
    await client.call("shutdown")
    check(client.sdk.connected is False, "connected after shutdown")
    check(not client.errors, f"background exceptions: {client.errors}")


async def hub_case(case: dict) -> None:
    """Everything a device or module client can do."""
    sas = case["auth"] == "sas"
    client = make(case, "connection_string" if sas else "x509")
    client.observe()
    await client.call("connect")
    check(client.sdk.connected is True, "not connected")
    await telemetry(client)
    await twin(client)
    await receive_api(client)
    await messages(client)
    if case.get("module"):
        await output(client)
    else:
        await upload(client)
    await end(client)
    how = ("connection_string" if case.get("module") else "symmetric_key") if sas else "x509"
    second = make(case, how)
    second.observe()
    await second.call("connect")
    await handlers(second)
    await end(second)
    if sas:
        await token_renewal(case)


async def dps_case(case: dict) -> None:
    """Register, then connect to the assigned hub with the same credential."""
    module = aio_sdk if case["flavour"] == "aio" else sync_sdk
    place = {"provisioning_host": JOB["host"], "registration_id": case["device"],
             "id_scope": JOB["id_scope"]}  # fmt: skip
    extra = options(case)
    if case["auth"] == "sas":
        client = module.ProvisioningDeviceClient.create_from_symmetric_key(
            symmetric_key=case["key"], **place, **extra
        )
    else:
        client = module.ProvisioningDeviceClient.create_from_x509_certificate(
            x509=X509(case["cert_file"], case["key_file"]), **place, **extra
        )
    client.provisioning_payload = {"modelId": "dtmi:test;1"}
    check(client.provisioning_payload == {"modelId": "dtmi:test;1"}, "payload is not readable")
    if case["flavour"] == "aio":
        result = await within(client.register())
    else:
        result = await within(asyncio.to_thread(client.register))
    state = result.registration_state
    check(result.status == "assigned", f"status {result.status}")
    check(state.assigned_hub == JOB["host"] and state.device_id == case["device"], f"{state}")
    given = json.loads(state.response_payload)  # the SDK hands JSON text over
    check(given == {"given": 1}, f"payload {given}")
    device = make(case, "symmetric_key" if case["auth"] == "sas" else "x509")
    device.observe()
    await device.call("connect")
    await device.call("send_message", "provisioned")
    await end(device)


async def refused_case(case: dict) -> None:
    """Credentials the emulator refuses end in the SDK's CredentialError."""
    client = make(case, "symmetric_key" if case["auth"] == "sas" else "x509")
    try:
        await client.call("connect")
    except CredentialError:
        pass
    else:
        raise AssertionError("the credential was taken")
    finally:
        await client.call("shutdown")


async def refused_dps_case(case: dict) -> None:
    """A registration with a wrong key fails."""
    client = sync_sdk.ProvisioningDeviceClient.create_from_symmetric_key(
        provisioning_host=JOB["host"], registration_id=case["device"], id_scope=JOB["id_scope"],
        symmetric_key=case["key"], **options(case),
    )  # fmt: skip
    try:
        await within(asyncio.to_thread(client.register))
    except ClientError as error:
        check("401" in repr(error.__cause__) or "401" in str(error), repr(error.__cause__))
    else:
        raise AssertionError("the key was taken")


async def gateway_case(case: dict) -> None:
    """A realistic hub name without DNS: TCP and TLS go to the gateway, identity to the hub."""
    client = make(case, "connection_string")
    client.observe()
    await client.call("connect")
    await telemetry(client)
    await end(client)


async def dropped_case(case: dict) -> None:
    """A connection that the hub drops comes back, and QoS 1 brings every message across."""
    client = make(case, "connection_string")
    client.observe()
    await client.call("connect")
    for number in range(4):
        if number % 2:
            await asyncio.to_thread(control, "drop", identity=client.identity)
        while True:  # what an application does while the SDK has not noticed the drop yet
            try:
                await client.call("send_message", f"message {number}")
            except (NoConnectionError, TimeoutError):  # or never hears of a message in flight
                await asyncio.sleep(0.1)
            else:
                break
    found = await asyncio.to_thread(control, "messages", identity=client.identity)
    texts = [message["text"] for message in found]
    check(sorted(set(texts)) == [f"message {n}" for n in range(4)], f"{texts}")
    await until(lambda: False in client.states, "news of the disconnection")
    await until(lambda: client.sdk.connected, "reconnection")
    check(all("ConnectionDroppedError" in error for error in client.errors), f"{client.errors}")
    client.errors.clear()  # the drops are told to the application too
    await end(client)


CASES = {
    "gateway": gateway_case,
    "dropped": dropped_case,
    "hub": hub_case,
    "dps": dps_case,
    "refused": refused_case,
    "refused_dps": refused_dps_case,
}


async def run(case: dict) -> dict:
    started = time.monotonic()
    try:
        await asyncio.wait_for(CASES[case["kind"]](case), 90)
    except (Exception, asyncio.CancelledError) as error:
        text = "".join(traceback.format_exception(error))
        return {"name": case["name"], "ok": False, "error": text}
    return {"name": case["name"], "ok": True, "seconds": round(time.monotonic() - started, 2)}


async def main() -> None:
    # Every blocking call of a sync client holds a thread until something arrives.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(64))
    wide = asyncio.Semaphore(JOB["parallel"])

    async def one(case: dict) -> dict:
        async with wide:
            return await run(case)

    ended = await asyncio.gather(*[one(case) for case in JOB["cases"]])
    print(json.dumps({"members": MEMBERS, "called": CALLED, "cases": ended}))


logging.disable(logging.CRITICAL)
MEMBERS = public_members()
redirect()
watch()
asyncio.run(main())
