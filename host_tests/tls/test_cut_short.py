"""A server that stops, resets or gives up at any point of its flight: never trusted, never blamed.

The matrix has single rows of this; here is every byte and every record. One device process makes
all connections, the relay counts on by one for each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.tls_chains import served
from support.tls_device import connect
from support.tls_peer import (
    ALERT,
    APPLICATION,
    CHANGE_CIPHER,
    HANDSHAKE,
    Meddle,
    Relay,
    Renegotiating,
    Server,
    alert_at,
    cut_after,
    stalled_after,
)


def each(make: Callable[[int], Callable[[], Meddle]], numbers: range) -> Callable[[], Meddle]:
    """A relay's meddler that is another one for each connection."""
    left: Iterator[int] = itertools.chain(numbers)
    return lambda: make(next(left))()


@pytest.fixture(scope="module", params=["unix64", "stock"])
def flight(request) -> Iterator[tuple[str, Server, int, list[int]]]:
    """Build, server, bytes of the server's handshake, its record types."""
    build = request.param
    with Server(served("good").leaf, tickets=False) as server:
        with Relay(server.port) as relay:
            found = connect(build, relay.port, served("good").roots, write=0)
            assert found["verdict"] == "OK", found
            records = relay.wires[0].records("down")
        # close_notify, if it came, is no part of the handshake.
        records = [one for one in records if one[0] != 21]
        yield build, server, sum(5 + size for _, size in records), [kind for kind, _ in records]


def many(flight: Any, make: Callable[[int], Callable[[], Meddle]], numbers: range) -> list[Any]:
    """Connect once for each number, all from one process."""
    build, server, _, _ = flight
    with Relay(server.port, each(make, numbers)) as relay:
        found = connect(
            build, relay.port, served("good").roots, times=len(numbers), write=0, timeout=540
        )
    assert len(found["all"]) == len(numbers), found
    return list(zip(numbers, found["all"], strict=True))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("end", ["closed", "reset"])
def test_a_handshake_cut_at_any_byte_is_a_failed_connection(flight, end, count) -> None:
    total = flight[2]
    # ECDSA signatures differ by some bytes, so the last of them may be the end of another flight.
    numbers = range(0, total - 4, count(total // 24, 1))
    # A close beside bytes that nobody read leaves the kernel as a reset.
    wanted = {"closed": {"CLOSED", "RESET"}, "reset": {"RESET"}}[end]
    for at, found in many(flight, lambda n: cut_after(n, reset=end == "reset"), numbers):
        assert found["verdict"] in wanted, (at, found)
        assert found["class"] == "ConnectionFailedError", (at, found)
    ((_, found),) = many(flight, stalled_after, range(total + 8, total + 9))
    assert found["verdict"] == "OK", "the whole flight is a handshake"


def test_an_alert_in_place_of_any_record_is_named(flight) -> None:
    build, _, _, kinds = flight
    clear = kinds.index(CHANGE_CIPHER)
    assert clear >= 4 and len(kinds) >= 6
    for at, found in many(flight, lambda n: alert_at(n, 80), range(len(kinds))):
        if at <= clear:
            wanted = "ALERT" if build == "stock" else "PEER_INTERNAL"
            assert found["verdict"] == wanted, (at, found)
        else:  # it must be encrypted by now, and is not
            assert found["verdict"] in ("TAMPERED", "HANDSHAKE", "NOT_TLS"), (at, found)
        assert found["class"] != "TrustError", (at, found)


@pytest.mark.parametrize("command", ["r", "R"])
@pytest.mark.parametrize("build", ["unix64", "stock"])
def test_a_new_handshake_on_a_link_is_answered_by_an_alert(build, command) -> None:
    """Nothing unverified ever replaces what was verified."""
    chain = served("good")
    with (
        Renegotiating(chain.leaf, command, b"hello") as server,
        Relay(server.port) as relay,
    ):
        found = connect(build, relay.port, chain.roots, write=10, read=5)
        up = [kind for kind, _ in relay.wires[0].records("up")]
        down = [kind for kind, _ in relay.wires[0].records("down")]
    assert found["verdict"] == "DROPPED", found
    assert down[down.index(CHANGE_CIPHER) + 2] == HANDSHAKE, "its HelloRequest"
    assert up[up.index(CHANGE_CIPHER) + 2 :] == [APPLICATION, ALERT], "ours, and no ClientHello"
