"""Golden vectors: packages with the verdict every conforming device must reach (R-47).

Responsible for: one JSON document that a third party can run without any code of this project;
the same bytes every time. What the members mean: host_tests/vectors/trust/README.md.
Not for: the exhaustive catalogue of hostile packages, which is made anew for each test run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from taproot.trust import roots
from taproot.trust.builder import Bundle, BundleRoot, KeySet, Role, dump
from taproot.trust.keys import b64u
from taproot.trust.seeded import SeededKey, pkcs1, pss, seeded_key
from taproot.trust.signing import BUNDLE, KEYS

FLEET = "demo-vectors"
ISSUED = 1_785_542_400
NOW = ISSUED + 86_400
LIFE = 2 * 365 * 86_400

OK, SAME = "OK", "SAME"


def header(key: SeededKey, kind: str, /, **changes: object) -> str:
    """Return a protected header; `changes` replaces, adds or (None) removes members."""
    members: dict[str, object] = {"alg": key.alg, "kid": key.public.kid, "typ": kind}
    members.update(changes)
    kept = {name: value for name, value in members.items() if value is not None}
    return b64u(json.dumps(kept, separators=(",", ":")).encode())


def signature(
    key: SeededKey,
    payload: str,
    kind: str,
    /,
    *,
    raw: Callable[[bytes], bytes] | None = None,
    **changes: object,
) -> dict[str, str]:
    """Return one entry of `signatures`; `raw` makes another signature of the digest."""
    protected = header(key, kind, **changes)
    digest = hashlib.sha256(f"{protected}.{payload}".encode()).digest()
    value = (raw or key.sign)(digest)
    return {"protected": protected, "signature": b64u(value)}


def envelope(payload: bytes, entries: Sequence[dict[str, str]], **extra: object) -> str:
    """Return the text of an envelope."""
    body = {"payload": b64u(payload), "signatures": list(entries), **extra}
    return json.dumps(body, separators=(",", ":"))


def package(bundle: str, keysets: Sequence[str] = ()) -> str:
    """Return the text of a package."""
    return '{"keysets":[' + ",".join(keysets) + '],"bundle":' + bundle + "}"


@dataclass
class Maker:
    """The vectors' fleet: three root keys, three bundle keys (the third RS256), key-sets 1 to 3."""

    cases: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.roots = [seeded_key(f"root-{i}") for i in (1, 2, 3)]
        self.signers = [seeded_key("bundle-1"), seeded_key("bundle-2")]
        self.signers.append(seeded_key("bundle-3", "RS256"))
        self.stranger = seeded_key("stranger")
        known = roots.catalogue().roots
        self.first = BundleRoot(known["digicert-tls-ecc-p384-root-g5"].der, note="first")
        self.second = BundleRoot(known["digicert-global-root-g3"].der, note="second")
        self.expired = BundleRoot(known["baltimore-cybertrust-root"].der, note="expired")
        self.keyset = KeySet(
            FLEET,
            1,
            ISSUED,
            Role(2, tuple(k.public for k in self.roots)),
            Role(2, tuple(k.public for k in self.signers)),
        )
        self.plain = Bundle(FLEET, 1, 2, 1, ISSUED, ISSUED + LIFE, (self.first,))

    # -- documents

    def sign_keyset(self, payload: bytes, keys: Sequence[SeededKey]) -> str:
        """Return a signed key-set."""
        return envelope(payload, [signature(k, b64u(payload), KEYS) for k in keys])

    def sign(self, payload: bytes, keys: Sequence[SeededKey] | None = None) -> str:
        """Return a signed bundle; two good signatures by default."""
        signers = self.signers[:2] if keys is None else keys
        return envelope(payload, [signature(k, b64u(payload), BUNDLE) for k in signers])

    def bundle(self, **changes: Any) -> str:
        """Return a package with one bundle, the plain one with changes."""
        return package(self.sign(replace(self.plain, **changes).payload()))

    def members(self, change: Callable[[dict[str, Any]], object]) -> str:
        """Return a package whose payload was changed as JSON before it was signed."""
        body = json.loads(self.plain.payload())
        change(body)
        return package(self.sign(dump(body)))

    def text(self, change: Callable[[str], str]) -> str:
        """Return a package whose payload was changed as text before it was signed."""
        return package(self.sign(change(self.plain.payload().decode()).encode()))

    # -- cases

    def case(self, name: str, ids: str, text: str, expect: str, **position: Any) -> None:
        """Add a case of one package."""
        self.steps(name, ids, [self.step(text, expect, **position)])

    def step(self, text: str, expect: str, **position: Any) -> dict[str, Any]:
        """Return one step."""
        found: dict[str, Any] = {"package": text, "expect": expect}
        return {**found, **position}

    def steps(self, name: str, ids: str, steps: list[dict[str, Any]]) -> None:
        """Add a case of several packages for one device."""
        self.cases.append({"name": name, "ids": ids.split(), "steps": steps})

    def document(self) -> dict[str, Any]:
        """Return the whole set."""
        first = self.sign(replace(self.plain, version=1).payload())
        return {
            "schema": 1,
            "provenance": "written by `taproot trust vectors`; keys derived from public seeds",
            "fleet": FLEET,
            "now": NOW,
            "factory": {
                "keyset": self.sign_keyset(self.keyset.payload(), self.roots[:2]),
                "bundle": first,
                "build_date": ISSUED,
            },
            "cases": self.cases,
        }


def golden() -> bytes:
    """Return the golden vectors as committed."""
    maker = Maker()
    for add in (
        _accepted, _thresholds, _headers, _forgeries, _positions, _contents, _rotations, _texts,
    ):  # fmt: skip
        add(maker)
    names = [case["name"] for case in maker.cases]
    if len(set(names)) != len(names):
        raise ValueError("a case is named twice")
    return (json.dumps(maker.document(), indent=1) + "\n").encode()


def _accepted(m: Maker) -> None:
    payload = m.plain.payload()
    text = b64u(payload)
    good = [signature(k, text, BUNDLE) for k in m.signers]
    stranger = signature(m.stranger, text, BUNDLE)
    broken = signature(m.signers[0], text, BUNDLE, raw=lambda d: bytes(256))
    m.case("two_of_three", "R-01 R-03", package(envelope(payload, good[:2])), OK)
    m.case("all_three", "R-07", package(envelope(payload, good)), OK)
    m.case("rs256_and_ps256", "R-04 R-05", package(envelope(payload, good[1:])), OK)
    surplus = envelope(payload, [stranger, *good[:2]])
    m.case("unknown_signature_beside_the_threshold", "R-07", package(surplus), OK)
    m.case("bad_signature_beside_the_threshold", "R-07",
           package(envelope(payload, [broken, *good[1:]])), OK)  # fmt: skip
    known = m.sign_keyset(m.keyset.payload(), m.roots[:2])
    m.case("key_set_the_device_has", "R-16", package(m.sign(payload), [known]), OK)
    m.case("unknown_payload_member", "R-12", m.members(lambda b: b.update(later={"a": [1]})), OK)
    distrusting = m.bundle(distrust=(m.second.sha256,), recovery=("http://r.example/p.json",))
    m.case("distrust_and_recovery", "D6 D8", distrusting, OK)
    same_name = (m.first, m.second)
    m.case("two_roots", "R-25", m.bundle(roots=same_name), OK)
    spaced = package(m.sign(payload)).replace(":", " : ").replace(",", ",\n")
    m.case("white_space_in_the_package", "R-03", spaced, OK)
    m.steps("same_bundle_again", "R-20",
            [m.step(m.bundle(), OK), m.step(m.bundle(), SAME)])  # fmt: skip


def _thresholds(m: Maker) -> None:
    payload = m.plain.payload()
    text = b64u(payload)
    one = signature(m.signers[0], text, BUNDLE)
    m.case("one_of_two", "H6", package(envelope(payload, [one])), "THRESHOLD")
    m.case("one_key_twice", "R-06 H6", package(envelope(payload, [one, one])), "DUPLICATE")
    m.case("signed_by_root_keys", "H5", package(m.sign(payload, m.roots[:2])), "THRESHOLD")
    foreign = [m.signers[0], m.stranger]
    m.case("one_good_one_unknown", "H5", package(m.sign(payload, foreign)), "THRESHOLD")
    typed = [signature(k, text, KEYS) for k in m.signers[:2]]
    m.case("typ_of_a_key_set", "R-10", package(envelope(payload, typed)), "THRESHOLD")
    m.case("no_signature", "H6", package(envelope(payload, [])), "MALFORMED")
    nine = [signature(seeded_key("stranger"), text, BUNDLE, kid=f"{i:043}") for i in range(9)]
    m.case("nine_signatures", "H6", package(envelope(payload, nine)), "TOO_LARGE")
    other = m.sign(replace(m.plain, version=3).payload())
    swapped = json.loads(other)["signatures"]
    m.case("signatures_of_another_bundle", "R-03", package(envelope(payload, swapped)),
           "BAD_SIGNATURE")  # fmt: skip


def _headers(m: Maker) -> None:
    payload = m.plain.payload()
    text = b64u(payload)
    first = signature(m.signers[0], text, BUNDLE)

    def with_second(expect: str, name: str, ids: str, **changes: Any) -> None:
        second = signature(m.signers[1], text, BUNDLE, **changes)
        m.case(name, ids, package(envelope(payload, [first, second])), expect)

    with_second("THRESHOLD", "alg_rs256_for_a_ps256_key", "R-04 H7", alg="RS256")
    with_second("MALFORMED", "alg_none", "R-04 H7", alg="none")
    with_second("MALFORMED", "alg_hs256", "R-04 H7", alg="HS256")
    with_second("MALFORMED", "alg_missing", "H7", alg=None)
    with_second("MALFORMED", "kid_missing", "H7", kid=None)
    with_second("MALFORMED", "typ_missing", "R-10 H7", typ=None)
    with_second("MALFORMED", "typ_jwt", "R-10 H7", typ="JWT")
    with_second("MALFORMED", "header_with_crit", "H7", crit=["exp"])
    with_second("MALFORMED", "header_with_jwk", "H7", jwk={})
    with_second("MALFORMED", "header_with_b64_false", "H7", b64=False)
    unprotected = {**signature(m.signers[1], text, BUNDLE), "header": {}}
    m.case("unprotected_header", "H7",
           package(envelope(payload, [first, unprotected])), "MALFORMED")  # type: ignore[list-item]  # fmt: skip


def _forgeries(m: Maker) -> None:
    payload = m.plain.payload()
    text = b64u(payload)
    ps, rs = m.signers[0], m.signers[2]
    other = signature(m.signers[1], text, BUNDLE)

    def forged(name: str, key: SeededKey, raw: Callable[[bytes], bytes]) -> None:
        entry = signature(key, text, BUNDLE, raw=raw)
        m.case(name, "R-05 H8", package(envelope(payload, [entry, other])), "BAD_SIGNATURE")

    for number, name in ((0, "s_is_0"), (1, "s_is_1"), (ps.modulus - 1, "s_is_n_minus_1")):
        forged(name, ps, _always(number.to_bytes(256, "big")))
    forged("s_plus_n", ps, lambda d: _plus_n(ps, ps.sign(d)))
    forged("signature_short", ps, lambda d: ps.sign(d)[1:])
    forged("signature_long", ps, lambda d: b"\x00" + ps.sign(d))
    for length in (0, 20, 64):
        forged(f"pss_salt_{length}", ps, _salted(ps, length))
    forged("pss_trailer", ps, lambda d: ps.sign(d, trailer=0xCC))
    forged("pss_separator", ps, lambda d: ps.sign(d, separator=2))
    forged("pss_padding_not_zero", ps, lambda d: ps.sign(d, zero=1))
    forged("pss_top_bit", ps, lambda d: _top_bit(ps, d))
    forged("pss_key_signs_pkcs1", ps, lambda d: ps.raw(int.from_bytes(pkcs1(ps, d), "big")))
    forged("pkcs1_key_signs_pss", rs, lambda d: rs.raw(int.from_bytes(pss(rs, d), "big")))
    without_null = bytes.fromhex("302f300b0609608648016503040201" + "0420")
    forged("pkcs1_null_missing", rs, lambda d: rs.sign(d, info=without_null))
    sha1 = bytes.fromhex("3021300906052b0e03021a05000414")
    forged("pkcs1_sha1", rs,
           lambda d: rs.raw(int.from_bytes(pkcs1(rs, d[:20], info=sha1), "big")))  # fmt: skip
    forged("pkcs1_garbage_behind", rs, lambda d: rs.sign(d, garbage=100))
    forged("pkcs1_block_type_2", rs, lambda d: rs.sign(d, block_type=2))


def _always(value: bytes) -> Callable[[bytes], bytes]:
    return lambda digest: value


def _salted(key: SeededKey, length: int) -> Callable[[bytes], bytes]:
    return lambda digest: key.sign(digest, salt_length=length)


def _swap(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


def _plus_n(key: SeededKey, value: bytes) -> bytes:
    """Return the same signature plus the modulus, in as many bytes as that takes."""
    number = int.from_bytes(value, "big") + key.modulus
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _top_bit(key: SeededKey, digest: bytes) -> bytes:
    """Sign a message whose unused top bit is set, if it is still below the modulus."""
    encoded = bytearray(pss(key, digest))
    encoded[0] |= 0x80
    number = int.from_bytes(encoded, "big") % key.modulus
    return key.raw(number)


def _positions(m: Maker) -> None:
    m.case("version_of_the_factory", "R-19 H3", m.bundle(version=1, issued=ISSUED + 1), "ROLLBACK")
    confirmed = m.step(m.bundle(version=5, min_version=3), OK, confirm=True)
    m.steps(
        "older_than_confirmed", "R-19 H3", [confirmed, m.step(m.bundle(version=4), "ROLLBACK")]
    )
    m.steps("same_version_other_bundle", "R-20 H3",
            [confirmed, m.step(m.bundle(version=5), "ROLLBACK")])  # fmt: skip
    m.steps("newer_than_confirmed", "R-19", [confirmed, m.step(m.bundle(version=6), OK)])
    m.steps("trial_may_be_replaced_by_a_lower_version", "R-19 R-22",
            [m.step(m.bundle(version=9), OK), m.step(m.bundle(version=8), OK)])  # fmt: skip
    m.case("another_fleet", "R-11 H4", m.bundle(fleet="demo-other"), "FLEET")
    late = ISSUED + LIFE
    m.case("expired", "R-23 H10", m.bundle(), "EXPIRED", now=late)
    m.case("last_second", "R-23", m.bundle(), OK, now=late - 1)
    m.case("issued_in_the_future", "H10", m.bundle(), "EXPIRED", now=ISSUED - 1)
    m.case("issued_now", "H10", m.bundle(), OK, now=ISSUED)
    m.case("future_with_an_assumed_clock", "H10", m.bundle(), OK,
           now=ISSUED - 1, synchronised=False)  # fmt: skip
    m.case("dps_asked_for_and_there", "R-30", m.bundle(), OK, uses=["hub", "dps"])
    hub_only = replace(m.first, use=("hub",))
    m.case("dps_asked_for_and_missing", "R-30", m.bundle(roots=(hub_only,)), "NO_ROOTS",
           uses=["hub", "dps"])  # fmt: skip


def _contents(m: Maker) -> None:
    refused: list[tuple[str, str, str, dict[str, Any]]] = [
        ("no_roots", "R-25", "NO_ROOTS", {"roots": ()}),
        ("root_twice", "R-28 H12", "DUPLICATE", {"roots": (m.first, m.first)}),
        ("root_expired", "R-27 H12", "NOT_CA", {"roots": (m.first, m.expired)}),
        ("own_root_distrusted", "R-30", "DISTRUSTED", {"distrust": (m.first.sha256,)}),
        ("distrusted_twice", "H12", "DUPLICATE", {"distrust": ("ab" * 32,) * 2}),
        ("nine_distrusted", "R-25", "TOO_LARGE",
         {"distrust": tuple(f"{i:064x}" for i in range(9))}),
        ("distrust_no_digest", "H12", "MALFORMED", {"distrust": ("AB" * 32,)}),
        ("min_version_above_version", "H9", "MALFORMED", {"min_version": 3}),
        ("expires_before_issued", "H10", "MALFORMED", {"expires": ISSUED}),
        ("no_root_for_the_hub", "R-30", "NO_ROOTS",
         {"roots": (replace(m.first, use=("https",)),)}),
    ]  # fmt: skip
    for name, ids, code, changes in refused:
        m.case(name, ids, m.bundle(**changes), code)
    nine = tuple(BundleRoot(m.first.der + bytes([i]), note="x") for i in range(9))
    m.case("bytes_behind_the_certificate", "R-26 H12", m.bundle(roots=nine[:1]), "MALFORMED")

    def root(change: Callable[[dict[str, Any]], object]) -> str:
        return m.members(lambda body: change(body["roots"][0]))

    der = base64.b64encode(m.second.der).decode()
    m.case("digest_of_another_root", "R-26 H12", root(lambda r: r.update(der=der)), "MALFORMED")
    m.case("pem_in_der", "H12", root(lambda r: r.update(der="-----BEGIN")), "MALFORMED")
    m.case("use_unknown", "H12", root(lambda r: r.update(use=["mqtt"])), "MALFORMED")
    m.case("use_empty", "H12", root(lambda r: r.update(use=[])), "MALFORMED")
    m.case("state_unknown", "H12", root(lambda r: r.update(state="maybe")), "MALFORMED")
    m.case("spec_2", "R-12", m.members(lambda b: b.update(spec=2)), "MALFORMED")
    m.case("spec_missing", "R-12", m.members(lambda b: b.pop("spec")), "MALFORMED")
    m.case("fleet_missing", "R-11", m.members(lambda b: b.pop("fleet")), "MALFORMED")
    for value, name in (
        ("0", "zero"), ("-1", "negative"), ("1073741824", "2_to_the_30"), ("1e3", "exponent"),
        ('"7"', "text"), ("true", "true"), ("7.0", "fraction"), ("7" * 400, "400_digits"),
        ("07", "leading_zero"),
    ):  # fmt: skip
        wrong = m.text(_swap('"version":2', f'"version":{value}'))
        m.case(f"version_{name}", "H9", wrong, "MALFORMED")


def _rotations(m: Maker) -> None:
    new = seeded_key("bundle-4")
    fresh = [m.signers[1], m.signers[2], new]
    two = replace(m.keyset, version=2, bundle=Role(2, tuple(k.public for k in fresh)))
    signed = m.sign_keyset(two.payload(), m.roots[:2])

    def bundle(key_version: int, keys: Sequence[SeededKey], **changes: Any) -> str:
        made = replace(m.plain, key_version=key_version, **changes)
        return m.sign(made.payload(), keys)

    good = bundle(2, [m.signers[1], new])
    m.case("bundle_key_replaced", "R-13 R-14 R-17", package(good, [signed]), OK)
    first = m.sign_keyset(m.keyset.payload(), m.roots[:2])
    m.case("whole_chain_from_the_bootstrap", "R-15 R-16", package(good, [first, signed]), OK)
    m.case("bundle_for_the_key_set_before", "R-17",
           package(bundle(1, [m.signers[1], new]), [signed]), "KEY_CHAIN")  # fmt: skip
    m.case("bundle_for_a_key_set_to_come", "R-17", m.bundle(key_version=2), "KEY_CHAIN")
    revoked = bundle(2, [m.signers[0], m.signers[1]])
    m.case("signed_by_a_key_that_left", "H5", package(revoked, [signed]), "THRESHOLD")
    one = m.sign_keyset(two.payload(), m.roots[:1])
    m.case("rotation_below_the_threshold", "R-14", package(good, [one]), "THRESHOLD")
    by_bundle = m.sign_keyset(two.payload(), m.signers[:2])
    m.case("rotation_signed_by_bundle_keys", "R-14 H5", package(good, [by_bundle]), "THRESHOLD")
    three = m.sign_keyset(replace(two, version=3).payload(), m.roots[:2])
    m.case("rotation_leaves_a_step_out", "R-13 H9", package(good, [three]), "KEY_CHAIN")
    foreign = m.sign_keyset(replace(two, fleet="demo-other").payload(), m.roots[:2])
    m.case("rotation_for_another_fleet", "R-11", package(good, [foreign]), "FLEET")
    others = [m.roots[1], m.roots[2], m.stranger]
    changed = replace(m.keyset, version=2, root=Role(2, tuple(k.public for k in others)))
    ok2 = m.sign(replace(m.plain, key_version=2).payload())
    both = m.sign_keyset(changed.payload(), [m.roots[1], m.roots[2]])
    m.case("root_key_replaced", "R-14", package(ok2, [both]), OK)
    old_only = m.sign_keyset(changed.payload(), [m.roots[0], m.roots[1]])
    m.case("rotation_not_signed_by_the_new", "R-14", package(ok2, [old_only]), "THRESHOLD")
    new_only = m.sign_keyset(changed.payload(), [m.roots[2], m.stranger])
    m.case("rotation_not_signed_by_the_old", "R-14", package(ok2, [new_only]), "THRESHOLD")
    huge = m.step(m.bundle(version=(1 << 30) - 1), OK, confirm=True)
    m.steps("fast_forward_recovery", "R-18",
            [huge, m.step(m.bundle(version=9), "ROLLBACK"), m.step(package(good, [signed]), OK)])  # fmt: skip
    for threshold in ("0", "-1", "4", "true", "2.0"):
        wrong = two.payload().decode().replace('"threshold":2', f'"threshold":{threshold}', 1)
        text = m.sign_keyset(wrong.encode(), m.roots[:2])
        m.case(f"threshold_{threshold}", "R-08 H6", package(good, [text]), "MALFORMED")
    doubled = two.payload().decode().replace(f'"{m.roots[1].public.kid}"',
                                             f'"{m.roots[0].public.kid}"')  # fmt: skip
    text = m.sign_keyset(doubled.encode(), m.roots[:2])
    m.case("role_names_a_key_twice", "R-06 H6", package(good, [text]), "DUPLICATE")
    for exponent in ("Aw", "AQ"):
        wrong = two.payload().decode().replace('"e":"AQAB"', f'"e":"{exponent}"', 1)
        text = m.sign_keyset(wrong.encode(), m.roots[:2])
        m.case(f"key_exponent_{exponent}", "R-05 H8", package(good, [text]), "MALFORMED")


def _texts(m: Maker) -> None:
    plain = m.bundle()
    payload = json.loads(plain)["bundle"]["payload"]
    changes: list[tuple[str, str, Callable[[str], str]]] = [
        ("comma_missing", "H13", lambda t: t.replace('],"bundle"', ']"bundle"')),
        ("comma_too_many", "H13", lambda t: t[:-1] + ",}"),
        ("name_twice", "H13", lambda t: t[:-1] + ',"keysets":[]}'),
        ("text_behind", "H13", lambda t: t + "{}"),
        ("nul_behind", "H13", lambda t: t + "\u0000"),
        ("cut_short", "H2", lambda t: t[:-1]),
        ("list_instead_of_object", "H13", lambda t: f"[{t}]"),
        ("member_unknown", "H13", lambda t: t[:-1] + ',"x":1}'),
        ("key_sets_missing", "H13", lambda t: t.replace('"keysets":[],', "")),
        ("bundle_missing", "H13", lambda t: '{"keysets":[]}'),
        ("empty", "H2", lambda t: ""),
        ("bracket_bomb", "R-02 H13", lambda t: "[" * 10_000),
    ]
    for name, ids, change in changes:
        m.case(name, ids, change(plain), "MALFORMED")
    known = m.sign_keyset(m.keyset.payload(), m.roots[:2])
    m.case(
        "five_key_sets", "R-15 H11", package(m.sign(m.plain.payload()), [known] * 5), "TOO_LARGE"
    )
    # Signed as it stands, so that only the decoder can refuse it.
    for name, wrong in (
        ("payload_padded", payload + "="),
        ("payload_with_junk", payload[:8] + "!" + payload[8:]),
        ("payload_in_the_other_alphabet", payload[:-1] + "+"),
        ("payload_one_character_too_many", payload + "A" * (5 - len(payload) % 4)),
    ):
        entries = [signature(k, wrong, BUNDLE) for k in m.signers[:2]]
        body = json.dumps({"payload": wrong, "signatures": entries}, separators=(",", ":"))
        m.case(name, "H14", package(body), "MALFORMED")
    flipped = payload[:100] + ("A" if payload[100] != "A" else "B") + payload[101:]
    m.case("payload_character_changed", "H1", plain.replace(payload, flipped), "BAD_SIGNATURE")
    for name, old, new in (
        ("payload_name_twice", '"version":2', '"version":2,"version":3'),
        ("payload_comma_missing", '"version":2,', '"version":2'),
        ("payload_lone_surrogate", '"note":"first"', '"note":"\\ud800"'),
        ("payload_control_character", '"note":"first"', '"note":"a\u0001"'),
    ):
        m.case(name, "H13", m.text(_swap(old, new)), "MALFORMED")
