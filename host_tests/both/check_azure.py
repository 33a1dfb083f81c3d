# Runs on CPython and MicroPython alike: the wire formats of IoT Hub and DPS against JSON vectors.
# argv[1] is the folder of the vectors. Prints one line per failure, at the end the count.
import binascii
import json
import sys

from azure_iot import bag, credentials, dps, hub, identity, sas
from azure_iot.errors import AzureIoTError

FOLDER = sys.argv[1]
checked = 0
failed = 0


def check(name, found, expected):
    global checked, failed
    checked += 1
    if found != expected:
        failed += 1
        print("FAIL %s: %r, expected %r" % (name, found, expected))


def cases(name):
    with open("%s/%s.json" % (FOLDER, name)) as file:
        whole = json.load(file)
    return whole["cases"], whole


for case in cases("hmac")[0]:
    found = sas.hmac_sha256(binascii.unhexlify(case["key"]), binascii.unhexlify(case["data"]))
    check("hmac", binascii.hexlify(found).decode(), case["mac"])

for case in cases("sas")[0]:
    key = credentials.SymmetricKey(case["key"])
    found = sas.token(case["resource"], case["expiry"], key.sign, case["policy"])
    check(case["name"], found, case["token"])
    check(case["name"], sas.token_expiry(found), case["expiry"])
    check("no key in repr", case["key"][:8] in repr(key), False)

for case in cases("group_key")[0]:
    group = binascii.a2b_base64(case["group_key"])
    found = sas.derive_device_key(group, case["registration_id"])
    check("group key", binascii.b2a_base64(found).decode()[:-1], case["device_key"])

for case in cases("quote")[0]:
    check("quote", bag.quote(case["text"]), case["quoted"])
    check("unquote", bag.unquote(case["quoted"]), case["text"])

for case in cases("bags")[0]:
    check("bag " + case["bag"], bag.decode_bag(case["bag"]), case["properties"])
    again = bag.decode_bag(bag.encode_bag(case["properties"]))
    check("bag again " + case["bag"], again, case["properties"])

topics, whole = cases("topics")
for case in topics:
    found = list(hub.parse(case["topic"], case["base"]))
    check(case["topic"], found, case["found"])
built = whole["built"]
host = "h.azure-devices.net"
check("user name", hub.user_name(host, "d1"), built["user_name"])
full = hub.user_name(host, "d1/m1", product_info="a b/1", model_id="dtmi:x;y;1")
check("user name", full, built["user_name_full"])
check("events", hub.events_topic(hub.base_topic("d1"), "a=1"), built["events"])
check("events", hub.events_topic(hub.base_topic("d1", "m1")), built["module_events"])
check("twin get", hub.twin_get_topic("9"), built["twin_get"])
check("twin patch", hub.twin_patch_topic("9"), built["twin_patch"])
check("method", hub.method_response_topic(200, "9"), built["method"])

for case in cases("dps")[0]:
    step = dps.Registration("0ne0001", "d")
    check("register", step.request()[0], "$dps/registrations/PUT/iotdps-register/?$rid=1")
    try:
        mine = step.answer(case["topic"], case["body"].encode())
        if not mine:
            outcome = "ignored"
        elif step.result is not None:
            outcome = "assigned"
            check(case["name"], step.result.hub, case["hub"])
            check(case["name"], step.result.device_id, case["device"])
            check(case["name"], step.result.payload, case["payload"])
        else:
            outcome = "wait"
            check(case["name"], step.wait_s, case["wait_s"])
            if "next" in case:
                check(case["name"], step.request()[0], case["next"])
    except AzureIoTError as error:
        outcome = type(error).__name__
    check(case["name"], outcome, case["outcome"])

for text, good in (
    ("d", True), ("", False), ("a" * 129, False), ("a/b", False), ("A-.%_*?!(),:=@$'9", True),
):  # fmt: skip
    try:
        identity.check_id(text, "device id")
        found = True
    except AzureIoTError:
        found = False
    check("id " + text[:20], found, good)

for host, name in (
    ("h.azure-devices.net", "public"), ("h.device.azure-devices.net", "public"),
    ("h.azure-devices.us", "us-government"), ("h.azure-devices.cn", "china"),
    ("global.azure-devices-provisioning.cn", "china"), ("localhost", "public"),
):  # fmt: skip
    check(host, hub.cloud(host)[0], name)

print("%d checked, %d failed" % (checked, failed))
sys.exit(1 if failed or not checked else 0)
