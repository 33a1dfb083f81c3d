"""TLSProfile: which settings a connection gets, why, and what is refused beforehand."""

from __future__ import annotations

import sys
import types

import pytest
from azure_iot.errors import ConnectionFailedError, ProtocolError
from azure_iot.tls.profile import Build, TLSProfile, build_of
from azure_iot.tls.room import check

HOST = "hub.example"


def build(**changes) -> Build:
    """A board with the module, the settings of the constrained board unless changed."""
    settings = {
        "module": True, "in_len": 4096, "out_len": 4096, "variable_buffer": True, "keep_peer": False, "mfl": True,
        "ca_callback": True, "version": "3.6.6",
    }  # fmt: skip
    settings.update(changes)
    return Build(**settings)


def profile(name: str = "default", *, acknowledged=None, certificate=0, record=0, **changes):
    options = {k: changes.pop(k) for k in ("mode", "mfl", "memory") if k in changes}
    if "needs" in changes:
        options["largest_record"] = changes.pop("needs")
    # `mfl` of the profile is the fixed fragment length; `has_mfl` is the build's.
    if "has_mfl" in changes:
        changes["mfl"] = changes.pop("has_mfl")
    made = TLSProfile(name, build=build(**changes), **options)
    made.learn(HOST, acknowledged=acknowledged, certificate=certificate, record=record)
    return made


@pytest.mark.parametrize(
    ("settings", "client_certificate", "chosen"),
    [
        ({}, 0, 4096),  # unknown host
        ({"acknowledged": 4096}, 0, 512),  # it agrees: the smallest
        ({"acknowledged": 4096}, 447, 512),
        ({"acknowledged": 4096}, 513, 1024),
        ({"acknowledged": 4096}, 855, 1024),
        ({"acknowledged": 4096}, 2049, 4096),
        ({"out_len": 2048}, 0, 2048),  # never above the buffers
        ({"out_len": 1024}, 0, 1024),
        ({"name": "tiny"}, 0, 512),
        ({"name": "tiny"}, 900, 1024),
        ({"acknowledged": False}, 0, 0),  # equal buffers work without
        ({"acknowledged": False, "in_len": 16384, "variable_buffer": False}, 0, 0),
        ({"acknowledged": False, "in_len": 16384}, 0, 4096),  # trap 1: must have one
        ({"acknowledged": 4096, "variable_buffer": False}, 0, 4096),  # saves nothing below
        ({"version": "3.6.2", "acknowledged": 4096}, 0, 4096),  # trap 8
        ({"version": "3.6.3", "acknowledged": 4096}, 0, 512),
        ({"version": "3.6.2", "out_len": 2048}, 0, 0),
        ({"tls13": True}, 0, 0),  # trap 6
        ({"has_mfl": False}, 0, 0),
        ({"mfl": 1024, "acknowledged": 4096}, 0, 1024),
        ({"mfl": 0}, 0, 0),
    ],
)
def test_fragment_length_is_the_smallest_that_is_known_to_work(
    settings, client_certificate, chosen
) -> None:
    plan = profile(**settings).plan(HOST, client_certificate=client_certificate)
    assert plan.mfl == chosen, plan.why
    assert len(plan.reasons) >= 2 and plan.why.endswith(plan.reasons[-1])


@pytest.mark.parametrize(
    ("settings", "client_certificate", "says"),
    [
        ({"certificate": 5000}, 0, "CONFIG_MBEDTLS_SSL_IN_CONTENT_LEN=8192"),  # trap 4
        ({}, 5000, "CONFIG_MBEDTLS_SSL_OUT_CONTENT_LEN=8192"),
        ({"mfl": 512}, 855, "does not fit"),  # trap 3
        ({"mfl": 4096, "out_len": 2048}, 0, "does not fit"),  # trap 5
        ({"mfl": 0, "in_len": 16384}, 0, "CONFIG_MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH=n"),  # trap 1
        ({"acknowledged": False, "needs": 8000}, 0, "CONFIG_MBEDTLS_SSL_IN_CONTENT_LEN=16384"),
        ({"acknowledged": False, "record": 16384}, 0, "ignores the fragment length"),  # trap 2
    ],
)
def test_what_cannot_work_is_refused_and_names_the_board_setting(
    settings, client_certificate, says
) -> None:
    with pytest.raises(ProtocolError) as raised:
        profile(**settings).plan(HOST, client_certificate=client_certificate)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("free", "block", "fits"),
    [
        (40_000, 8_000, True),
        (13_000, 4_500, True),  # a resumed handshake fits
        (12_000, 8_000, False),
        (40_000, 4_000, False),
        (40_000, 0, True),  # nobody knows the largest block
        (12_000, 0, False),
    ],
)
def test_memory_decides_before_a_byte_is_sent(free, block, fits) -> None:
    made = profile(memory=lambda: (free, block))
    made.plan(HOST)  # while connected a plan must not count what the connection holds
    if fits:
        check(made)
        return
    with pytest.raises(ConnectionFailedError) as raised:
        check(made)
    assert raised.value.reason == "memory" and str(free) in str(raised.value)


def test_memory_is_what_the_platform_tells(monkeypatch) -> None:
    """On an ESP32 mbedTLS has its own heap; garbage is collected first, which closes sockets."""
    made = profile(memory=True)
    check(made)  # nobody can tell here, so nothing is refused
    collected = []
    regions = [(100_000, 9_000, 4_600, 0), (50_000, 4_000, 3_000, 0)]
    heap = types.SimpleNamespace(
        HEAP_DATA=4, idf_heap_info=lambda kind: regions if collected and kind == 4 else []
    )
    monkeypatch.setitem(sys.modules, "esp32", heap)
    monkeypatch.setattr("azure_iot.tls.room.gc.collect", lambda: collected.append(1))
    check(made)
    regions[0] = (100_000, 9_000, 4_400, 0)
    with pytest.raises(ConnectionFailedError, match=r"13000 are free .largest block 4400"):
        check(made)
    regions[:] = [(100_000, 5_000, 4_600, 0), (50_000, 4_600, 4_500, 0)]
    with pytest.raises(ConnectionFailedError, match="9600 are free"):
        check(made)


def test_buffers_and_heap_follow_settings() -> None:
    small = profile(acknowledged=4096).plan(HOST)
    large = profile().plan(HOST)
    fixed = profile(variable_buffer=False).plan(HOST)
    assert (small.in_limit, small.out_limit) == (512, 512)
    assert large.connected - small.connected == 2 * (4096 - 512)
    assert fixed.connected == large.connected and small.peak == large.peak
    assert profile(out_len=2048).plan(HOST).peak == large.peak - 2048
    assert profile(keep_peer=True).plan(HOST).connected > large.connected + 7_000
    assert profile(ca_callback=False).plan(HOST, roots=4).peak > large.peak + 9_000
    assert profile().plan(HOST, roots=4).peak == large.peak, "roots on demand cost nothing"
    assert profile(bignum=True).plan(HOST).peak < large.peak - 6_000


def test_ranges_are_asked_for_where_a_record_could_be_too_large() -> None:
    assert profile(acknowledged=4096).plan(HOST).range_bytes == 0
    assert profile().plan(HOST).range_bytes == 2048
    assert profile(acknowledged=False).plan(HOST).range_bytes == 2048
    wide = profile(acknowledged=False, in_len=16384, variable_buffer=False)
    assert wide.plan(HOST).range_bytes == 0


def test_suites_follow_the_service_and_never_weak() -> None:
    offered = {mode: profile(mode=mode).plan(HOST).ciphers for mode in ("hub", "ecc", "dps")}
    assert len(offered["hub"]) == 4 and offered["hub"][0].startswith("TLS-ECDHE-RSA")
    assert all("AES-128" in name for names in offered.values() for name in names)
    refused = profile(mode="hub")
    refused.host(HOST).wide = True
    assert (
        len(refused.plan(HOST).ciphers) == 8
        and refused.plan(HOST).ciphers[:1] == offered["hub"][:1]
    )
    assert "AES-256 only if" in profile().plan(HOST).why
    assert "AES-256 only if" not in refused.plan(HOST).why
    assert all("ECDHE-ECDSA" in name for name in offered["ecc"])
    assert all("ECDHE-RSA" in name for name in offered["dps"])
    for names in offered.values():
        assert all(name.startswith("TLS-ECDHE-") for name in names)
        assert not any(name.endswith("-SHA") for name in names)
    stock = TLSProfile("stock").plan(HOST)
    assert stock.version == "TLS 1.2 or 1.3" and stock.ciphers[0].startswith("TLS1-3-")
    assert "no resumption" in stock.why


def connections(made: TLSProfile, agrees, count: int = 8) -> list[int]:
    """What is asked for in `count` connections to a server that agrees to some lengths only."""
    asked = []
    for _ in range(count):
        asked.append(made.plan(HOST).mfl)
        if asked[-1]:
            made.learn(HOST, acknowledged=asked[-1] if asked[-1] in agrees else False)
    return asked


@pytest.mark.parametrize(
    ("settings", "agrees", "asked"),
    [
        ({}, (512, 1024, 2048, 4096), [4096, 512, 512]),
        ({"out_len": 2048}, (2048,), [2048, 512, 2048, 2048]),
        ({"out_len": 2048}, (1024, 2048), [2048, 512, 2048, 2048]),
        ({}, (), [4096, 0, 0]),
        ({"out_len": 2048}, (), [2048, 2048, 2048]),
        ({"name": "tiny"}, (4096,), [512, 0, 0]),
        ({"name": "tiny", "out_len": 2048}, (2048,), [512, 2048, 2048]),
    ],
)
def test_a_server_that_is_picky_about_lengths_gets_one_it_agreed_to_and_keeps_it(
    settings, agrees, asked
) -> None:
    made = profile(**settings)
    found = connections(made, agrees)
    assert found == asked + asked[-1:] * (8 - len(asked))
    changes = made.changes
    connections(made, agrees)
    assert made.changes == changes, "nothing is learnt any more: a kept context serves"


def test_a_settled_length_gives_way_to_the_devices_certificate_and_to_a_change_of_the_server():
    made = profile(out_len=2048)
    connections(made, (1024, 2048))
    assert made.plan(HOST, client_certificate=1900).mfl == 2048
    made.learn(HOST, acknowledged=False)  # it no longer agrees to anything
    assert "ignores" in made.plan(HOST).why


@pytest.mark.parametrize("settings", [{}, {"out_len": 2048}])
def test_a_server_that_agrees_and_sends_larger_records_is_refused_with_the_remedy(
    settings,
) -> None:
    made = profile(acknowledged=512, **settings)
    made.learn(HOST, record=16384)
    with pytest.raises(ProtocolError) as raised:
        made.plan(HOST)
    assert "CONFIG_MBEDTLS_SSL_IN_CONTENT_LEN=16384" in str(raised.value)
    made.learn(HOST, acknowledged=512)  # it goes on agreeing
    assert made.host(HOST).acknowledged is False


def test_a_build_with_a_whole_input_buffer_plans_around_a_server_that_breaks_the_length() -> None:
    made = profile(acknowledged=512, in_len=16384, out_len=16384)
    made.learn(HOST, record=16384)
    assert made.plan(HOST).mfl == 0 and made.plan(HOST).in_limit == 16384


def test_hosts_are_remembered_apart_and_few() -> None:
    made = profile(acknowledged=4096)
    assert made.plan("other.example").mfl == 4096
    assert made.plan(HOST).mfl == 512
    for number in range(10):
        made.learn(f"h{number}.example", acknowledged=False)
    assert len(made._hosts) <= 4


@pytest.mark.parametrize("wrong", [{"name": "big"}, {"mode": "web"}, {"mfl": 300}])
def test_unknown_settings_are_refused(wrong) -> None:
    with pytest.raises(ValueError):
        TLSProfile(wrong.pop("name", "default"), **wrong)


def test_stock_firmware_is_assumed_when_there_is_no_module() -> None:
    stock = build_of(None)
    assert not stock.module and not stock.mfl and stock.keep_peer
    assert (stock.in_len, stock.out_len) == (16384, 4096)
