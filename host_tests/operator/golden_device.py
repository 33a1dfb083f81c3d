"""Runs golden.json on a device's trust store; prints `[case, answers, changed]` a line.

Runs on MicroPython: `golden_device.py golden.json`, in a folder of its own.
"""

import json
import os
import sys

# Loaded once, or every case would compile them anew.
from azure_iot.trust import changes, ladder, packages, report  # noqa: F401
from azure_iot.trust.errors import RefusedError
from azure_iot.trust.factory import Factory
from azure_iot.trust.manager import TrustManager
from azure_iot.trust.sources import BytesSource
from azure_iot.trust.store import Store


class Clock:
    """A clock that stands where a step says."""

    def __init__(self):
        self.now = 0
        self.synchronised = True

    def unix_time(self):
        return self.now

    def ticks_ms(self):
        return 0

    def ticks_diff(self, later, earlier):
        return later - earlier


def load(der):
    """The TLS library's opinion of a root."""
    import tls

    tls.SSLContext(tls.PROTOCOL_TLS_CLIENT).load_verify_locations(der)


def snapshot(trust):
    """What a refused package must not touch."""
    state = trust.store.state
    return (
        state.good and state.good.sha256,
        state.trial and state.trial.sha256,
        state.floor,
        state.tfloor,
        [digest.hex() for digest in state.distrust],
        [attempt.version for attempt in trust.rungs("hub")],
    )


def run(case, factory, now):
    """Return (the answers, whether a refusal changed anything)."""
    try:
        for name in os.listdir("trust"):
            os.remove("trust/" + name)
    except OSError:
        pass
    answers = []
    changed = False
    for step in case["steps"]:
        clock = Clock()
        clock.now = step.get("now", now)
        clock.synchronised = step.get("synchronised", True)
        config = {"uses": tuple(step.get("uses", ("hub",))), "loader": load}
        trust = TrustManager(Store("trust", factory), clock, config=config)
        before = snapshot(trust)
        try:
            trust.install(BytesSource(step["package"].encode()), "url")
        except RefusedError as error:
            answers.append(error.code)
            changed = changed or snapshot(trust) != before
            continue
        answers.append("SAME" if snapshot(trust) == before else "OK")
        if step.get("confirm"):
            attempt = trust.attempt()
            trust.succeeded(attempt, resumed=False, via=None)
            if not trust.mqtt_accepted(attempt):
                answers.append("NOT CONFIRMED")
    return answers, changed


def main():
    """Run all cases."""
    with open(sys.argv[1]) as file:
        golden = json.load(file)
    made = golden["factory"]
    for case in golden["cases"]:
        factory = Factory(made["keyset"].encode(), made["bundle"].encode(), made["build_date"])
        answers, changed = run(case, factory, golden["now"])
        print(json.dumps([case["name"], answers, changed]))


if __name__ == "__main__":
    main()
