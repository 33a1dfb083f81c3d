"""What the TLS code costs a managed device in heap: rules and sentences are there for the moment.

32-bit, settings of the shipped boards, package frozen: code lies in flash, every definition that
is loaded lies on the heap.
"""

from __future__ import annotations

import json
from pathlib import Path

from support.tls_chains import served
from support.tls_peer import Server
from taproot import interpreters

PROGRAM = Path(__file__).with_name("resident_program.py")
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
