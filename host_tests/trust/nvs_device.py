# Runs on MicroPython: esp32/nvs.py over a module `esp32` that keeps its values in a file.
#
# No board is at hand: this NVS stands for the hardware and nothing else. As ESP-IDF does, it takes
# keys of 15 characters, raises OSError for what is not there or does not fit, and forgets what was
# not committed. Prints one line per check that fails, then OK.
import json
import os
import sys

NOT_FOUND = -4354  # ESP_ERR_NVS_NOT_FOUND


class NVS:
    commits = 0

    def __init__(self, namespace):
        self._path = namespace + ".nvs"
        try:
            with open(self._path) as file:
                self._values = json.load(file)
        except OSError:
            self._values = {}

    def _find(self, kind, key):
        if len(key) > 15:
            raise OSError(-4361)  # ESP_ERR_NVS_KEY_TOO_LONG
        if kind + key not in self._values:
            raise OSError(NOT_FOUND)
        return self._values[kind + key]

    def get_i32(self, key):
        return self._find("i", key)

    def set_i32(self, key, value):
        if not -(2**31) <= value < 2**31:
            raise OverflowError
        self._values["i" + key] = value

    def get_blob(self, key, buffer):
        value = bytes(self._find("b", key))
        if len(value) > len(buffer):
            raise OSError(-4364)  # ESP_ERR_NVS_INVALID_LENGTH
        buffer[: len(value)] = value
        return len(value)

    def set_blob(self, key, value):
        self._values["b" + key] = list(value)

    def erase_key(self, key):
        for kind in "ib":
            if self._values.pop(kind + key, None) is not None:
                return
        raise OSError(NOT_FOUND)

    def commit(self):
        NVS.commits += 1
        with open(self._path, "w") as file:
            json.dump(self._values, file)


class _Module:
    NVS = NVS


sys.modules["esp32"] = _Module

from azure_iot.esp32.nvs import NVSMirror, NVSStore  # noqa: E402
from azure_iot.trust.factory import Factory  # noqa: E402
from azure_iot.trust.files import FileSource  # noqa: E402
from azure_iot.trust.manager import TrustManager  # noqa: E402
from azure_iot.trust.store import Store  # noqa: E402
from still import Clock  # noqa: E402


def same(found, expected):
    if found != expected:
        print("%r, expected %r" % (found, expected))


def refused(work, *args):
    try:
        work(*args)
        print("not refused", args)
    except ValueError:
        return


def values():
    kv = NVSStore()
    same(kv.get("dps"), None)
    kv.set("dps", bytes(range(256)) * 4)
    same(NVSStore().get("dps"), bytes(range(256)) * 4)  # a reboot reads what was committed
    refused(kv.set, "dps", bytes(1025))
    refused(kv.set, "a" * 16, b"")
    same(NVSStore().get("dps"), bytes(range(256)) * 4)
    kv.delete("dps")
    kv.delete("dps")
    same(NVSStore().get("dps"), None)


def start():
    factory = Factory.from_folder("factory")
    return TrustManager(Store("trust", factory, mirror=NVSMirror()), Clock())


def floors():
    """A confirmed bundle's floors outlive the loss of every file."""
    same(NVSMirror().get("bver"), None)
    trust = start()
    trust.install(FileSource("package"))
    same(NVSMirror().get("bver"), None)
    attempt = trust.attempt()
    trust.succeeded(attempt, resumed=False)
    same(trust.mqtt_accepted(attempt), True)
    state = trust.store.state
    mirror = NVSMirror()
    same((mirror.get("bver"), mirror.get("kver")), (state.floor, state.kver))
    same(mirror.get("tfloor"), state.tfloor - 946684800)
    commits = NVS.commits
    mirror.set("bver", state.floor)
    same(NVS.commits, commits)
    for name in os.listdir("trust"):
        os.remove("trust/" + name)
    again = start().store.state
    same((again.good, again.floor, again.tfloor), (None, state.floor, state.tfloor))


values()
floors()
print("OK")
