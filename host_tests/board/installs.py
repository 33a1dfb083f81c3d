"""main.py of the emulated board in a power-cut test: installs and confirms one bundle after another.

Prints `OUT ["boot", good, trial, floor, error]`, then for each version `install`, `staged` and
`confirmed`, each with the number of flash operations so far, and `end` after the last package.
"""

import json
import os

from azure_iot.trust.factory import Factory
from azure_iot.trust.files import FileSource
from azure_iot.trust.manager import TrustManager
from azure_iot.trust.store import Store
from machine import mem32

BEGUN = 0x80900000  # boards/QEMU_RV32/modules/_boot.py


class Clock:
    """A clock that stands still: a package is as old after a cut as before."""

    synchronised = True

    def unix_time(self):
        return 1786000000

    def ticks_ms(self):
        return 0

    def ticks_diff(self, later, earlier):
        return later - earlier


def out(*facts):
    """Say how far it is."""
    facts = list(facts)
    facts.append(mem32[BEGUN])
    print("OUT", json.dumps(facts))


store = Store("/trust", Factory.from_folder("factory"))
trust = TrustManager(store, Clock())
state = store.state
good = state.good.version if state.good else 1
trial = state.trial.version if state.trial else None
readable = not state.good or store.facts(state.good) is not None
out("boot", good, trial, state.floor, readable and str(store.error))
for version in range(trial or good + 1, 2 + len(os.listdir("packages"))):
    if store.state.is_bad(version):
        break  # cut in each try of its trial: given up, as it has to be
    if version != trial:
        out("install", version)
        trust.install(FileSource("packages/%d" % version))
    out("staged", version)
    attempt = trust.attempt()
    if not attempt.is_trial:
        break
    trust.succeeded(attempt, resumed=False)
    trust.mqtt_accepted(attempt)
    out("confirmed", version)
out("end")
