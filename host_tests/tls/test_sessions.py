"""Saved sessions: a resumed handshake checks nothing, so the store checks everything."""

from __future__ import annotations

import importlib
import sys
import types

import pytest
from azure_iot.tls.sessions import Sessions, binding
from support.tls_chains import served
from support.tls_device import connect
from support.tls_peer import Server

ROOT = bytes(range(32))
NOW = 1_795_000_000
BLOB = b"s" * 321


class Clock:
    """A clock that stands where it is put."""

    now = NOW

    def unix_time(self) -> int:
        return self.now


class RTC(dict):
    """RTC memory: what deep sleep keeps."""

    def set(self, key, value):
        self[key] = bytes(value)

    def delete(self, key):
        self.pop(key, None)


BOUND = binding("hub.example", 8883, 7, "device-1", "default hub 512")


def sessions(rtc=None, **options) -> Sessions:
    options.setdefault("mac_key", b"k" * 32)
    return Sessions(options.pop("clock", Clock()), kv=rtc, **options)


def test_a_session_comes_back_in_ram_and_after_deep_sleep() -> None:
    rtc = RTC()
    first = sessions(rtc)
    assert first.put(BOUND, BLOB, ROOT, NOW + 9_000)
    assert first.get(BOUND) == BLOB
    assert sessions(rtc).get(BOUND) == BLOB
    assert sessions().get(BOUND) is None
    assert all(len(value) <= 512 for value in rtc.values())


@pytest.mark.parametrize(
    "changed",
    [
        ("other.example", 8883, 7, "device-1", "default hub 512"),
        ("hub.example", 8884, 7, "device-1", "default hub 512"),
        ("hub.example", 8883, 8, "device-1", "default hub 512"),
        ("hub.example", 8883, 7, "device-2", "default hub 512"),
        ("hub.example", 8883, 7, "device-1", "default ecc 512"),
        ("hub.example", 8883, 7, "device-1", "default hub 4096"),
    ],
)
def test_any_change_of_what_it_belongs_to_ends_it(changed) -> None:
    rtc = RTC()
    held = sessions(rtc)
    held.put(BOUND, BLOB, ROOT, NOW + 9_000)
    assert held.get(binding(*changed)) is None
    assert sessions(rtc).get(binding(*changed)) is None


def test_it_ends_with_the_chain_and_with_its_age() -> None:
    clock = Clock()
    held = sessions(clock=clock)
    held.put(BOUND, BLOB, ROOT, NOW + 100)
    clock.now = NOW + 99
    assert held.get(BOUND) == BLOB
    clock.now = NOW + 100
    assert held.get(BOUND) is None and held.get(BOUND) is None
    held.put(BOUND, BLOB, ROOT, NOW + 10**8)
    clock.now = NOW + 86_400 + 101
    assert held.get(BOUND) is None
    assert not held.put(BOUND, BLOB, ROOT, clock.now), "a chain that is over leaves no session"


def test_a_clock_that_went_back_ends_it() -> None:
    clock = Clock()
    held = sessions(clock=clock)
    held.put(BOUND, BLOB, ROOT, NOW + 10**8)
    clock.now = NOW - 10
    assert held.get(BOUND) is None


def test_it_ends_with_its_root() -> None:
    trusted = {ROOT}
    rtc = RTC()
    held = sessions(rtc, still_trusted=lambda root: root in trusted)
    held.put(BOUND, BLOB, ROOT, NOW + 9_000)
    assert held.get(BOUND) == BLOB
    trusted.clear()
    assert held.get(BOUND) is None and not rtc, "forgotten, not only withheld"


@pytest.mark.parametrize("at", range(0, 390, 7))
def test_a_changed_bit_in_rtc_memory_ends_it(at) -> None:
    rtc = RTC()
    sessions(rtc).put(BOUND, BLOB, ROOT, NOW + 9_000)
    ((name, value),) = rtc.items()
    rtc[name] = value[:at] + bytes((value[at] ^ 4,)) + value[at + 1 :]
    assert sessions(rtc).get(BOUND) is None


def test_another_device_key_or_a_short_record_ends_it() -> None:
    rtc = RTC()
    sessions(rtc).put(BOUND, BLOB, ROOT, NOW + 9_000)
    ((name, value),) = rtc.items()
    assert sessions(rtc, mac_key=b"other").get(BOUND) is None and not rtc
    for short in (b"", value[:10], value[:68], value + b"x"):
        rtc[name] = short
        assert sessions(rtc).get(BOUND) is None


def test_a_session_too_large_for_rtc_memory_stays_in_ram_and_says_why() -> None:
    rtc = RTC()
    held = sessions(rtc)
    assert held.put(BOUND, b"s" * 2569, ROOT, NOW + 9_000)
    assert not rtc and held.get(BOUND) and "KEEP_PEER_CERTIFICATE=n" in held.why_not_kept
    assert sessions(rtc).get(BOUND) is None


def test_nothing_rests_outside_ram_without_a_key() -> None:
    rtc = RTC()
    sessions(rtc, mac_key=b"").put(BOUND, BLOB, ROOT, NOW + 9_000)
    assert not rtc


def test_drop_all_forgets_everything() -> None:
    rtc = RTC()
    held = sessions(rtc)
    held.put(BOUND, BLOB, ROOT, NOW + 9_000)
    held.drop_all()
    assert held.get(BOUND) is None and not rtc


def test_drop_all_erases_what_an_earlier_boot_left() -> None:
    rtc = RTC()
    sessions(rtc).put(BOUND, BLOB, ROOT, NOW + 9_000)
    sessions(rtc).drop_all()
    assert not rtc


def test_rtc_memory_holds_one_session_however_often_what_it_belongs_to_changes() -> None:
    rtc = RTC()
    for version in range(20):
        bound = binding("hub.example", 8883, version, "device-1", "default hub 512")
        held = sessions(rtc)  # each after a boot of its own
        assert held.get(bound) is None
        assert not rtc, "nothing resumes the old one any more: its secret is erased"
        assert held.put(bound, BLOB, ROOT, NOW + 9_000) and not held.why_not_kept
        assert len(rtc) == 1 and sessions(rtc).get(bound) == BLOB


class Chip:
    """machine.RTC: writing keeps what lies beyond the new end, as the ESP32 does."""

    memory_of_chip = bytearray(2048)
    size = 0

    def memory(self, data=None):
        if data is None:
            return bytes(self.memory_of_chip[: self.size])
        self.size = len(data)
        self.memory_of_chip[: self.size] = data
        return None


def test_a_forgotten_value_leaves_no_byte_in_rtc_memory(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "machine", types.SimpleNamespace(RTC=Chip))
    store = importlib.import_module("azure_iot.esp32.rtc").RTCStore()
    held = sessions(store)
    assert held.put(BOUND, BLOB, ROOT, NOW + 9_000)
    store.set("other", b"stays")
    assert sessions(store).get(BOUND) == BLOB and BLOB in Chip.memory_of_chip
    held.drop_all()
    assert store.get("other") == b"stays" and store.get("tls") is None
    assert BLOB[:16] not in Chip.memory_of_chip


@pytest.mark.parametrize("build", ["unix64", "unix32"])
@pytest.mark.parametrize("where", ["ram", "rtc"])
def test_reconnecting_resumes_and_reports_it(where, build) -> None:
    with Server(served("good").leaf) as server:
        found = connect(
            build, server.port, served("good").roots, sessions=where, times=3, write=10
        )
    resumed = [one["info"]["resumed"] for one in found["all"]]
    # The second connection of unix32 changes the fragment length, and a session belongs to one.
    assert resumed == [False, build == "unix64", True], found["all"]
    assert [seen["resumed"] for seen in server.seen] == resumed
    assert found["via"] is None and found["not_before"] is None, "nothing was verified anew"


def test_nothing_is_offered_to_another_name_or_root() -> None:
    """Offered there, mbedTLS would connect: it repeats no check when it resumes."""
    program = served("good")
    with Server(program.leaf) as server:
        found = connect(
            "unix64", server.port, program.roots, sessions="ram", times=2, hosts=["localhost", "x"]
        )
        assert [one["verdict"] for one in found["all"]] == ["OK", "HOSTNAME"]
        found = connect(
            "unix64", server.port, program.roots, sessions="ram", times=2, trust=[True, False]
        )
        assert [one["verdict"] for one in found["all"]] == ["OK", "UNTRUSTED"]
        found = connect(
            "unix64", server.port, program.roots, sessions="ram", times=2, bundles=[1, 2]
        )
        assert [one["info"]["resumed"] for one in found["all"]] == [False, False]
