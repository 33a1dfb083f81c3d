"""Memory told apart from mistrust: no shortage of heap may ever look like a server's fault.

A failed allocation inside chain verification comes out of mbedTLS as "not correctly signed". Two
sweeps: every single allocation of a handshake failing once, and shrinking heaps.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from typing import Any

import pytest
from support.tls_chains import Served, key, leaf, root, served
from support.tls_device import connect
from support.tls_peer import Server
from taproot import interpreters

_LONG_S = 240  # the long form: 1,500 allocations, on a busy machine


@pytest.fixture(scope="module")
def chain_a() -> Served:
    """RSA-2048 root, RSA-4096 intermediate, RSA-2048 leaf."""
    made = leaf(root("rsa2048").intermediate("Matrix rsa4096", key=key("rsa4096", 10)), "rsa2048")
    return Served(made, [root("rsa2048").der])


@pytest.fixture(scope="module")
def heavy(chain_a: Served):
    with Server(chain_a.leaf) as server:
        yield server


def _allocations(port: int, roots: list[bytes], build: str) -> int:
    found = connect(build, port, roots)
    assert found["verdict"] == "OK", found
    return int(found["mem"][3])


@pytest.mark.timeout(_LONG_S + 60)
@pytest.mark.parametrize("chain", ["good", "rsa"])
def test_every_failed_allocation_is_called_memory(chain, heavy, chain_a, count) -> None:
    """Fails the n-th allocation of the handshake, for all n (sampled in the short form)."""
    with Server(served("good").leaf) as light:
        port, roots = light.port, served("good").roots
        if chain == "rsa":
            port, roots = heavy.port, chain_a.roots
        total = _allocations(port, roots, "unix32")
        assert total > 300
        step = count(max(1, total // 60), max(1, total // 1500))
        numbers = range(1, total + 1, step)
        found = connect("unix32", port, roots, times=len(numbers), fail_step=step, timeout=_LONG_S)
    seen: Counter[str] = Counter()
    for n, one in zip(numbers, found["all"], strict=True):
        seen[one["verdict"]] += 1
        # The handshake may survive a failure nobody needed (a session not saved); it must never
        # blame the server.
        assert one["verdict"] in ("MEMORY", "OK"), (n, one)
        assert one.get("class") in (None, "ConnectionFailedError"), (n, one)
    assert seen["MEMORY"] > 0.9 * sum(seen.values()), seen


@pytest.mark.parametrize("trusted", [True, False])
def test_shrinking_heaps_never_look_like_mistrust(trusted, heavy, chain_a, count) -> None:
    """The heap left free in steps; with a wrong root the verdict is MEMORY or the true one."""
    roots = chain_a.roots if trusted else [root("rsa2048", 1).der]
    proven = "OK" if trusted else "UNTRUSTED"
    seen: list[tuple[int, str, bool]] = []
    for free in range(8_000, 52_000, count(1_024, 256)):
        # Frozen, as on a board: from source, loading the plan takes more than the handshake.
        found: dict[str, Any] = connect(
            "unix32", heavy.port, roots, heap="400k", low=free, env={"MICROPYPATH": ".frozen"}
        )
        assert found["verdict"] in ("MEMORY", proven), (free, found)
        false_text = "not correctly signed" in found.get("cause", "")
        seen.append((free, found["verdict"], false_text))
    assert seen[0][1] == "MEMORY" and seen[-1][1] == proven
    if trusted:
        window = [free for free, verdict, text in seen if verdict == "MEMORY" and text]
        assert window, "the sweep crosses the range in which mbedTLS says 'not correctly signed'"


SHARED = """
import gc, json, sys
from azure_iot.errors import ConnectionFailedError
from azure_iot.tls.context import default_profile
from azure_iot.tls.room import check
profile = default_profile()
held = []
def fill(keep):
    try:
        while gc.mem_free() > 6000:
            piece = bytearray(500)
            if keep:
                held.append(piece)
    except MemoryError:
        pass
gc.collect()
gc.disable()
fill(False)
garbage = gc.mem_free()
check(profile)
gc.enable()
fill(True)
try:
    check(profile)
except ConnectionFailedError as error:
    held = None
    print(json.dumps([garbage, error.reason, str(error)]))
"""


def test_where_tls_shares_the_heap_only_what_is_in_use_counts() -> None:
    found = interpreters.run("unix32-board", SHARED, heap="200k", frozen=True)
    assert found.returncode == 0, found.text
    garbage, reason, text = json.loads(found.stdout)
    assert garbage <= 6_000 and reason == "memory" and "TLS needs 10210 bytes" in text


def test_memory_is_checked_before_connecting(heavy, chain_a) -> None:
    """What cannot fit is refused, and it says how much is needed."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()[1]
    found = connect("unix32", nobody, chain_a.roots, memory=[12_000, 12_000])
    assert found["verdict"] == "MEMORY" and "TLS needs" in found["text"], "or it would be refused"
    found = connect("unix32", heavy.port, chain_a.roots, memory=[60_000, 4_000])
    assert found["verdict"] == "MEMORY" and "largest block 4000" in found["text"], found
    found = connect("unix32", heavy.port, chain_a.roots, memory=[60_000, 8_000])
    assert found["verdict"] == "OK", found
