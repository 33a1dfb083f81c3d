"""The words of what MQTT's rules forbid, by the key that the raising line gives.

Responsible for: one sentence per key, with the figures in it. Not responsible for: which class
is raised, and when. Loaded for the moment by packet.words(), so that they cost a device nothing
until something is wrong.

A key is the rule (MQTT 3.1.1, without "MQTT-") and, where several lines cite it, a word more;
a caller's mistake and a deadline have a word alone.
"""

_TABLE = (
    "1.5.3-1|topic is not UTF-8",
    "1.5.3-2|U+0000 in a topic",
    "2.2.2-2|flags of packet 0x%02x",
    "2.3.1-1|packet id 0",
    "3.2.0-1|packet 0x%02x before CONNACK",
    "3.2.2-1|session present after clean session",
    "3.2.2-4|session present in a refusal",
    "3.3.1-2|DUP with QoS 0",
    "3.3.1-4|QoS 3",
    "3.3.2-2|wildcard in a topic",
    "3.8.4-2|SUBACK for an unknown packet id %d",
    "3.8.4-6|QoS 2, which was never asked for",
    "3.9.3-2|SUBACK code 0x%02x",
    "3.10.4-4|UNSUBACK for an unknown packet id %d",
    "4.7.3-1|empty topic",
    "4.8.0-1 connack|a CONNACK too many, or wrong: %d %d",
    "4.8.0-1 kind|packet 0x%02x is none for a client",
    "4.8.0-1 length|remaining length of more than four bytes",
    "4.8.0-1 limit|packet of %d bytes, the limit is %d",
    "4.8.0-1 size|packet 0x%02x of %d bytes",
    "4.8.0-1 topic|PUBLISH shorter than its topic",
    "buffer|topic of %d bytes for a buffer of %d",
    "filter|not a topic filter (MQTT-4.7.1-2, -3, -4.7.3-1): %r",
    "large|packet of %d bytes: MQTT allows 268435455",
    "name|not a topic name (MQTT-4.7.1-1, -4.7.3-1, -4.7.3-2): %r",
    "text|not MQTT text (MQTT-1.5.3-1, -2): %r",
    "will|a will with QoS %d: 0 or 1",
    "field|text of %d bytes: MQTT allows 65535",
    # index of the deadline (session.py)
    "late0|CONNACK did not come within %d ms",
    "late1|PUBACK did not come within %d ms",
    "late2|SUBACK did not come within %d ms",
    "late3|PINGRESP did not come within %d ms",
    "late4|the rest of a packet did not come within %d ms",
)


def words(key: str, figures: tuple) -> str:
    """Return the sentence of `key`."""
    for row in _TABLE:
        found, text = row.split("|")
        if found == key:
            return text % figures
    return key
