# Runs on MicroPython: the violations and the splits, as on CPython. Prints OK n.
import sys

sys.path.insert(0, sys.argv[1])

from azure_iot.errors import ProtocolError
from azure_iot.mqtt import packet

from mqtt.cases import CONNACK, VIOLATIONS, drain, new_session

n = 0
for name, first, data, rule in VIOLATIONS:
    for split in (0, 1, 3):
        session = new_session()
        try:
            if first:
                drain(session, CONNACK)
            drain(session, data, split)
        except ProtocolError as error:
            if error.rule != rule:
                print("WRONG", name, split, error.rule, rule)
        else:
            print("ACCEPTED", name, split)
        n += 1

for code in (0, 1, 128, 2, 255):
    session = new_session()
    drain(session, CONNACK)
    session.subscribe("a/#", 1)
    try:
        drain(session, bytes([0x90, 3, session.pid >> 8, session.pid & 255, code]))
        refused = ""
    except ProtocolError as error:
        refused = "%s, %s" % (error.rule, error)
    if refused != ("" if code in (0, 1, 128) else "MQTT-3.9.3-2, SUBACK code 0x%02x" % code):
        print("SUBACK", code, refused)

# 2^30 messages do not fit a small integer of a 32-bit build: the numbers go on all the same
session = new_session()
drain(session, CONNACK)
session.tail = session.sent = (1 << 30) - 2
for _ in range(2):
    numbers = []
    for i in range(5):
        data = session.publish("a/b", b"%d" % i, 1)
        numbers.append(session.sent - 1)
        if data[7] << 8 | data[8] != numbers[-1] % 65535 + 1:
            print("WRONG id", numbers[-1])
    for number in numbers:
        pid = number % 65535 + 1
        if session.done(number):
            print("DONE early", number)
        drain(session, bytes([0x40, 2, pid >> 8, pid & 255]))
        if not session.done(number) or session.strangers:
            print("NOT done", number)
# every character at the edges of UTF-8's lengths, in pairs: a topic of both directions
edges = [0x7F, 0x80, 0xC0, 0xFF, 0x7FF, 0x800, 0xD7FF, 0xE000, 0x20AC, 0xFFFF, 0x10000, 0x10FFFF]
for one in edges:
    for other in edges:
        topic = chr(one) + chr(other)
        name = packet.topic_name(topic)
        session = new_session()
        event = drain(session, CONNACK + bytes((0x30, len(name))) + name)[-1]
        if event[1] != topic:
            print("WRONG topic", one, other)
for wrong in ("a\0", "\ud800", "a\udfff/b", "\udbff\udc00"):
    try:
        packet.field(wrong)
        print("ACCEPTED", repr(wrong))
    except ValueError:
        continue
print("OK", n)
