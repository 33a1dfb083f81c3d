"""mosquitto as second judge of the strictness table: an input it refuses is refused here too.

Where mosquitto is lenient is listed with the reason.
"""

from __future__ import annotations

import time

import pytest
from emulator.test_emulator_strictness import AFTER_CONNECT, INSTEAD_OF_CONNECT
from support import wire
from support.wire import Closed, connect
from taproot.bench.broker import Mosquitto
from taproot.console import PeerFailed, UsageFailed

# What mosquitto 2.0.11 lets pass, though the standard (or the hub) forbids it. Exact: an entry
# that a newer one refuses fails here, and so does an input that it no longer refuses.
_KIND = "a server's packet from a client is not looked at"
_QOS2 = "QoS 2 is spoken; the hub closes on it"
LENIENT = {
    "PINGREQ with flags 1": "flags are not looked at",
    "PINGREQ with a body": "the body is not looked at",
    "PUBACK with flags 2": "flags are not looked at",
    "PUBACK of 3 bytes": "the third byte is not looked at",
    "PUBLISH with DUP at QoS 0": "DUP is not looked at",
    "SUBACK from a client": _KIND,
    "UNSUBACK from a client": _KIND,
    "PINGRESP from a client": _KIND,
    "PUBREC, though QoS 2 never runs": _QOS2,
    "PUBREL": _QOS2,
    "PUBCOMP": _QOS2,
    "packet above the limit": "no limit is set: it waits for the rest",
    "MQIsdp, level 3": "MQTT 3.1 is spoken",
    "level 5, well-formed": "MQTT 5 is spoken",
    "level 0x84, a bridge": "bridges are spoken",
}


@pytest.fixture(scope="module")
def broker():
    try:
        with Mosquitto() as found:
            yield found
    except (PeerFailed, UsageFailed) as error:
        yield error


def refuses(link, data):
    """Send; True when the connection closes or CONNACK refuses."""
    link.send(data)
    link.sock.settimeout(0.5)
    end = time.monotonic() + 1.0
    try:
        while time.monotonic() < end:
            first, body = link.take()
            if first >> 4 == wire.CONNACK and body[1]:
                return True
    except Closed:
        return True
    except TimeoutError:
        pass
    return False


@pytest.mark.parametrize(
    "name,data", [row[:2] for row in AFTER_CONNECT], ids=[r[0] for r in AFTER_CONNECT]
)
def test_after_connect(broker, not_checked, name, data):
    """Closed by mosquitto too, or a known leniency."""
    if isinstance(broker, Exception):
        not_checked(f"mosquitto as judge of the strictness table: {broker}")
    with wire.Wire.plain(broker.plain_port) as link:
        link.send(connect("judge")).expect(wire.CONNACK)
        assert refuses(link, data) is (name not in LENIENT)


@pytest.mark.parametrize(
    "name,data", [row[:2] for row in INSTEAD_OF_CONNECT], ids=[r[0] for r in INSTEAD_OF_CONNECT]
)
def test_instead_of_connect(broker, not_checked, name, data):
    """Refused by mosquitto too, or a known leniency."""
    if isinstance(broker, Exception):
        not_checked(f"mosquitto as judge of the strictness table: {broker}")
    with wire.Wire.plain(broker.plain_port) as link:
        assert refuses(link, data) is (name not in LENIENT)
