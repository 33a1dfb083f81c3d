"""One script, two clients: our device and azure-iot-device look the same from the hub.

What the hub records is compared after this normalisation, and nothing else is forgiven:
request ids become 1, 2, … in order of appearance; the user name's query (api-version, product)
and the TLS facts are left out; subscriptions are a set, because the SDK makes one SUBSCRIBE per
feature and ours one for all; twin GETs beyond the first are left out, because each client also
fetches the twin when it likes; a property bag is compared decoded; QoS is not compared on
`$iothub/` topics, where the official SDKs differ among themselves (Python 1, Node 0).
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from taproot import interpreters
from taproot.emulator import EmulatorConfig, running
from taproot.emulator.telemetry import parse_bag
from taproot.pki import Authority

HERE = Path(__file__).resolve().parent
KEY = base64.b64encode(b"same events, same key, 32 bytes!").decode()
FILTERS = {
    "devices/same/messages/devicebound/#",
    "$iothub/methods/POST/#",
    "$iothub/twin/PATCH/properties/desired/#",
    "$iothub/twin/res/#",
}


def cloud(emu):
    """What happens on the cloud's side, once the device listens to everything."""
    granted = set()

    def all_granted(event):
        if event["type"] == "subscribe":
            granted.update(event["filters"])
        return granted >= FILTERS

    def reported(event):
        return event["type"] == "reported"

    emu.wait_for(all_granted, limit=20)
    emu.wait_for(reported, limit=20)
    emu.patch_desired("same", {"level": 5, "deep": {"z": None, "w": "text"}})
    answer = emu.invoke_method("same", "go", {"n": [1, None, "é"]}, timeout_s=20)
    emu.send_c2d("same", b"down", {"k": "v w", "empty": ""}, message_id="c2d-1")
    return answer


def ours(emu, tmp_path):
    """Run the script on MicroPython."""
    job = tmp_path / "job.json"
    der = x509.load_pem_x509_certificate(emu.root_pem.encode()).public_bytes(Encoding.DER)
    facts = facts_of(emu) | {"root_der": base64.b64encode(der).decode()}
    job.write_text(json.dumps(facts))
    result = interpreters.run("unix64", HERE / "same_device.py", str(job), timeout=40)
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


def theirs(emu, python):
    """Run the script on the SDK."""
    done = subprocess.run(
        [python, HERE / "same_sdk.py"], input=json.dumps(facts_of(emu) | {"root_pem": emu.root_pem}),
        capture_output=True, text=True, timeout=40, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def facts_of(emu):
    return {
        "connection_string": emu.emulator.hub.registry.get("same").connection_string,
        "mqtt_port": emu.mqtt_port,
    }


class Normal:
    """Turns a hub's events into what both clients must agree on."""

    def __init__(self, events, messages):
        self.rids: dict[str, int] = {}
        self.bodies = {message.seq: message for message in messages}
        self.filters, self.gets, self.found = set(), 0, []
        for event in events:
            handle = getattr(self, event["type"], None)
            if handle is not None:
                handle(event)
        assert self.gets >= 1

    @property
    def result(self):
        return sorted(self.filters), self.found

    def connect(self, event):
        path = event["username"].partition("?")[0]
        facts = [event[name] for name in ("client_id", "keep_alive", "clean_session", "service")]
        self.found.append(("connect", path, *facts, event.get("will")))

    def connack(self, event):
        self.found.append(("connack", event["code"], event["session_present"]))

    def subscribe(self, event):
        for one, code in zip(event["filters"], event["codes"], strict=True):
            self.filters.add((one, "any" if one.startswith("$iothub/") else code))

    def publish(self, event):
        if "message" not in event:
            self.request(event)
            return
        message = self.bodies[event["message"]]
        system = {k: v for k, v in message.system.items() if "connection" not in k}
        flags = [event[name] for name in ("qos", "dup", "retain")]
        self.found.append(("telemetry", message.body, system, message.properties, *flags))

    def deliver(self, event):
        root, slash, bag = event["topic"].partition("/devicebound/")
        if slash:
            facts = (event["size"], event["qos"], event["dup"])
            self.found.append(("deliver", root, parse_bag(bag), *facts))
        else:
            self.request(event)

    def request(self, event):
        """A publish or delivery on a topic of twin or methods."""
        if re.match(r"\$iothub/twin/(GET|res/200)/", event["topic"]):
            self.gets += 1
            return
        topic = re.sub(r"\$rid=([^&]*)", self.number, event["topic"])
        self.found.append((event["type"], topic, event.get("dup", False)))

    def number(self, match):
        return f"$rid={self.rids.setdefault(match[1], len(self.rids) + 1)}"

    def reported(self, event):
        self.found.append(("reported", event["version"], event["patch"]))

    def other(self, event):
        left_out = ("seq", "time", "rid", "reason", "largest_record_in", "largest_record_out")
        self.found.append({k: v for k, v in event.items() if k not in left_out})

    desired = method_result = c2d = c2d_done = disconnect = strictness = other


@pytest.fixture(scope="module")
def chain():
    issuing = Authority.root("same root").intermediate("same issuing")
    return issuing.leaf("localhost", dns=["localhost"], ips=["127.0.0.1"])


def observe(chain, run):
    """Run one client through the script; return what it printed and what the hub saw."""
    with running(EmulatorConfig(chain=chain, https_port=None)) as emu:
        emu.add_device("same", primary_key=KEY)
        answers = []
        side = threading.Thread(target=lambda: answers.append(cloud(emu)))
        side.start()
        try:
            printed = json.loads(run(emu).splitlines()[-1])
        finally:
            side.join(25)
        emu.wait_for(lambda event: event["type"] == "disconnect", limit=5)
        [answer] = answers
        return printed, answer, Normal(emu.events(), emu.messages("same")).result


@pytest.mark.requirement("emulator: one script, two clients")
def test_our_device_and_the_official_sdk_give_the_same_hub_side_events(
    chain, sdk_python, tmp_path
):
    sdk_printed, sdk_answer, (sdk_filters, sdk_events) = observe(
        chain, lambda emu: theirs(emu, sdk_python)
    )
    our_printed, our_answer, (our_filters, our_events) = observe(
        chain, lambda emu: ours(emu, tmp_path)
    )
    assert our_printed == sdk_printed
    assert (our_answer.status, our_answer.payload) == (sdk_answer.status, sdk_answer.payload)
    assert our_filters == sdk_filters
    assert our_events == sdk_events
    assert len(our_events) >= 15
    assert not [e for e in our_events if isinstance(e, dict) and e["type"] == "strictness"]
