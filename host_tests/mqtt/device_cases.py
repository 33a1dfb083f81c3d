# Runs on MicroPython: the violations and the splits, as on CPython. Prints OK n.
import sys

sys.path.insert(0, sys.argv[1])

from azure_iot.errors import ProtocolError

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
print("OK", n)
