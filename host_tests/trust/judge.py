"""Judges every package of the catalogue, on CPython and on MicroPython alike.

    micropython judge.py FOLDER [NAME …]     prints `[name, answer]` a line for each case, or those named

FOLDER holds the catalogue; the store is made in the present folder.
A refusal must leave the store's record and the roots in use as they were, and nothing but the
family of RefusedError may come out: anything else ends the run.
"""

import json
import os
import sys

import loaded  # noqa: F401
from azure_iot.trust.errors import RefusedError
from azure_iot.trust.factory import Factory
from azure_iot.trust.files import FileSource
from azure_iot.trust.manager import TrustManager
from azure_iot.trust.store import Store
from still import Clock


def loader():
    """The TLS library's opinion of a root, where there is one."""
    try:
        import tls
    except ImportError:
        return None
    return lambda der: tls.SSLContext(tls.PROTOCOL_TLS_CLIENT).load_verify_locations(der)


def empty(folder):
    """Remove the files of a store."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        os.remove(folder + "/" + name)


def judge(case, root, folder="trust", load=None):
    """Return OK, SAME or the code with which a device refuses the case's package."""
    empty(folder)
    factory = Factory.from_folder(root + "/factories/" + case["factory"])
    config = {"uses": tuple(case["uses"]), "loader": load}
    trust = TrustManager(
        Store(folder, factory), Clock(case["now"], case["synchronised"]), config=config
    )
    before = snapshot(trust)
    try:
        trust.install(FileSource(root + "/packages/" + case["name"]), case["channel"])
    except RefusedError as error:
        answer = error.code
        if snapshot(trust) != before:
            return "CHANGED after " + answer
        if trust.last_error["code"] != answer:
            return "NOT REPORTED " + answer
        return answer
    return "SAME" if trust.store.state.trial is None else "OK"


def snapshot(trust):
    """What a refused bundle must not touch; key-sets may advance, and are not in it."""
    state = trust.store.state
    return (
        state.good and state.good.sha256,
        state.trial and state.trial.sha256,
        state.floor,
        state.tfloor,
        [digest.hex() for digest in state.distrust],
        [attempt.version for attempt in trust.rungs("hub")],
    )


def main():
    """Judge all cases."""
    root, *names = sys.argv[1:]
    with open(root + "/cases.json") as file:
        cases = json.load(file)
    load = loader()
    for case in cases:
        if (case["tls"] and load is None) or (names and case["name"] not in names):
            continue
        print(json.dumps([case["name"], judge(case, root, load=load)]))


if __name__ == "__main__":
    main()
