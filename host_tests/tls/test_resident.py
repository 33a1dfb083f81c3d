"""What the TLS code costs a managed device in heap: rules and sentences are there for the moment.

32-bit, settings of the shipped boards, package frozen: code lies in flash, every definition that
is loaded lies on the heap.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from support.tls_chains import served
from support.tls_peer import Server
from taproot import interpreters

PROGRAM = Path(__file__).with_name("resident_program.py")
REUSE = PROGRAM.with_name("reuse_program.py")
RESIDENT = 2_500  # bytes of heap: modules
CONNECTED = 5_500  # besides what mbedTLS allocates
KEPT = 3_000


def test_only_what_runs_in_a_handshake_stays_loaded(tmp_path) -> None:
    (tmp_path / "root.der").write_bytes(served("good").roots[0])
    with Server(served("good").leaf) as server:
        asked = json.dumps({"port": server.port})
        result = interpreters.run("unix32-board", PROGRAM, asked, cwd=tmp_path, frozen=True)
    assert result.returncode == 0, result.text
    found = json.loads(result.stdout)
    assert found["loaded"] == [
        "azure_iot.tls", "azure_iot.tls.context", "azure_iot.tls.profile", "azure_iot.tls.sessions",
    ]  # fmt: skip
    assert found["modules"] <= RESIDENT, found
    assert [one["resumed"] for one in found["connections"]] == [False, False, True], found
    # SSLContext (2 KB), SSLSocket, transport, plan, facts; then one host and one session.
    assert min(one["connected"] for one in found["connections"]) <= found["modules"] + CONNECTED
    assert min(one["after"] for one in found["connections"]) <= found["modules"] + KEPT, found


def test_a_context_serves_the_next_connection_while_nothing_has_changed(tmp_path) -> None:
    root = served("good").roots[0]
    (tmp_path / "root.der").write_bytes(root)
    with Server(served("good").leaf) as server:
        asked = json.dumps({"port": server.port})
        result = interpreters.run("unix32-board", REUSE, asked, cwd=tmp_path, frozen=True)
    assert result.returncode == 0, result.text
    anchored = hashlib.sha256(root).hexdigest()
    assert json.loads(result.stdout) == [
        [0, False, anchored],
        [1, False, anchored],  # planned anew: the first one showed what the server acknowledges
        [1, True, None],
        [1, True, None],
        [1, False, anchored],  # the session's root is no longer trusted: a full handshake
        "UNTRUSTED",
        [2, False, anchored],  # after a failure nothing is used again
        [3, True, None],  # planned anew, the session is still good
        "memory",
    ]
