"""The catalogue of packages that trust tests judge: right ones, and one for each way to be wrong.

`build(folder)` writes factories, packages and `cases.json`; tests read them from there on CPython
and on MicroPython, and the golden vectors are the same files in another form. A case says what a
device with the named factory answers: `OK`, `SAME` (nothing to do) or a code of trust/errors.py.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from support import trust_maker as tm
from taproot.pki import Authority

NOW = 1_786_000_000
VERSIONS_WRONG = {
    "zero": b"0",
    "negative": b"-1",
    "two_to_the_30": b"1073741824",
    "exponent": b"1e3",
    "text": b'"7"',
    "true": b"true",
    "fraction": b"7.0",
    "400_digits": b"7" * 400,
    "leading_zero": b"07",
    "null": b"null",
}


# The cases of TUF's conformance suite for key rotation, one by one: 15 of the role that signs
# key-sets, each step (keys, threshold, who signs), and 10 of the role that signs bundles, each step
# (keys, threshold), then who signs. The first step is the device's factory key-set.
_OK, _NO = "OK", "THRESHOLD"
ROOT_ROTATIONS: list[tuple[str, list[tuple[list[int], int, list[int]]], str]] = [
    ("1_of_1", [([1], 1, [1]), ([2], 1, [2, 1])], _OK),
    ("1_of_1_unused_signatures", [([1], 1, [1]), ([2], 1, [3, 2, 1, 4])], _OK),
    ("1_of_1_not_signed_by_old", [([1], 1, [1]), ([2], 1, [2, 3, 4])], _NO),
    ("1_of_1_not_signed_by_new", [([1], 1, [1]), ([2], 1, [1, 3, 4])], _NO),
    (
        "3_of_5_in_combinations",
        [
            ([0, 1, 2, 3, 4], 3, [0, 2, 4]),
            ([0, 1, 2, 3, 4], 3, [0, 4, 1]),
            ([0, 1, 2, 3, 4], 3, [0, 1, 3]),
            ([0, 1, 2, 3, 4], 3, [0, 1, 3]),
            ([0, 1, 2, 3, 4], 3, [0, 1, 2]),
        ],
        _OK,
    ),
    (
        "3_of_5_one_key_rotated",
        [([0, 1, 2, 3, 4], 3, [0, 2, 4]), ([0, 1, 5, 3, 4], 3, [0, 4, 1])],
        _OK,
    ),
    (
        "3_of_5_one_key_too_few_new",
        [([0, 1, 2, 3, 4], 3, [0, 2, 4]), ([0, 1, 3, 5, 6], 3, [0, 2, 4, 1])],
        _NO,
    ),
    (
        "3_of_5_one_key_too_few_old",
        [([0, 1, 2, 3, 4], 3, [0, 2, 4]), ([0, 1, 5, 3, 4], 3, [0, 4, 5])],
        _NO,
    ),
    (
        "3_of_5_one_key_with_intermediate",
        [
            ([0, 1, 2, 3, 4], 3, [0, 2, 4]),
            ([0, 1, 5, 3, 4], 3, [0, 2, 4, 1]),
            ([0, 1, 5, 3, 4], 3, [0, 1, 3]),
        ],
        _OK,
    ),
    (
        "3_of_5_all_keys_with_intermediate",
        [
            ([0, 1, 2, 3, 4], 3, [0, 2, 4]),
            ([5, 6, 7, 8, 9], 3, [0, 2, 4, 5, 6, 7]),
            ([5, 6, 7, 8, 9], 3, [5, 6, 7]),
        ],
        _OK,
    ),
    ("threshold_1_to_3", [([0, 1, 2, 3, 4], 1, [0]), ([0, 1, 2, 3, 4], 3, [0, 2, 4])], _OK),
    ("threshold_1_to_2_of_3", [([0, 1, 2], 1, [0]), ([0, 1, 2], 2, [0, 1])], _OK),
    ("threshold_1_to_2_not_reached", [([0, 1, 2], 1, [0]), ([0, 1, 2], 2, [0])], _NO),
    (
        "threshold_3_to_1",
        [
            ([0, 1, 2, 3, 4], 3, [0, 2, 4]),
            ([0, 1, 2, 3, 4], 1, [0, 2, 4]),
            ([0, 1, 2, 3, 4], 1, [0]),
        ],
        _OK,
    ),
    (
        "threshold_3_to_1_below_old",
        [([0, 1, 2, 3, 4], 3, [0, 2, 4]), ([0, 1, 2, 3, 4], 1, [0])],
        _NO,
    ),
]
BUNDLE_ROTATIONS: list[tuple[str, list[tuple[list[int], int]], list[int], str]] = [
    ("1_of_1", [([1], 1), ([2], 1)], [2], _OK),
    ("1_of_1_unused_signatures", [([1], 1), ([2], 1)], [1, 2, 3], _OK),
    ("1_of_1_not_signed_by_new", [([1], 1), ([2], 1)], [1], _NO),
    ("3_of_5_one_key", [([0, 1, 2, 3, 4], 3), ([0, 1, 5, 3, 4], 3)], [0, 1, 5], _OK),
    ("3_of_5_too_few_new", [([0, 1, 2, 3, 4], 3), ([0, 1, 5, 3, 4], 3)], [0, 1, 2], _NO),
    ("3_of_5_all_keys", [([0, 1, 2, 3, 4], 3), ([5, 6, 7, 8, 9], 3)], [5, 7, 9], _OK),
    ("3_of_5_all_keys_old", [([0, 1, 2, 3, 4], 3), ([5, 6, 7, 8, 9], 3)], [0, 2, 4], _NO),
    ("threshold_1_to_3", [([0, 1, 2, 3, 4], 1), ([0, 1, 2, 3, 4], 3)], [0, 2, 4], _OK),
    ("threshold_not_reached", [([0, 1, 2, 3, 4], 1), ([0, 1, 2, 3, 4], 3)], [0, 2], _NO),
    ("threshold_3_to_1", [([0, 1, 2, 3, 4], 3), ([0, 1, 2, 3, 4], 1)], [4], _OK),
]
ROTATIONS = [f"tuf_root_{name}" for name, _, _ in ROOT_ROTATIONS] + [
    f"tuf_bundle_{name}" for name, _, _, _ in BUNDLE_ROTATIONS
]


@dataclass
class Case:
    name: str
    ids: list[str]
    package: bytes
    expect: str
    factory: str = "plain"
    now: int = NOW
    synchronised: bool = True
    channel: str = "url"
    uses: tuple = ("hub",)
    tls: bool = False  # only where the TLS library can be asked


class Catalogue:
    """Everything made once per session, with the keys that made it."""

    def __init__(self) -> None:
        self.fleet = tm.Fleet()
        self.cases: list[Case] = []
        self.vectors: list[dict] = []
        self.folder = Path()
        self.extra: dict[str, bytes] = {}
        self.factories: dict[str, dict[str, bytes]] = {}
        self.meta: dict[str, str] = {}
        self.ders: dict[str, bytes] = {}
        self._factories()
        for make in (
            self._accepted,
            self._versions,
            self._signatures,
            self._headers,
            self._keysets,
            self._contents,
            self._certificates,
            self._json,
            self._base64,
            self._sizes,
            self._rotations,
            self._scenarios,
        ):
            make()

    # Factories

    def _factories(self) -> None:
        f = self.fleet
        self.add_factory("plain", f.keyset, f.factory_bundle)
        self.rs256 = [tm.signer(f"rs256-{i}", 2048, "RS256") for i in range(2)]
        self.single = tm.keyset_payload(1, f.root_keys, self.rs256, bundle_threshold=2)
        keyset = tm.keyset(self.single, f.root_keys[:2])
        first = tm.bundle(tm.bundle_payload(1, f.roots), self.rs256)
        self.add_factory("rs256", keyset, first)
        self.big = tm.signers("vector", 2, 4096)
        keyset = tm.keyset(tm.keyset_payload(1, f.root_keys, self.big), f.root_keys[:2])
        self.add_factory("rsa4096", keyset, tm.bundle(tm.bundle_payload(1, f.roots), self.big))
        demo = tm.keyset(
            tm.keyset_payload(1, f.root_keys, f.bundle_keys, fleet="demo-x"), f.root_keys[:2]
        )
        self.add_factory("demo", demo, f.bundle(1, fleet="demo-x"))
        self.factories["unmanaged"] = {
            "a.der": f.roots[0],
            "b.der": f.roots[1],
            "build_date": str(tm.ISSUED).encode(),
        }

    def add_factory(self, name: str, keyset: dict, bundle: dict, date: int = tm.ISSUED) -> None:
        self.factories[name] = {
            "keyset.jws": tm.compact(keyset),
            "bundle.jws": tm.compact(bundle),
            "build_date": str(date).encode(),
        }

    def add(self, name: str, ids: str, package: bytes | dict, expect: str, **options) -> None:
        data = package if isinstance(package, bytes) else tm.package(package)
        self.cases.append(Case(name, ids.split(), data, expect, **options))

    # Signed payloads given as bytes, so that they can be wrong in ways json.dumps never is

    def signed(self, payload: bytes | dict, keys: list[tm.Signer] | None = None) -> dict:
        return tm.bundle(payload, keys or self.fleet.bundle_keys[:2])

    def text(self, version: int = 2, ders: list[bytes] | None = None, **changes) -> bytes:
        return tm.compact(tm.bundle_payload(version, ders or self.fleet.roots, **changes))

    def _accepted(self) -> None:
        f = self.fleet
        self.add("plain", "R-01 R-03 R-45", f.package(2), "OK")
        self.add("three_signatures", "R-07", tm.bundle(self.text(), f.bundle_keys), "OK")
        payload = tm.b64u(self.text())
        good = [tm.signature(k, payload, "trust-bundle+jws") for k in f.bundle_keys[:2]]
        foreign = tm.signature(tm.signer("foreign"), payload, "trust-bundle+jws")
        wrong = tm.signature(f.bundle_keys[2], payload, "trust-bundle+jws", raw=b"\x01" * 256)
        other_typ = tm.signature(f.bundle_keys[2], payload, "trust-keys+jws")

        def with_(*signatures: dict) -> dict:
            return {"payload": payload, "signatures": list(signatures)}

        self.add("unused_foreign_signature", "R-07", with_(foreign, *good), "OK")
        self.add("one_invalid_of_three", "R-07", with_(wrong, *good), "OK")
        self.add("surplus_of_another_typ", "R-07 R-10", with_(*good, other_typ), "OK")
        self.add("unknown_member", "R-12", self.signed(self.text(later={"a": [1, {}]})), "OK")
        roots = [tm.root_entry(f.roots[0], note="héllo \u20ac 𝄞")]
        raw = json.dumps(tm.bundle_payload(2, [], roots=roots), ensure_ascii=False).encode()
        self.add("note_in_utf8", "H13", self.signed(raw), "OK")
        self.add(
            "note_with_escapes",
            "H13",
            self.signed(self.text().replace(b"test root", b'\\"\\\\\\/\\b\\f\\n\\r\\t\\u20AC')),
            "OK",
        )
        self.add(
            "white_space",
            "H13",
            self.signed(json.dumps(json.loads(raw), indent=1, ensure_ascii=False).encode()),
            "OK",
        )
        spaced = json.dumps(json.loads(f.package(2)), indent=2).encode()
        self.add("white_space_in_package", "H13", spaced, "OK")
        swapped = json.loads(f.package(2))
        self.add(
            "members_in_another_order",
            "H13",
            tm.compact({"bundle": swapped["bundle"], "keysets": []}),
            "OK",
        )
        twin = Authority.root("first", key="p256").der
        self.add("same_subject_other_key", "R-28", f.package(2, [f.roots[0], twin]), "OK")
        eight = [tm.root_der(f"n{i}") for i in range(8)]
        self.add("eight_roots", "R-25", f.package(2, eight), "OK")
        states = [
            tm.root_entry(f.roots[0], state="standby"),
            tm.root_entry(f.roots[1], state="retired"),
        ]
        self.add("root_states", "R-25", f.package(2, roots=states), "OK")
        self.add("highest_version", "R-19", f.package(2**30 - 1), "OK")
        self.add("rs256", "D2", tm.bundle(self.text(), self.rs256), "OK", factory="rs256")
        self.add("rsa4096", "D2", tm.bundle(self.text(), self.big), "OK", factory="rsa4096")
        self.add("hub_and_dps_needed", "R-30", f.package(2), "OK", uses=("hub", "dps"))
        listed = f.package(2, distrust=[hashlib.sha256(b"x").hexdigest()])
        self.add("distrust_of_another", "R-48", listed, "OK")
        urls = ["http://a.example/t", "https://b.example/t"]
        self.add("recovery_urls", "G2", f.package(2, recovery=urls), "OK")
        self.add("by_inbox", "H4", f.package(2), "OK", channel="inbox")
        self.add(
            "demo_fleet", "R-50", tm.package(f.bundle(2, fleet="demo-x")), "OK", factory="demo"
        )
        self.add("unmanaged", "R-50", f.package(2), "UNMANAGED", factory="unmanaged")
        self.add("same_again", "R-20", tm.package(f.factory_bundle), "SAME")

    def _versions(self) -> None:
        f = self.fleet
        self.add("equal_version_other_digest", "R-20 H3", f.package(1, [f.roots[0]]), "ROLLBACK")
        self.add("other_fleet", "R-11 H4", f.package(2, fleet="other"), "FLEET")
        self.add("empty_fleet", "R-11", f.package(2, fleet=""), "MALFORMED")
        self.add("fleet_of_64", "R-11", f.package(2, fleet="f" * 64), "FLEET")
        self.add("long_fleet", "R-11", f.package(2, fleet="f" * 65), "MALFORMED")
        self.add("spec_2", "R-12", f.package(2, spec=2), "MALFORMED")
        self.add("spec_0", "R-12", f.package(2, spec=0), "MALFORMED")
        self.add("spec_missing", "R-12", f.package(2, spec=None), "MALFORMED")
        self.add("key_version_above", "R-17", f.package(2, key_version=2), "KEY_CHAIN")
        self.add("min_version_above", "R-24", f.package(2, min_version=3), "MALFORMED")
        for member in ("version", "min_version", "key_version"):
            for name, text in VERSIONS_WRONG.items():
                value = b'"%s":%d' % (member.encode(), tm.bundle_payload(2, [])[member])
                raw = self.text().replace(value, b'"%s":%s' % (member.encode(), text))
                self.add(f"{member}_{name}", "H9", self.signed(raw), "MALFORMED")
        late = tm.EXPIRES + 1
        self.add("expired", "R-23 H10", f.package(2), "EXPIRED", now=late)
        self.add("expires_now", "R-23", f.package(2), "EXPIRED", now=tm.EXPIRES)
        self.add("expires_soon", "R-23", f.package(2), "OK", now=tm.EXPIRES - 1)
        self.add("expired_assumed", "R-23", f.package(2), "EXPIRED", now=late, synchronised=False)
        self.add(
            "expired_recovery",
            "R-23",
            f.package(2),
            "OK",
            now=late,
            synchronised=False,
            channel="recovery",
        )
        self.add(
            "expired_recovery_synchronised",
            "R-23",
            f.package(2),
            "EXPIRED",
            now=late,
            channel="recovery",
        )
        self.add("future", "H10", f.package(2), "EXPIRED", now=tm.ISSUED - 1)
        self.add("issued_now", "H10", f.package(2), "OK", now=tm.ISSUED)
        self.add(
            "future_assumed", "H10", f.package(2), "OK", now=tm.ISSUED - 1, synchronised=False
        )
        self.add("expires_before_issued", "H10", f.package(2, expires=tm.ISSUED - 1), "MALFORMED")
        self.add("expires_at_issued", "H10", f.package(2, expires=tm.ISSUED), "MALFORMED")
        short = f.package(2, expires=tm.ISSUED + 1)
        self.add("expires_a_second_later", "H10", short, "OK", now=tm.ISSUED)
        for member in ("issued", "expires"):
            self.add(
                f"{member}_fraction", "H10", f.package(2, **{member: 1848614400.5}), "MALFORMED"
            )
            self.add(f"{member}_missing", "H10", f.package(2, **{member: None}), "MALFORMED")
            self.add(f"{member}_text", "H10", f.package(2, **{member: "2030"}), "MALFORMED")

    def _signatures(self) -> None:
        f = self.fleet
        b = f.bundle_keys
        text = self.text()
        payload = tm.b64u(text)
        typ = "trust-bundle+jws"

        def with_(*signatures: dict) -> dict:
            return {"payload": payload, "signatures": list(signatures)}

        s0, s1 = tm.signature(b[0], payload, typ), tm.signature(b[1], payload, typ)
        foreign = [tm.signature(tm.signer(f"foreign{i}"), payload, typ) for i in range(2)]
        self.add("unknown_keys", "R-07 H5", with_(*foreign), "THRESHOLD")
        self.add("one_good_one_unknown", "H5", with_(s0, foreign[0]), "THRESHOLD")
        self.add("signed_by_root_keys", "H5 R-10", tm.bundle(text, f.root_keys), "THRESHOLD")
        self.add("threshold_minus_one", "H6 R-08", with_(s0), "THRESHOLD")
        self.add("one_key_twice", "R-06 H6", with_(s0, s0), "DUPLICATE")
        again = tm.signature(b[0], payload, typ)
        self.add("one_key_signing_twice", "R-06 H6", with_(s0, again, s1), "DUPLICATE")
        self.add("foreign_key_twice", "R-06", with_(s0, s1, foreign[0], foreign[0]), "DUPLICATE")
        stolen = dict(s1, signature=s0["signature"])
        self.add("same_signature_two_kids", "H6", with_(s0, stolen), "BAD_SIGNATURE")
        self.add("no_signatures", "H6", with_(), "MALFORMED")
        others = [tm.signature(tm.signer(f"t{i}"), payload, typ) for i in range(7)]
        self.add("eight_signatures", "R-06 R-07", with_(*others[:6], s0, s1), "OK")
        self.add("nine_signatures", "R-06 H11", with_(*others, s0, s1), "TOO_LARGE")
        endless = tm.signature(b[1], payload, typ, raw=b"\1" * 513)
        self.add("signature_of_513_bytes", "R-02 H8", with_(s0, endless), "TOO_LARGE")
        swapped = tm.signature(b[1], payload, typ, header={"alg": "RS256"})
        self.add("alg_swapped", "R-04 H7", with_(s0, swapped), "THRESHOLD")
        truly = tm.signature(
            b[1],
            payload,
            typ,
            header={"alg": "RS256"},
            raw=b[1].sign(
                (
                    tm.b64u(tm.compact({"alg": "RS256", "kid": b[1].kid, "typ": typ}))
                    + "."
                    + payload
                ).encode(),
                "RS256",
            ),
        )
        self.add("alg_swapped_and_signed_so", "R-04 H7", with_(s0, truly), "THRESHOLD")
        keys_typ = [tm.signature(k, payload, "trust-keys+jws") for k in b[:2]]
        self.add("typ_of_keysets", "R-10", with_(*keys_typ), "THRESHOLD")
        other = tm.b64u(self.text(3))
        moved = {"payload": other, "signatures": [s0, s1]}
        self.add("signatures_of_another_payload", "R-03", moved, "BAD_SIGNATURE")
        for name, raw in (
            ("0", bytes(256)),
            ("1", b"\0" * 255 + b"\1"),
            ("n_minus_1", (b[1].n - 1).to_bytes(256, "big")),
            ("n", b[1].n.to_bytes(256, "big")),
            ("short", b"\1" * 255),
            ("long", b"\0" + base64.urlsafe_b64decode(s1["signature"] + "==")),
            ("empty", b""),
        ):
            forged = tm.signature(b[1], payload, typ, raw=raw)
            self.add(f"signature_{name}", "R-05 H8", with_(s0, forged), "BAD_SIGNATURE")
        value = int.from_bytes(base64.urlsafe_b64decode(s1["signature"] + "=="), "big")
        if value + b[1].n < 1 << 2048:
            raw = (value + b[1].n).to_bytes(256, "big")
            self.add(
                "signature_plus_n",
                "R-05 H8",
                with_(s0, dict(s1, signature=tm.b64u(raw))),
                "BAD_SIGNATURE",
            )
        for salt in (0, 20, 64):
            head = tm.b64u(tm.compact({"alg": "PS256", "kid": b[1].kid, "typ": typ}))
            raw = b[1].sign(f"{head}.{payload}".encode(), salt=salt)
            wrong = {"protected": head, "signature": tm.b64u(raw)}
            self.add(f"salt_{salt}", "R-05 H8", with_(s0, wrong), "BAD_SIGNATURE")

    def _headers(self) -> None:
        b = self.fleet.bundle_keys
        payload = tm.b64u(self.text())
        typ = "trust-bundle+jws"
        s0 = tm.signature(b[0], payload, typ)
        wrong = {
            "alg_none": {"alg": "none"},
            "alg_hs256": {"alg": "HS256"},
            "alg_es256": {"alg": "ES256"},
            "alg_missing": {"alg": None},
            "kid_missing": {"kid": None},
            "kid_short": {"kid": "abc"},
            "kid_of_wrong_letters": {"kid": "+" * 43},
            "typ_missing": {"typ": None},
            "typ_unknown": {"typ": "JWT"},
            "typ_in_capitals": {"typ": "trust-bundle+JWS"},
            "crit": {"crit": ["b64"]},
            "jwk": {"jwk": b[1].jwk},
            "jku": {"jku": "http://a"},
            "x5c": {"x5c": "a"},
            "b64_false": {"b64": False},
            "extra_text": {"x": "y"},
        }
        for name, members in wrong.items():
            bad = tm.signature(b[1], payload, typ, header=members)
            envelope = {"payload": payload, "signatures": [s0, bad]}
            expect = "TOO_LARGE" if name == "jwk" else "MALFORMED"
            self.add(f"header_{name}", "R-04 H7 R-10", envelope, expect)

        def hand(header: bytes) -> dict:
            head = tm.b64u(header)
            raw = b[1].sign(f"{head}.{payload}".encode())
            return {
                "payload": payload,
                "signatures": [s0, {"protected": head, "signature": tm.b64u(raw)}],
            }

        kid = b[1].kid.encode()
        line = b'{"alg":"PS256","kid":"' + kid + b'","typ":"trust-bundle+jws"}'
        self.add("header_deep", "H13", hand(b"[" * 40 + b"]" * 40), "MALFORMED")
        self.add("header_alg_twice", "H13", hand(line[:-1] + b',"alg":"PS256"}'), "MALFORMED")
        self.add("header_trailing", "H13", hand(line + b" x"), "MALFORMED")
        self.add("header_nul_tail", "H13", hand(line + b"\0"), "MALFORMED")
        self.add("header_comma_missing", "H13", hand(line.replace(b'",', b'" ')), "MALFORMED")
        self.add("header_empty", "H7", hand(b"{}"), "MALFORMED")
        self.add("header_of_nothing", "H7", hand(b""), "MALFORMED")
        self.add("header_spaced", "H7", hand(line.replace(b":", b": ")), "OK")
        longest = hand(line[:-1] + b" " * (144 - len(line)) + b"}")
        self.add("header_of_192", "R-02 H7", longest, "OK")
        over = dict(longest["signatures"][1])
        over["protected"] += "A"
        longer = dict(longest, signatures=[s0, over])
        self.add("header_of_193", "R-02 H7", longer, "TOO_LARGE")
        s1 = tm.signature(b[1], payload, typ)
        for name, extra in (("header", {"kid": "x"}), ("x", "y")):
            envelope = {"payload": payload, "signatures": [s0, dict(s1, **{name: extra})]}
            self.add(f"unprotected_{name}", "H7", envelope, "MALFORMED")
        for name in ("protected", "signature"):
            renamed = {"x" if k == name else k: v for k, v in s1.items()}
            envelope = {"payload": payload, "signatures": [s0, renamed]}
            self.add(f"{name}_under_another_name", "H7", envelope, "MALFORMED")
            cut = {k: v for k, v in s1.items() if k != name}
            envelope = {"payload": payload, "signatures": [s0, cut]}
            self.add(f"{name}_missing", "H7", envelope, "MALFORMED")
            number = {"payload": payload, "signatures": [s0, dict(s1, **{name: 7})]}
            self.add(f"{name}_a_number", "H13", number, "MALFORMED")

    def _keysets(self) -> None:
        f = self.fleet
        r, b = f.root_keys, f.bundle_keys
        new = tm.signers("newbundle", 3)
        two = tm.keyset_payload(2, r, new)
        after = tm.bundle(tm.bundle_payload(2, f.roots, key_version=2), new[:2])

        def chain(*keysets: dict, bundle: dict = after) -> bytes:
            return tm.package(bundle, list(keysets))

        self.extra["rotate_bundle_keys"] = chain(tm.keyset(two, r[:2]))
        self.add("rotation", "R-13 R-14", chain(tm.keyset(two, r[:2])), "OK")
        self.add("known_keyset_first", "R-15", chain(f.keyset, tm.keyset(two, r[:2])), "OK")
        self.add("keyset_n_again", "H9", tm.package(f.bundle(2), [f.keyset]), "OK")
        four = [f.keyset, tm.keyset(two, r[:2])]
        four += [tm.keyset(tm.keyset_payload(n, r, new), r[:2]) for n in (3, 4)]
        last = tm.bundle(tm.bundle_payload(2, f.roots, key_version=4), new[:2])
        self.add("chain_of_four", "R-15", tm.package(last, four), "OK")
        five = [*four, tm.keyset(tm.keyset_payload(5, r, new), r[:2])]
        self.add("chain_of_five", "R-15", tm.package(last, five), "TOO_LARGE")
        three = tm.keyset(tm.keyset_payload(3, r, new), r[:2])
        self.add("keyset_skips_one", "R-13 H9", chain(three), "KEY_CHAIN")
        self.add("keyset_order_reversed", "R-15", chain(four[2], four[1]), "KEY_CHAIN")
        self.add("keyset_of_bundle_keys", "H5", chain(tm.keyset(two, b)), "THRESHOLD")
        self.add(
            "keyset_typ_of_bundle",
            "R-10",
            chain(tm.envelope(two, r[:2], "trust-bundle+jws")),
            "THRESHOLD",
        )
        self.add("keyset_below_old_threshold", "R-14", chain(tm.keyset(two, r[:1])), "THRESHOLD")
        self.add(
            "keyset_other_fleet", "R-11", chain(tm.keyset(dict(two, fleet="x"), r[:2])), "FLEET"
        )
        self.add("keyset_spec_2", "R-12", chain(tm.keyset(dict(two, spec=2), r[:2])), "MALFORMED")
        self.add(
            "bundle_without_reissue",
            "R-17",
            chain(tm.keyset(two, r[:2]), bundle=f.bundle(2)),
            "THRESHOLD",
        )
        same_keys = tm.keyset_payload(2, r, b)
        self.add(
            "bundle_of_key_version_1",
            "R-17",
            chain(tm.keyset(same_keys, r[:2]), bundle=f.bundle(2)),
            "KEY_CHAIN",
        )

        def wrong(
            name: str, payload: dict | bytes, expect: str = "MALFORMED", ids: str = "H6"
        ) -> None:
            self.add(f"keyset_{name}", ids, chain(tm.keyset(payload, r[:2])), expect)

        for role in ("root", "bundle"):
            for name, value in (
                ("0", 0),
                ("true", True),
                ("fraction", 1.0),
                ("6_of_3", 6),
                ("4_of_3", 4),
                ("text", "2"),
                ("negative", -1),
            ):
                payload = json.loads(tm.compact(two))
                payload["roles"][role]["threshold"] = value
                wrong(f"{role}_threshold_{name}", payload, ids="R-08 H6")
            payload = json.loads(tm.compact(two))
            payload["roles"][role]["kids"].append(payload["roles"][role]["kids"][0])
            wrong(f"{role}_kid_twice", payload, "DUPLICATE", "R-08 R-06")
            payload = json.loads(tm.compact(two))
            payload["roles"][role]["kids"][0] = "A" * 43
            wrong(f"{role}_kid_not_listed", payload, ids="R-08 R-09")
            payload = json.loads(tm.compact(two))
            del payload["roles"][role]
            wrong(f"{role}_missing", payload)
            payload = json.loads(tm.compact(two))
            payload["roles"][role]["kids"] = []
            wrong(f"{role}_without_kids", payload)
            payload = json.loads(tm.compact(two))
            payload["roles"][role]["kids"] = ["%043d" % i for i in range(7)]
            wrong(f"{role}_with_7_kids", payload, "TOO_LARGE")
        twice = json.loads(tm.compact(two))
        twice["keys"].append(dict(reversed(list(twice["keys"][0].items())), use="sig"))
        twice["keys"].pop(3)
        wrong("key_twice", twice, "DUPLICATE", "H6 R-06")
        seven = json.loads(tm.compact(two))
        seven["keys"].append(tm.signer("seventh").jwk)
        wrong("seven_keys", seven, "TOO_LARGE")
        unknown = json.loads(tm.compact(two))
        unknown["keys"][0]["later"] = {"a": []}
        unknown["roles"]["later"] = {"x": [1]}
        unknown["roles"]["root"]["later"] = [1]
        self.add("keyset_unknown_members", "R-12", chain(tm.keyset(unknown, r[:2])), "OK")
        wrong("without_keys", {k: v for k, v in two.items() if k != "keys"})
        for member in ("fleet", "version", "issued", "roles"):
            wrong(f"without_{member}", {k: v for k, v in two.items() if k != member})

        def key(name: str, changes: dict) -> None:
            payload = json.loads(tm.compact(two))
            payload["keys"][0].update(changes)
            payload["keys"][0] = {k: v for k, v in payload["keys"][0].items() if v is not None}
            wrong(f"key_{name}", payload, ids="R-05 H8")

        raw = r[0].n.to_bytes(256, "big")
        key("exponent_1", {"e": "AQ"})
        key("exponent_3", {"e": "Aw"})
        key("exponent_padded", {"e": "AAEAAQ"})
        key("even", {"n": tm.b64u(raw[:-1] + b"\x10")})
        key("of_1024_bits", {"n": tm.b64u(raw[:127] + b"\x01")})
        key("of_8192_bits", {"n": tm.b64u(raw * 3 + raw)})
        key("of_2047_bits", {"n": tm.b64u(b"\x7f" + raw[1:])})
        key("with_leading_zero", {"n": tm.b64u(b"\0" + raw)})
        key("of_another_kind", {"kty": "EC"})
        key("of_another_alg", {"alg": "ES256"})
        key("without_alg", {"alg": None})
        key("without_n", {"n": None})
        key("with_stray_bits", {"n": tm.b64u(raw)[:-1] + "9"})
        six = tm.keyset_payload(2, [*r, *b], [])
        six["roles"]["bundle"] = {"threshold": 2, "kids": [k.kid for k in b]}
        self.add(
            "keyset_role_of_six",
            "R-08",
            chain(
                tm.keyset(six, r[:2]),
                bundle=tm.bundle(tm.bundle_payload(2, f.roots, key_version=2), b[:2]),
            ),
            "OK",
        )
        self._new_threshold(two, new)

    def _new_threshold(self, two: dict, new: list[tm.Signer]) -> None:
        f = self.fleet
        r = f.root_keys
        replaced = tm.signers("newroot", 3)
        payload = tm.keyset_payload(2, replaced, new)
        after = tm.bundle(tm.bundle_payload(2, f.roots, key_version=2), new[:2])
        self.add(
            "keyset_not_signed_by_new",
            "R-14",
            tm.package(after, [tm.keyset(payload, r[:2])]),
            "THRESHOLD",
        )
        self.add(
            "keyset_not_signed_by_old",
            "R-14",
            tm.package(after, [tm.keyset(payload, replaced[:2])]),
            "THRESHOLD",
        )
        self.add(
            "keyset_all_roots_replaced",
            "R-14",
            tm.package(after, [tm.keyset(payload, [*r[:2], *replaced[:2]])]),
            "OK",
        )

    def _contents(self) -> None:
        f = self.fleet
        first = f.roots[0]
        digest = hashlib.sha256(first).hexdigest()

        def one(name: str, expect: str, ids: str = "R-25", **changes) -> None:
            entry = tm.root_entry(first, **changes)
            self.add(f"root_{name}", ids, f.package(2, roots=[entry]), expect)

        self.add("no_roots", "R-25", f.package(2, roots=[]), "NO_ROOTS")
        self.add("no_roots_needed", "R-25", f.package(2, roots=[]), "NO_ROOTS", uses=())
        self.add("roots_missing", "R-25", f.package(2, roots=None), "MALFORMED")
        self.add("roots_an_object", "R-25", f.package(2, roots={}), "MALFORMED")
        nine = [tm.root_der(f"n{i}") for i in range(9)]
        self.add("nine_roots", "R-25 H11", f.package(2, nine), "TOO_LARGE")
        self.add("root_twice", "R-28 H12", f.package(2, [first, first]), "DUPLICATE")
        one("wrong_digest", "MALFORMED", "R-26 H12", sha256="0" * 64)
        one("digest_in_capitals", "MALFORMED", "R-26", sha256=digest.upper())
        one("without_digest", "MALFORMED", "R-26", sha256=None)
        one("without_der", "MALFORMED", "R-26", der=None)
        one("without_use", "MALFORMED", "R-30", use=None)
        one("with_empty_use", "MALFORMED", "R-30", use=[])
        one("with_unknown_use", "MALFORMED", "R-30", use=["hub", "mail"])
        one("with_use_twice", "MALFORMED", "R-30", use=["hub", "hub"])
        one("with_unknown_state", "MALFORMED", "R-25", state="gone")
        one("for_dps_alone", "NO_ROOTS", "R-30", use=["dps"])
        hub = [tm.root_entry(first, ["hub"])]
        self.add("no_dps_root", "R-30", f.package(2, roots=hub), "NO_ROOTS", uses=("hub", "dps"))
        self.add("hub_root_alone", "R-30", f.package(2, roots=hub), "OK")
        self.add(
            "lists_what_it_distrusts", "R-30 R-48", f.package(2, distrust=[digest]), "DISTRUSTED"
        )
        digests = [hashlib.sha256(b"%d" % i).hexdigest() for i in range(9)]
        self.add("eight_distrusted", "R-48", f.package(2, distrust=digests[:8]), "OK")
        self.add("nine_distrusted", "R-48", f.package(2, distrust=digests), "TOO_LARGE")
        self.add("distrust_twice", "R-48", f.package(2, distrust=[digests[0]] * 2), "DUPLICATE")
        for name, value in (
            ("short", digests[0][:-1]),
            ("in_capitals", digests[0].upper().replace("0", "A")),
            ("a_number", 7),
        ):
            self.add(f"distrust_{name}", "R-48", f.package(2, distrust=[value]), "MALFORMED")
        self.add("recovery_ftp", "G2", f.package(2, recovery=["ftp://a/b"]), "MALFORMED")
        self.add("recovery_a_text", "G2", f.package(2, recovery="http://a"), "MALFORMED")
        long = "http://a.example/" + "x" * 256
        self.add("recovery_long", "G2", f.package(2, recovery=[long]), "TOO_LARGE")
        long = "http://a.example/" + "x" * (257 - 17)
        self.add("recovery_of_257", "G2", f.package(2, recovery=[long]), "TOO_LARGE")
        exact = "http://a.example/" + "x" * (256 - 17)
        self.add("recovery_of_256", "G2", f.package(2, recovery=[exact]), "OK")
        five = ["http://a.example/%d" % i for i in range(5)]
        self.add("recovery_five", "G2", f.package(2, recovery=five), "TOO_LARGE")
        self.add("recovery_four", "G2", f.package(2, recovery=five[:4]), "OK")

    def _certificates(self) -> None:
        f = self.fleet
        root = tm.authority("first")

        def der(name: str, data: bytes, expect: str, ids: str = "R-27 H12") -> None:
            self.add(f"certificate_{name}", ids, f.package(2, [data]), expect)

        leaf = root.leaf("x", key="p256", dns=["x"])
        der("leaf", leaf.der, "NOT_CA")
        no_ca = x509.BasicConstraints(False, None)
        der("ca_false", Authority.root("a", key="p256", extensions=[(no_ca, True)]).der, "NOT_CA")
        der("without_basic_constraints", _certificate([_MAY_SIGN]), "NOT_CA")
        usage = x509.KeyUsage(True, False, False, False, False, False, True, False, False)
        der(
            "may_not_sign",
            Authority.root("a", key="p256", extensions=[(usage, True)]).der,
            "NOT_CA",
        )
        der("without_key_usage", _certificate([_CA]), "OK", "R-27")
        der("version_1", _version_1(), "NOT_CA")
        past = dt.datetime.fromtimestamp(tm.ISSUED, dt.timezone.utc)
        old = Authority.root(
            "old", key="p256", not_before=past - dt.timedelta(days=9), not_after=past
        ).der
        der("expired_at_issue", old, "NOT_CA")
        just = Authority.root(
            "just",
            key="p256",
            not_before=past - dt.timedelta(days=9),
            not_after=past + dt.timedelta(seconds=1),
        ).der
        der("expires_after_issue", just, "OK", "R-27")
        far = Authority.root(
            "far", key="p256", not_after=dt.datetime(2051, 3, 1, tzinfo=dt.timezone.utc)
        ).der
        der("with_generalized_time", far, "OK", "R-27")
        good = f.roots[0]
        der("trailing_byte", good + b"\0", "MALFORMED", "R-26 H12")
        der("two_concatenated", good + f.roots[1], "MALFORMED", "R-26 H12")
        der("truncated", good[:-1], "MALFORMED", "R-26 H12")
        der("half", good[: len(good) // 2], "MALFORMED", "R-26 H12")
        der("garbage", b"\x5a" * 300, "MALFORMED", "R-26 H12")
        der("empty", b"", "MALFORMED", "R-26 H12")
        der("one_byte", b"\x30", "MALFORMED", "R-26 H12")
        der("indefinite_length", b"\x30\x80" + good[4:] + b"\0\0", "MALFORMED", "R-26 H12")
        der("length_not_minimal", b"\x30\x83\x00" + good[2:], "MALFORMED", "R-26")
        der("pem", root.pem.encode(), "MALFORMED", "H12")
        der("length_of_4_kb", _padded(4096), "TOO_LARGE", "H11 R-25")
        der("length_of_2049", _padded(2049), "TOO_LARGE", "H11 R-25")
        der("length_of_2048", _padded(2048), "OK", "R-25")
        broken = bytearray(good)
        at = good.index(b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07")  # the curve's name
        broken[at + 9] ^= 0x60
        self.add(
            "certificate_tls_refuses", "R-29", f.package(2, [bytes(broken)]), "NOT_CA", tls=True
        )
        pem = tm.root_entry(good, der=root.pem)
        self.add("pem_in_der", "H12", f.package(2, roots=[pem]), "MALFORMED")

    def _json(self) -> None:
        f = self.fleet
        package = f.package(2)
        text = self.text()
        payload_cases = {
            "version_twice": text.replace(b'"version":2', b'"version":2,"version":2'),
            "version_twice_by_escape": text.replace(
                b'"version":2', b'"version":2,"\\u0076ersion":9'
            ),
            "comma_missing": text.replace(b',"issued"', b' "issued"'),
            "comma_twice": text.replace(b',"issued"', b',,"issued"'),
            "comma_last": text[:-1] + b",}",
            "comma_first": b"{," + text[1:],
            "colon_missing": text.replace(b'"issued":', b'"issued" '),
            "nul_tail": text + b"\0",
            "garbage_tail": text + b"x",
            "second_value": text + b"{}",
            "huge_exponent": text.replace(b":1785542400", b":1e999"),
            "not_a_number": text.replace(b":1785542400", b":NaN"),
            "lone_surrogate": text.replace(b"test root", b"\\ud800"),
            "surrogate_pair": text.replace(b"test root", b"\\ud834\\udd1e"),
            "nul_escape": text.replace(b"test root", b"\\u0000"),
            "unknown_escape": text.replace(b"test root", b"\\q"),
            "short_escape": text.replace(b"test root", b"\\u12"),
            "raw_control": text.replace(b"test root", b"a\nb"),
            "delete_character": text.replace(b"test root", b"a\x1fb"),
            "bad_utf8": text.replace(b"test root", b"\xff"),
            "overlong_utf8": text.replace(b"test root", b"\xc0\xaf"),
            "overlong_utf8_of_3": text.replace(b"test root", b"\xe0\x80\xaf"),
            "overlong_utf8_of_4": text.replace(b"test root", b"\xf0\x80\x80\xaf"),
            "utf8_surrogate": text.replace(b"test root", b"\xed\xa0\x80"),
            "utf8_above_unicode": text.replace(b"test root", b"\xf4\x90\x80\x80"),
            "utf8_cut": text.replace(b"test root", b"\xe2\x82"),
            "array_root": b"[" + text + b"]",
            "text_root": b'"x"',
            "number_root": b"7",
            "empty": b"",
            "only_space": b"  ",
            "name_not_text": text.replace(b'"issued":', b"1:"),
            "single_quotes": text.replace(b'"issued"', b"'issued'"),
            "closed_wrongly": text[:-1] + b"]",
            "not_closed": text[:-1],
            "word": text.replace(b":1785542400", b":tru"),
            "deep": b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"," + text[1:],
            "deep_of_8": b'{"x":' + b"[" * 8 + b"]" * 8 + b"," + text[1:],
            "many_members": text[:-1] + b"".join(b',"m%d":1' % i for i in range(40)) + b"}",
            "long_name": text[:-1] + b',"' + b"n" * 65 + b'":1}',
        }
        for name, raw in payload_cases.items():
            large = name in ("deep", "deep_of_8", "many_members", "long_name")
            self.add(
                f"json_{name}", "H13", self.signed(raw), "TOO_LARGE" if large else "MALFORMED"
            )
        self.add(
            "json_deep_of_7",
            "H13",
            self.signed(b'{"x":' + b"[" * 7 + b"]" * 7 + b"," + text[1:]),
            "OK",
        )
        self.add(
            "json_long_unknown",
            "H13",
            self.signed(text[:-1] + b',"x":"' + b"y" * 4000 + b'"}'),
            "OK",
        )
        self.add(
            "json_words", "R-12", self.signed(text[:-1] + b',"x":[true,false,null,0,[]]}'), "OK"
        )
        escaped = text.replace(b'"issued"', b'"\\u0069ssued"')
        self.add("json_name_escaped", "H13", self.signed(escaped), "OK")
        der = base64.b64encode(f.roots[0])
        self.add(
            "json_der_with_escapes",
            "H14",
            self.signed(text.replace(der, b"\\u004D" + der[1:])),
            "MALFORMED",
        )

        def whole(name: str, data: bytes, expect: str = "MALFORMED", ids: str = "H13") -> None:
            self.add(f"package_{name}", ids, data, expect)

        whole("bomb", b"[" * 10000)
        whole("object_bomb", b'{"a":' * 5000)
        whole("of_brackets", package[:-1] + b',"x":' + b"[" * 41)
        whole("array", b"[" + package + b"]")
        whole("empty", b"")
        whole("nul_tail", package + b"\0")
        whole("newline_tail", package + b"\n", "OK")
        whole("twice", package + package)
        whole("bundle_twice", package[:-1] + b',"bundle":{}}')
        whole("unknown_member", package[:-1] + b',"x":1}')
        whole("keysets_missing", tm.compact({"bundle": f.bundle(2)}))
        whole("bundle_missing", tm.compact({"keysets": []}))
        whole("bundle_under_another_name", package.replace(b'"bundle"', b'"bundles"'))
        whole("keysets_an_object", tm.compact({"keysets": {}, "bundle": f.bundle(2)}))
        whole("bundle_an_array", tm.compact({"keysets": [], "bundle": [f.bundle(2)]}))
        whole("byte_order_mark", b"\xef\xbb\xbf" + package)
        whole("html", b"<html><body>Please log in</body></html>", ids="H16")
        envelope = f.bundle(2)
        whole("envelope_unknown", tm.package(dict(envelope, header={})))
        whole("envelope_unknown_text", tm.package(dict(envelope, header="x")))
        whole("signatures_under_another_name", package.replace(b'"signatures"', b'"signature"'))
        whole("envelope_payload_missing", tm.package({"signatures": envelope["signatures"]}))
        whole("envelope_signatures_missing", tm.package({"payload": envelope["payload"]}))
        whole("envelope_payload_a_number", tm.package(dict(envelope, payload=7)))
        escaped = "\\u0065" + envelope["payload"][1:]
        typ = "trust-bundle+jws"
        signatures = [tm.signature(k, escaped, typ) for k in f.bundle_keys[:2]]
        raw = tm.package({"payload": "HERE", "signatures": signatures})
        whole("payload_with_escapes", raw.replace(b"HERE", escaped.encode()), ids="R-03 H14")
        ten = dict(envelope, signatures=envelope["signatures"] * 5)
        whole("ten_signatures", tm.package(ten), "TOO_LARGE", "R-06")

    def _base64(self) -> None:
        f = self.fleet
        envelope = f.bundle(2)

        def with_payload(text: str) -> dict:
            keys = f.bundle_keys[:2]
            signatures = [tm.signature(k, text, "trust-bundle+jws") for k in keys]
            return {"payload": text, "signatures": signatures}

        # A trailing space keeps the JSON whole while the length takes each remainder.
        for spaces in range(3):
            text = tm.b64u(self.text() + b" " * spaces)
            self.add(f"base64_remainder_{spaces}", "H14", with_payload(text), "OK")
            if len(text) % 4:
                stray = text[:-1] + chr(ord(text[-1]) + 1)
                self.add(
                    f"base64_stray_bits_{len(text) % 4}", "H14", with_payload(stray), "MALFORMED"
                )
                padded = text + "=" * (-len(text) % 4)
                self.add(
                    f"base64_padded_{len(text) % 4}", "H14", with_payload(padded), "MALFORMED"
                )
            if len(text) % 4 == 0:
                self.add("base64_one_letter_more", "H14", with_payload(text + "A"), "MALFORMED")
        text = envelope["payload"]
        self.add("base64_junk", "H14", with_payload(text[:99] + "!" + text[100:]), "MALFORMED")
        self.add("base64_space", "H14", with_payload(text[:99] + " " + text[99:]), "MALFORMED")
        note = "???>>>"  # gives - and _ in base64url
        raw = self.text().replace(b"test root", note.encode() * 4)
        for pad in range(3):
            text = tm.b64u(raw + b" " * pad)
            if "-" in text or "_" in text:
                standard = text.replace("-", "+").replace("_", "/")
                self.add("base64_standard_alphabet", "H14", with_payload(standard), "MALFORMED")
                break
        der = f.roots[0]
        url = base64.urlsafe_b64encode(der).decode()
        if url != base64.b64encode(der).decode():
            self.add(
                "der_in_base64url",
                "H14",
                f.package(2, roots=[tm.root_entry(der, der=url)]),
                "MALFORMED",
            )
        plain = base64.b64encode(der).decode()
        for name, value in (
            ("junk", "!" + plain[1:]),
            ("space", plain + "\n"),
            ("more_padding", plain + "===="),
            ("one_letter_less", plain[:-1]),
        ):
            entry = tm.root_entry(der, der=value)
            self.add(f"der_with_{name}", "H14", f.package(2, roots=[entry]), "MALFORMED")
        protected = dict(
            envelope,
            signatures=[
                dict(envelope["signatures"][0], protected="!!"),
                envelope["signatures"][1],
            ],
        )
        self.add("protected_junk", "H14", protected, "MALFORMED")
        signature = dict(
            envelope,
            signatures=[
                dict(envelope["signatures"][0], signature="AB="),
                envelope["signatures"][1],
            ],
        )
        self.add("signature_padded", "H14", signature, "MALFORMED")

    def _sizes(self) -> None:
        f = self.fleet
        package = f.package(2)
        self.add("package_of_32768", "R-02 H11", package + b" " * (32768 - len(package)), "OK")
        self.add(
            "package_of_32769", "R-02 H11", package + b" " * (32769 - len(package)), "TOO_LARGE"
        )

        def bundle_of(size: int) -> bytes:
            empty = len(tm.compact(self.signed(self.text(x=""))))
            envelope = self.signed(self.text(x="y" * ((size - empty) * 3 // 4)))
            while len(tm.compact(envelope)) < size:
                envelope = self.signed(
                    json.loads(base64.urlsafe_b64decode(envelope["payload"] + "=="))
                    | {"x": "y" * ((size - empty) * 3 // 4 + 1)}
                )
            return tm.package(envelope)

        self.add("bundle_over_16_kib", "R-02", bundle_of(16385), "TOO_LARGE")
        start = b'"bundle":{'
        room = 16384 - len(tm.compact(f.bundle(2)))
        for size, expect in ((16384, "OK"), (16385, "TOO_LARGE")):
            spaces = b" " * (room + size - 16384)
            spaced = package.replace(start, start + spaces)
            self.add(f"bundle_of_{size}", "R-02", spaced, expect)
        many = tm.keyset_payload(2, f.root_keys, f.bundle_keys, x="y" * 5000)
        large = tm.package(f.bundle(2), [tm.keyset(many, f.root_keys[:2])])
        self.add("keyset_over_8_kib", "R-02", large, "TOO_LARGE")
        few = tm.keyset_payload(2, f.root_keys[:2], f.bundle_keys[:2])
        after = self.signed(self.text(key_version=2))
        plain = tm.keyset(few, f.root_keys[:2])
        start = b'"keysets":[{'
        for size, expect in ((8192, "OK"), (8193, "TOO_LARGE")):
            spaces = b" " * (size - len(tm.compact(plain)))
            spaced = tm.package(after, [plain]).replace(start, start + spaces)
            self.add(f"keyset_of_{size}", "R-02", spaced, expect)
        others = tm.signers("t", 7)
        for n, expect in ((6, "OK"), (7, "TOO_LARGE")):
            signed = tm.keyset(few, [*others[:n], *f.root_keys[:2]])
            self.add(f"keyset_of_{n + 2}_signatures", "R-02", tm.package(after, [signed]), expect)

    def _rotations(self) -> None:
        """ROOT_ROTATIONS and BUNDLE_ROTATIONS; the last key-set's bundle follows each."""
        keys = [tm.signer(f"t{i}") for i in range(10)]
        last = tm.signer("tb")
        for name, steps, expect in ROOT_ROTATIONS:
            keysets = [
                tm.keyset(
                    tm.keyset_payload(n, [keys[i] for i in of], [last], threshold, 1),
                    [keys[i] for i in by],
                )
                for n, (of, threshold, by) in enumerate(steps, 1)
            ]
            self._rotation(f"tuf_root_{name}", keysets, [last], expect)
        root = [tm.signer("tr")]
        for name, roles, by, expect in BUNDLE_ROTATIONS:
            keysets = [
                tm.keyset(tm.keyset_payload(n, root, [keys[i] for i in of], 1, threshold), root)
                for n, (of, threshold) in enumerate(roles, 1)
            ]
            self._rotation(f"tuf_bundle_{name}", keysets, [keys[i] for i in by], expect)
        # Thresholds of one key (tuf-conformance, duplicate keys): 6 signatures by one key.
        nine = tm.bundle(tm.bundle_payload(2, self.fleet.roots), [self.fleet.bundle_keys[0]] * 6)
        self.add("tuf_duplicate_key", "R-06 TUF", nine, "DUPLICATE")

    def _rotation(
        self, name: str, keysets: list[dict], signers: list[tm.Signer], expect: str
    ) -> None:
        f = self.fleet
        n = len(keysets)
        self.add_factory(name, keysets[0], f.factory_bundle)
        after = tm.bundle(tm.bundle_payload(2, f.roots, key_version=n), signers)
        package = tm.package(after, keysets[1:])
        self.add(name, "R-13 R-14 TUF", package, expect, factory=name)

    def _scenarios(self) -> None:
        """Packages that scenarios.py installs one after the other."""
        f = self.fleet
        first, second = f.roots
        third = tm.root_der("third")
        r, b = f.root_keys, f.bundle_keys
        new = tm.signers("newbundle", 3)
        e = self.extra
        top = 2**30 - 1

        def sha(der: bytes) -> str:
            return hashlib.sha256(der).hexdigest()

        for n in range(1, 10):
            e[f"v{n}"] = tm.package(f.bundle(n)) if n > 1 else tm.package(f.factory_bundle)
            e[f"v{n}_third"] = f.package(n, [third])
            e[f"v{n}_min"] = f.package(n, min_version=n)
        e["three"] = f.package(2, [tm.root_der(f"big{i}", "rsa2048") for i in range(3)])
        e["dps"] = f.package(
            2, roots=[tm.root_entry(first, ["hub"]), tm.root_entry(third, ["dps"])]
        )
        e["v2_recovery"] = f.package(2, recovery=["http://127.0.0.1:1/a", "http://127.0.0.1:2/b"])
        e["d3"] = f.package(3, [first], distrust=[sha(second)])
        e["d3_third"] = f.package(3, [third], distrust=[sha(second)])
        e["d4_lifts"] = f.package(4, [first, second])
        e["d4_all"] = f.package(4, [third], distrust=[sha(first), sha(second)])
        e["d5_third"] = f.package(5, [first], distrust=[sha(third)])
        e["top"] = f.package(top, min_version=top)
        e["top_distrust"] = f.package(top, [first], min_version=top, distrust=[sha(second)])
        keyset2 = tm.keyset(tm.keyset_payload(2, r, new), r[:2])
        keyset2_same = tm.keyset(tm.keyset_payload(2, r, b), r[:2])
        keyset3 = tm.keyset(tm.keyset_payload(3, r, new), r[:2])
        self.extra["keyset2"] = tm.compact(keyset2)

        def under(
            version: int, key_version: int, keys: list[tm.Signer], *chain: dict, **changes
        ) -> bytes:
            payload = tm.bundle_payload(version, f.roots, key_version=key_version, **changes)
            return tm.package(tm.bundle(payload, keys[:2]), list(chain))

        e["k2_v2"] = under(2, 2, new, keyset2)
        e["k2_v3"] = under(3, 2, new, keyset2)
        e["k2_v3_distrust"] = under(
            3, 2, new, keyset2, distrust=[sha(third)], roots=[tm.root_entry(first)]
        )
        e["k2_v10"] = under(10, 2, new, keyset2, min_version=4)
        e["k2_v10_distrust"] = under(
            10, 2, new, keyset2, distrust=[sha(second)], roots=[tm.root_entry(first)]
        )
        e["k2_bad_bundle"] = under(3, 2, b, keyset2)
        e["k2_same_v3"] = under(3, 2, b, keyset2_same)
        e["k3_v11"] = under(11, 3, new, keyset2, keyset3)
        e["k3_alone"] = under(11, 3, new, keyset3)
        e["old_keys_v12"] = under(12, 2, b)
        e["factory2_keyset"] = tm.compact(keyset2)
        self.add_factory(
            "newer",
            keyset2,
            tm.bundle(tm.bundle_payload(5, [first, third], key_version=2), new[:2]),
        )
        self.add_factory("newer_bundle", f.keyset, f.bundle(5, [first, third]))
        self.add_factory("min_5", f.keyset, f.bundle(5, min_version=5))
        self.meta = {"first": sha(first), "second": sha(second), "third": sha(third)}
        self.ders = {"first": first, "second": second, "third": third}


def _certificate(extensions: list[tuple[x509.ExtensionType, bool]]) -> bytes:
    """A self-signed certificate with exactly these extensions."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bare")])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=3650))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


_CA = (x509.BasicConstraints(True, None), True)
_MAY_SIGN = (x509.KeyUsage(False, False, False, False, False, True, True, False, False), True)


def _element(tag: int, body: bytes) -> bytes:
    n = len(body)
    size = (
        bytes([n]) if n < 128 else bytes([0x81, n]) if n < 256 else b"\x82" + n.to_bytes(2, "big")
    )
    return bytes([tag]) + size + body


def _children(der: bytes) -> list[bytes]:
    """The elements inside one DER element."""

    def head(at: int) -> tuple[int, int]:
        if der[at + 1] < 128:
            return at + 2, der[at + 1]
        count = der[at + 1] & 0x7F
        return at + 2 + count, int.from_bytes(der[at + 2 : at + 2 + count], "big")

    at, _ = head(0)
    found = []
    while at < len(der):
        start, size = head(at)
        found.append(der[at : start + size])
        at = start + size
    return found


def _version_1() -> bytes:
    """A certificate without version and extensions; its signature no longer matters."""
    body, algorithm, signature = _children(_certificate([_CA, _MAY_SIGN]))
    fields = [field for field in _children(body) if field[0] not in (0xA0, 0xA3)]
    return _element(0x30, _element(0x30, b"".join(fields)) + algorithm + signature)


def _padded(size: int) -> bytes:
    """A root whose DER has exactly `size` bytes."""
    name = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
    length = size - 600
    while True:
        filler = x509.UnrecognizedExtension(name, b"\x04\x82" + bytes(length))
        der = _certificate([_CA, _MAY_SIGN, (filler, False)])
        if len(der) == size:
            return der
        # The signature's length varies by a byte or two: try again when only that is off.
        if abs(len(der) - size) > 3:
            length += size - len(der)


def _signed(catalogue: Catalogue) -> set[str]:
    """Digests of the payloads of bundles that a device may rightly install."""
    found = set()
    packages = [case.package for case in catalogue.cases if case.expect == "OK"]
    for package in [*packages, *catalogue.extra.values()]:
        bundle = json.loads(package).get("bundle")
        if bundle:
            found.add(hashlib.sha256(bundle["payload"].encode()).hexdigest())
    return found


class Listing:
    """What a finished catalogue says about itself: everything but the private keys."""

    def __init__(self, made: Catalogue) -> None:
        self.folder, self.cases, self.vectors = made.folder, made.cases, made.vectors
        self.extra, self.meta, self.factories = made.extra, made.meta, made.factories


def build(folder: Path) -> Catalogue:
    """Make the catalogue and write it into `folder`."""
    from support import trust_vectors

    catalogue = Catalogue()
    for name, files in catalogue.factories.items():
        (folder / "factories" / name).mkdir(parents=True)
        for file, data in files.items():
            (folder / "factories" / name / file).write_bytes(data)
    (folder / "packages").mkdir()
    listed = []
    for case in catalogue.cases:
        (folder / "packages" / case.name).write_bytes(case.package)
        listed.append(
            {
                "name": case.name,
                "expect": case.expect,
                "factory": case.factory,
                "now": case.now,
                "synchronised": case.synchronised,
                "channel": case.channel,
                "uses": list(case.uses),
                "tls": case.tls,
                "ids": case.ids,
            }
        )
    for name, data in catalogue.extra.items():
        (folder / "packages" / name).write_bytes(data)
    for name, data in catalogue.ders.items():
        (folder / "packages" / f"{name}.der").write_bytes(data)
    catalogue.vectors = trust_vectors.write(folder / "vectors.json")
    (folder / "signed.json").write_text(json.dumps(sorted(_signed(catalogue))))
    (folder / "meta.json").write_text(json.dumps(catalogue.meta))
    (folder / "cases.json").write_text(json.dumps(listed))
    return catalogue
