"""The negative matrix: every row of support/tls_rows.py on the variant and on stock, each with its twin.

Proves issue "verdicts": one table from error to class, memory and trust never confused, every
negative has a positive that differs in one property. The seen values go to reports/tls-matrix.json.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from support import tls_device
from support.tls_chains import credential, device_authority, served
from support.tls_ignoring import serving
from support.tls_peer import (
    APPLICATION,
    Relay,
    Renegotiating,
    Scripted,
    Server,
    after_change_cipher,
    alert_at,
    by_record,
    cut_after,
    flip,
    merged,
    record,
    stalled_after,
)
from support.tls_rows import NO_ROW, ROWS, Row
from support.tls_violating import Violating
from taproot import interpreters

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
REPORT = Path(__file__).resolve().parents[1] / "reports" / "tls-matrix.json"
VERSIONS = {
    "tls10": (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1),
    "tls11": (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_1),
    "tls12": (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
    "tls13": (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3),
    "both": (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3),
}
ALL = "ALL:!aNULL"


def _hello(change: Any) -> Any:
    """A meddler that rewrites the ServerHello: `change(body)` of the message after its header."""

    def one(at: int, kind: int, body: bytes) -> bytes:
        if at == 0:
            size = 4 + int.from_bytes(body[1:4], "big")
            inner = change(bytearray(body[4:size]))
            body = body[:1] + len(inner).to_bytes(3, "big") + bytes(inner) + body[size:]
        return record(kind, body)

    return by_record(one)


def _suite(body: bytearray) -> bytearray:
    at = 35 + body[34]
    body[at : at + 2] = b"\xcc\xa9"  # ECDHE-ECDSA-CHACHA20, which the device never offers
    return body


def _extension(body: bytearray) -> bytearray:
    at = 35 + body[34] + 3
    size = int.from_bytes(body[at : at + 2], "big") + 5
    body[at : at + 2] = size.to_bytes(2, "big")
    return body + b"\x00\x10\x00\x01\x00"  # ALPN, never asked for


def _version(value: int) -> Any:
    return lambda body: struct.pack("!H", value) + body[2:]


def meddler(spec: tuple[Any, ...]) -> Any:
    """The relay's meddler for a row's `meddle`."""
    name, *rest = spec
    first = {
        "version": lambda kind, body, value: struct.pack("!BHH", kind, value, len(body)) + body,
        "type": lambda kind, body, value: record(value, body),
        "length": lambda kind, body, value: struct.pack("!BHH", kind, 0x0303, value) + body,
        "empty": lambda kind, body, value: record(kind, b"") * 4,
    }
    if name in first:
        return by_record(
            lambda at, kind, body: (
                first[name](kind, body, rest[0]) if at == 0 else record(kind, body)
            )
        )
    made = {
        "hello-suite": lambda: _hello(_suite),
        "hello-extension": lambda: _hello(_extension),
        "hello-version": lambda: _hello(_version(rest[0])),
        "hello-length": lambda: _hello(lambda body: body[:36]),
        "order": lambda: by_record(lambda at, kind, body: b"" if at == 1 else record(kind, body)),
        "unknown-message": lambda: by_record(
            lambda at, kind, body: record(kind, b"\x63\x00\x00\x00" if at == 1 else body)
        ),
        "empty-certificate": lambda: by_record(
            lambda at, kind, body: record(
                kind, b"\x0b\x00\x00\x03\x00\x00\x00" if at == 1 else body
            )
        ),
        "early-data": lambda: by_record(
            lambda at, kind, body: record(APPLICATION, b"hello") if at == 1 else record(kind, body)
        ),
        "hello-request": lambda: by_record(
            lambda at, kind, body: (
                (b"\x16\x03\x03\x00\x04" + bytes(4)) * (at == 1) + record(kind, body)
            )
        ),
        "finished": lambda: after_change_cipher(*rest),
        "flip": lambda: flip(*rest),
        "merge": lambda: merged(*rest),
        "alert": lambda: alert_at(rest[0], rest[1]),
        "warning": lambda: alert_at(rest[0], rest[1], level=1),
        "cut": lambda: cut_after(*rest),
        "stall": lambda: stalled_after(*rest),
    }
    return made[name]()


def _http(conn: socket.socket) -> None:
    conn.recv(4096)
    conn.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n")


def _banner(conn: socket.socket) -> None:
    conn.sendall(b"220 mail.example ESMTP ready\r\n")
    conn.recv(4096)


def _silent(conn: socket.socket) -> None:
    while conn.recv(4096):
        pass


def _close(conn: socket.socket) -> None:
    conn.recv(4096)


def _reset(conn: socket.socket) -> None:
    conn.recv(4096)
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


SCRIPTS = {"http": _http, "banner": _banner, "silent": _silent, "close": _close, "reset": _reset}


@contextlib.contextmanager
def peer(spec: dict[str, Any], build: str) -> Iterator[int]:
    """Serve as the row says; yields the port."""
    kind = spec.get("kind", "tls")
    with contextlib.ExitStack() as stack:
        if kind in SCRIPTS:
            yield stack.enter_context(Scripted(SCRIPTS[kind])).port
            return
        if kind == "refused":
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            yield port
            return
        chain = served(spec.get("chain", "good"))
        if kind == "renegotiating":
            yield stack.enter_context(Renegotiating(chain.leaf, spec["command"], b"hello")).port
            return
        if kind == "nomfl":
            yield stack.enter_context(serving(chain.leaf, reply=spec.get("reply", 0)))
            return
        if kind == "violating":
            yield stack.enter_context(Violating(chain.leaf, reply=spec["reply"])).port
            return
        default = "both" if _rsa(chain) else "tls12"
        minimum, maximum = VERSIONS[spec.get("version", default)]
        name = spec.get("sni")
        server = stack.enter_context(
            Server(
                chain.leaf,
                minimum=minimum,
                maximum=maximum,
                ciphers=spec.get("suites") or ALL,
                client=spec.get("client"),
                client_roots=device_authority().pem,
                chain_pem=chain.chain_pem,
                reply=bytes(spec.get("reply", 0)),
                sni=(lambda asked: None if asked == name else 112) if name else None,
            )
        )
        port = server.port
        if spec.get("meddle") or spec.get("client"):
            # Behind a relay an alert arrives even when the server resets right after it.
            meddle = meddler(spec["meddle"]) if spec.get("meddle") else None
            port = stack.enter_context(Relay(port, meddle)).port
        yield port


def _rsa(chain: Any) -> bool:
    """Stock firmware needs TLS 1.3 for a server that signs with RSA."""
    return isinstance(chain.leaf.key, rsa.RSAPrivateKey)


def expect(row: Row, build: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Connect once as the row says."""
    client = dict(row.client)
    for name in ("host", "roots", "broken_root", "mode", "mfl", "credential", "read",
                 "deadline_ms"):  # fmt: skip
        if name in spec:
            client[name] = spec[name]
    chain = served(spec.get("chain", row.server.get("chain", "good")))
    roots = chain.roots
    broken = client.pop("broken_root", False)
    if broken:
        roots = [roots[0][:100] if broken == "cut" else roots[0][:-40] + bytes(20)]
    roots = roots[: client.pop("roots", len(roots))]
    files: dict[str, bytes | str] = {}
    wanted = client.pop("credential", None)
    if wanted:
        held = credential(wanted)
        files = {"cert": held.cert, "key": held.key}
        client.update(cert="cert", key="key")
    server = {**row.server, **{k: v for k, v in spec.items() if k not in client}}
    with peer(server, build) as port:
        return tls_device.connect(
            build, port, roots, files=files, write=client.pop("write", 10), **client
        )


seen: dict[str, dict[str, str]] = {}


@pytest.fixture(scope="module", autouse=True)
def _report():
    yield
    # Only a whole run is a report: a part must not overwrite one.
    if len(seen) == len(ROWS) and all(len(builds) == 2 for builds in seen.values()):
        REPORT.parent.mkdir(exist_ok=True)
        rows = {
            row.id: {"expected": {"unix64": row.variant, "stock": row.stock}, "seen": seen[row.id]}
            for row in ROWS
        }
        REPORT.write_text(json.dumps({"schema": 1, "rows": rows}, indent=1) + "\n")


@pytest.mark.parametrize("build", ["unix64", "stock"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_server_behaviour_reaches_its_verdict(row: Row, build: str) -> None:
    wanted = row.stock if build == "stock" else row.variant
    if wanted.startswith("n/a"):
        seen.setdefault(row.id, {})[build] = wanted
        return
    build = row.build if build == "unix64" else build
    result = expect(row, build, {})
    seen.setdefault(row.id, {})["stock" if build == "stock" else "unix64"] = result["verdict"]
    assert result["verdict"] in wanted.split("|"), result
    if result["verdict"] not in ("OK", "EXPIRED"):
        trust = result["class"] == "TrustError"
        assert trust == (result["verdict"] in TRUST), result
    if row.twin is not None:
        assert expect(row, build, row.twin)["verdict"] == "OK", "the positive twin"


TRUST = {"UNTRUSTED", "HOSTNAME", "WEAK", "USAGE", "BAD_CERT", "NO_ROOTS", "BAD_ROOT", "REVOKED"}


def test_matrix_is_large_enough() -> None:
    builds = {"variant": [r.variant for r in ROWS], "stock": [r.stock for r in ROWS]}
    counted = {name: sum(not v.startswith("n/a") for v in rows) for name, rows in builds.items()}
    assert counted["variant"] >= 60 and counted["stock"] >= 40
    for rows in builds.values():
        once = {v for v in rows if rows.count(v) < 2 and not v.startswith("n/a")}
        assert not once, "every verdict comes from two server behaviours at least"
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert interpreters.path("stock").exists()


def test_every_verdict_of_the_table_has_rows_or_a_reason() -> None:
    source = (FIRMWARE / "azure_iot" / "tls" / "verdict.py").read_text()
    names = set(re.findall(r'^    "[TCKPN]\|([A-Z_]+)\|', source, re.M))
    reached = {row.variant for row in ROWS} | {row.stock for row in ROWS}
    assert len(names) > 30
    assert names - reached == set(NO_ROW), "each without a row has its reason, and no other one"
