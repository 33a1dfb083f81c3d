"""The negative matrix as data: what a server does, and the verdict each interpreter must reach.

A row names a server behaviour, the expected verdict on the variant and on stock firmware ("n/a"
with its reason where a row cannot be run there), and the one property in which its positive twin
differs. `server`, `client` and `twin` are keyword sets for test_matrix.py; a twin replaces what it
names. Certificates are named in tls_chains.py.

Stock firmware speaks TLS 1.3 where the server allows it and cannot name alerts; RSA servers are
therefore offered to it in TLS 1.3 ("both"), because mbedTLS 3.6.6 refuses RSA-PSS in TLS 1.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

NO_MODULE = "n/a: stock firmware has no fragment length and no certificate callback"


@dataclass(frozen=True)
class Row:
    """One behaviour. `twin` None: the behaviour is itself one that must connect."""

    id: str
    variant: str
    stock: str
    server: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    twin: dict[str, Any] | None = None
    build: str = "unix64"  # the variant it runs on


def cert(name: str, verdict: str, twin: str, *, stock: str = "", **client: Any) -> Row:
    """A row about the certificates presented: chain `name` against chain `twin`."""
    server = {"chain": name}
    return Row(f"cert-{name}", verdict, stock or verdict, server, client, {"chain": twin})


def meddled(name: str, verdict: str, stock: str = "", **server: Any) -> Row:
    """A row about a server whose bytes are tampered with; the twin's are not."""
    return Row(name, verdict, stock or verdict, server, {}, {"meddle": None})


# Verdicts that no server's behaviour reaches on these builds.
NO_ROW = {
    "NO_CERT": "mbedTLS 3.6 calls an empty Certificate message a decode error (certificate-empty)",
    "REVOKED": "the device loads no revocation lists: a bundle's distrust takes their place",
    "FRAGMENTS": "mbedTLS below 3.6.3 only; the plan rule of test_profile.py avoids it",
    "NO_HOST": "the context always gives a host name",
    "DNS": "before any server is reached: the lookup, host_tests/unit",
    "NETWORK": "what else the operating system reports: no route, no interface",
    "INTERNAL": "a store that fails while mbedTLS asks it: test_verdict_words.py",
    "MEMORY": "our own heap: test_memory_verdicts.py",
}

ROWS = (
    # --- certificates: who signed
    cert("other-root", "UNTRUSTED", "good"),
    cert("same-name-other-key", "UNTRUSTED", "good"),
    cert("self-signed", "UNTRUSTED", "good"),
    cert("no-intermediate", "UNTRUSTED", "good"),
    cert("issuer-not-ca", "UNTRUSTED", "good"),
    cert("issuer-no-basic-constraints", "UNTRUSTED", "good"),
    cert("issuer-no-cert-sign", "UNTRUSTED", "good"),
    cert("path-too-long", "UNTRUSTED", "path-allowed"),
    cert("cross-sign-missing", "UNTRUSTED", "cross-signed"),
    cert("leaf-signature-broken", "UNTRUSTED", "good"),
    cert("wrong-order", "UNTRUSTED", "two-intermediates"),
    cert("leaf-not-first", "HOSTNAME", "good"),
    # --- certificates: when
    cert("expired-leaf", "EXPIRED", "good"),
    cert("expired-intermediate", "EXPIRED", "good"),
    cert("expired-root", "EXPIRED", "good"),
    cert("future-leaf", "FUTURE", "good"),
    cert("future-intermediate", "FUTURE", "good"),
    cert("future-root", "FUTURE", "good"),
    # --- certificates: for whom
    cert("other-host", "HOSTNAME", "good"),
    cert("wildcard", "HOSTNAME", "exact-two-labels", host="a.b.example.test"),
    cert("wildcard-bare", "HOSTNAME", "exact-bare", host="example.test"),
    cert("wildcard-partial", "HOSTNAME", "exact-foo", host="foo.example.test"),
    cert("name-in-cn-only", "HOSTNAME", "good"),
    cert("other-ip", "HOSTNAME", "ip", host="127.0.0.1"),
    cert("ip-as-other-dns", "HOSTNAME", "ip", host="127.0.0.1"),
    # --- certificates: strength and use
    cert("sha1-leaf", "WEAK", "sha256-leaf"),
    cert("sha1-intermediate", "WEAK", "sha256-intermediate"),
    cert("rsa1024-leaf", "WEAK", "rsa2048-leaf"),
    cert("rsa1024-intermediate", "WEAK", "rsa2048-intermediate"),
    cert("client-use-only", "USAGE", "good"),
    cert("code-signing-only", "USAGE", "good"),
    # --- certificates: form
    cert("unknown-critical", "BAD_CERT", "unknown-uncritical"),
    # mbedTLS knows no name constraints: critical ones are refused whatever they say, …
    cert("name-constraints", "BAD_CERT", "name-constraints-uncritical"),
    cert("name-constraints-permit", "BAD_CERT", "name-constraints-permit-uncritical"),
    cert("too-many", "CHAIN", "seven-intermediates"),
    cert("far-too-many", "CHAIN", "seven-intermediates"),
    cert("huge", "RECORD_SIZE", "large"),
    # … and others are ignored, as an address spelt as a DNS name is compared as text. Both are
    # facts of mbedTLS that docs/tls.md tells; whoever can make such a certificate holds the CA.
    cert("name-constraints-uncritical", "OK", "good"),
    cert("ip-as-dns", "OK", "ip", host="127.0.0.1"),
    # --- certificates that must be accepted
    cert("p384", "OK", "good"),
    cert("rsa4096", "OK", "good"),
    cert("mixed-rsa-ecdsa", "OK", "good"),
    cert("cross-signed", "OK", "good"),
    cert("with-root", "OK", "good"),
    cert("utf8-issuer", "OK", "good"),
    cert("renewed-root-first-expired", "OK", "good"),
    Row("wildcard-one-label", "OK", "OK", {"chain": "wildcard"}, {"host": "foo.example.test"}),
    # --- roots held
    Row("no-roots", "NO_ROOTS", "NO_ROOTS", {}, {"roots": 0}, {"roots": 1}),
    Row("broken-root", "BAD_ROOT", "BAD_ROOT", {}, {"broken_root": True}, {"broken_root": False}),
    Row("no-roots-for-address", "NO_ROOTS", "NO_ROOTS", {"chain": "ip"},
        {"roots": 0, "host": "127.0.0.1"}, {"roots": 1}),
    Row("truncated-root", "BAD_ROOT", "BAD_ROOT", {}, {"broken_root": "cut"},
        {"broken_root": False}),
    # --- versions and suites
    Row("rsa-tls12", "OK", "PSS", {"chain": "rsa2048-leaf", "version": "tls12"}, {},
        {"version": "both"}),
    Row("tls10", "CIPHER", "ALERT", {"version": "tls10"}, {}, {"version": "tls12"}),
    Row("tls11", "CIPHER", "ALERT", {"version": "tls11"}, {}, {"version": "tls12"}),
    Row("tls13-only", "CIPHER", "OK", {"version": "tls13"}, {}, {"version": "both"}),
    Row("cbc-sha1", "CIPHER", "ALERT", {"suites": "ECDHE-ECDSA-AES128-SHA"}, {}, {"suites": ""}),
    Row("chacha", "CIPHER", "ALERT", {"suites": "ECDHE-ECDSA-CHACHA20-POLY1305"}, {}, {"suites": ""}),
    Row("static-rsa", "CIPHER", "n/a: mbedTLS 3.6.6 with TLS 1.3 takes no RSA in 1.2, so no twin",
        {"chain": "rsa2048-leaf", "version": "tls12", "suites": "AES128-GCM-SHA256"}, {},
        {"suites": "ECDHE-RSA-AES128-GCM-SHA256"}),
    Row("ecc-client-rsa-server", "CIPHER", "ALERT", {"chain": "rsa2048-leaf", "version": "tls12"},
        {"mode": "ecc"}, {"chain": "good"}),
    Row("dps-client-ecc-server", "OK", "OK", {"chain": "good"}, {"mode": "dps"}),
    Row("sni-refused", "NAME_UNKNOWN", "ALERT", {"sni": "other.example.test"}, {},
        {"sni": "localhost"}),
    # --- records and messages
    meddled("record-version", "NOT_TLS", meddle=("version", 0x0505)),
    meddled("record-type", "NOT_TLS", meddle=("type", 99)),
    meddled("record-too-long", "RECORD_SIZE", meddle=("length", 0xFFFF)),
    meddled("record-empty", "NOT_TLS", meddle=("empty", 0)),
    meddled("hello-suite-not-offered", "HANDSHAKE", "PSS", meddle=("hello-suite",)),
    meddled("hello-unasked-extension", "TAMPERED", "HANDSHAKE", meddle=("hello-extension",)),
    meddled("hello-old-version", "CIPHER", meddle=("hello-version", 0x0301)),
    meddled("hello-older-version", "CIPHER", meddle=("hello-version", 0x0300)),
    meddled("hello-cut-short", "HANDSHAKE", meddle=("hello-length",)),
    meddled("message-order", "HANDSHAKE", meddle=("order",)),
    meddled("message-unknown", "HANDSHAKE", meddle=("unknown-message",)),
    meddled("certificate-empty", "HANDSHAKE", meddle=("empty-certificate",)),
    meddled("certificate-not-der", "BAD_CERT", meddle=("flip", 1, 10)),
    meddled("key-exchange-signature", "HANDSHAKE", meddle=("flip", 2, -1)),
    meddled("finished-tampered", "TAMPERED", meddle=("finished", -1)),
    meddled("finished-nonce-tampered", "TAMPERED", meddle=("finished", 0)),
    meddled("application-data-early", "HANDSHAKE", meddle=("early-data",)),
    meddled("hello-request-in-handshake", "HANDSHAKE", meddle=("hello-request",)),
    # --- a new handshake on a link that is up: refused by an alert, and OpenSSL then ends it
    *(
        Row(f"renegotiation-{name}", "DROPPED", "DROPPED",
            {"kind": "renegotiating", "command": command}, {"read": 5}, {"command": ""})
        for command, name in (("r", "asked"), ("R", "with-certificate"))
    ),
    # --- fragment length
    Row("mfl-violated-in-handshake", "OK", NO_MODULE,
        {"chain": "rsa2048-leaf", "meddle": ("merge", 3)}, {"mfl": 512}, {"meddle": None}),
    Row("mfl-refused", "OK", NO_MODULE, {"kind": "nomfl"}, {"read": 0}, {}),
    # Application data, on the build with input and output buffers of 4096.
    Row("mfl-ignored", "RECORD_SIZE", NO_MODULE, {"kind": "nomfl", "reply": 9000},
        {"write": 1, "read": 9000}, {"kind": "tls"}, build="unix32"),
    Row("mfl-violated", "RECORD_SIZE", NO_MODULE, {"kind": "violating", "reply": 9000},
        {"write": 1, "read": 9000}, {"kind": "tls"}, build="unix32"),
    # --- alerts
    *(
        Row(f"alert-{name}", verdict, "ALERT", {"meddle": ("alert", step, number)}, {},
            {"meddle": None})
        for step, number, name, verdict in (
            (0, 40, "handshake-failure", "CIPHER"),
            (0, 70, "protocol-version", "CIPHER"),
            (0, 71, "insufficient-security", "CIPHER"),
            (0, 112, "unrecognized-name", "NAME_UNKNOWN"),
            (0, 80, "internal-error", "PEER_INTERNAL"),
            (0, 10, "unexpected-message", "HANDSHAKE"),
            (0, 47, "illegal-parameter", "HANDSHAKE"),
            (0, 50, "decode-error", "HANDSHAKE"),
            (0, 200, "unassigned", "ALERT"),
            (3, 42, "bad-certificate", "CLIENT_CERT"),
            (3, 49, "access-denied", "CLIENT_CERT"),
            (4, 51, "decrypt-error", "CLIENT_CERT"),
            (4, 20, "bad-record-mac", "TAMPERED"),
            (3, 22, "record-overflow", "CLIENT_CERT_SIZE"),
            (4, 22, "record-overflow-late", "CLIENT_CERT_SIZE"),
            (3, 80, "internal-error-late", "PEER_INTERNAL"),
            (3, 201, "unassigned-late", "ALERT"),
        )
    ),
    Row("alert-warning", "OK", "OK", {"meddle": ("warning", 1, 112)}, {}, {"meddle": None}),
    Row("close-notify-first", "CLOSED", "CLOSED", {"meddle": ("warning", 0, 0)}, {},
        {"meddle": None}),
    # --- peers that are no TLS servers, or stop
    Row("plain-http", "NOT_TLS", "NOT_TLS", {"kind": "http"}, {}, {"kind": "tls"}),
    Row("plain-banner", "NOT_TLS", "NOT_TLS", {"kind": "banner"}, {}, {"kind": "tls"}),
    Row("silent", "TIMEOUT", "TIMEOUT", {"kind": "silent"}, {"deadline_ms": 2500},
        {"kind": "tls"}),
    Row("silent-in-certificate", "TIMEOUT", "TIMEOUT", {"meddle": ("stall", 300)},
        {"deadline_ms": 2500}, {"meddle": None}),
    Row("closes-at-once", "CLOSED", "CLOSED", {"kind": "close"}, {}, {"kind": "tls"}),
    Row("resets-at-once", "RESET", "RESET", {"kind": "reset"}, {}, {"kind": "tls"}),
    Row("resets-in-certificate", "RESET", "RESET", {"meddle": ("cut", 400, True)}, {},
        {"meddle": None}),
    Row("nobody-there", "REFUSED", "REFUSED", {"kind": "refused"}, {}, {"kind": "tls"}),
    Row("nobody-there-by-address", "REFUSED", "REFUSED", {"kind": "refused", "chain": "ip"},
        {"host": "127.0.0.1"}, {"kind": "tls"}),
    # --- the device's own certificate
    Row("client-cert-optional", "OK", "OK", {"client": "optional"}, {}, {"client": None}),
    Row("client-cert-missing", "CLIENT_CERT", "ALERT", {"client": "required"}, {},
        {"client": "optional"}),
    Row("client-cert-expired", "CLIENT_CERT", "CLIENT_CERT", {"client": "required"},
        {"credential": "expired"}, {"credential": "good"}),
    Row("client-cert-other-ca", "CLIENT_CERT", "CLIENT_CERT", {"client": "required"},
        {"credential": "other-ca"}, {"credential": "good"}),
    Row("client-cert-other-key", "CLIENT_CERT", "CLIENT_CERT", {"client": "required"},
        {"credential": "wrong-key"}, {"credential": "good"}),
    Row("client-cert-above-mfl", "CONFIG", NO_MODULE, {"client": "required"},
        {"credential": "rsa", "mfl": 512}, {"credential": "good"}),
    Row("client-cert-above-mfl-asked", "CONFIG", NO_MODULE, {"client": "optional"},
        {"credential": "rsa", "mfl": 512}, {"mfl": 1024}),
    Row("client-cert-garbage", "BAD_KEY", "BAD_KEY", {"client": "required"},
        {"credential": "garbage-cert"}, {"credential": "good"}),
    Row("client-key-garbage", "BAD_KEY", "BAD_KEY", {"client": "required"},
        {"credential": "garbage"}, {"credential": "good"}),
)  # fmt: skip
