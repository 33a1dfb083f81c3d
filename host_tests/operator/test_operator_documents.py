"""Keys, payloads, signatures and packages: exact bytes, and what is refused before signing."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from taproot.pki import Authority
from taproot.trust import BundleRoot, Fleet, cloud_roots, factory, keys, package, signing
from taproot.trust.builder import BuildError, Bundle, KeySet, Role, require
from taproot.trust.keys import KeyFailed

ISSUED = 1_790_000_000
RFC7638_N = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPeb"
    "WKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQ"
    "MicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2Nc"
    "Rwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)


def bundle(owner: Fleet, listed: list[BundleRoot], **changes: object) -> Bundle:
    made = Bundle(owner.name, 1, 2, 1, ISSUED, ISSUED + 86400 * 365, tuple(listed))
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.requirement("R-09")
def test_kid_is_the_thumbprint_of_rfc_7638() -> None:
    assert keys.thumbprint(RFC7638_N) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_private_key_is_encrypted_owner_only_and_never_replaced(tmp_path: Path, spare) -> None:
    path = tmp_path / "k.pem"
    keys.write_private(path, spare, b"secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"ENCRYPTED" in path.read_bytes()
    assert keys.read_private(path, b"secret").kid == spare.kid
    with pytest.raises(KeyFailed, match="passphrase is wrong"):
        keys.read_private(path, b"Secret")
    with pytest.raises(KeyFailed, match="needs a passphrase"):
        keys.read_private(path)
    with pytest.raises(KeyFailed, match="never replaced"):
        keys.write_private(path, spare, None)


@pytest.mark.parametrize("form", ["jwk", "pem", "certificate"])
def test_public_key_of_an_external_signer_is_read_from(form: str, tmp_path: Path, spare) -> None:
    path = tmp_path / "k"
    public = spare.private.public_key()
    if form == "jwk":
        path.write_text(spare.public.file_text())
    elif form == "pem":
        path.write_bytes(
            public.public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
    else:
        leaf = Authority.root("HSM", key="rsa2048")
        path.write_text(leaf.pem)
        public = x509.load_der_x509_certificate(leaf.der).public_key()
    assert keys.read_public(path).modulus == public.public_numbers().n


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"kty":"RSA","e":"Aw","n":"AQAB","alg":"PS256"}', "AQAB"),
        ('{"kty":"RSA","e":"AQAB","n":"wMM","alg":"PS256"}', "16 bits"),
        ('{"kty":"RSA","e":"AQAB","n":"' + RFC7638_N + '","alg":"ES256"}', "devices know"),
        ('{"kty":"RSA","e":"AQAB","n":"' + RFC7638_N + '","alg":"PS256","kid":"x"}', "NzbLs"),
        ('{"kty":"RSA","e":"AQAB","n":"' + RFC7638_N + '","d":"AQ"}', "public half only"),
        ("{", "JWK form"),
        ("hello", "neither a JWK nor"),
    ],
)
def test_unusable_public_key_is_refused_with_the_reason(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "k"
    path.write_text(text)
    with pytest.raises(KeyFailed, match=said):
        keys.read_public(path)


def test_same_input_gives_the_same_bytes(fleet: Fleet, own_root: BundleRoot) -> None:
    first, second = (bundle(fleet, [own_root]).payload() for _ in range(2))
    assert first == second
    assert fleet.keyset.payload() == fleet.keyset.payload()
    assert b" " not in first.replace(own_root.member()["note"].encode(), b"")
    assert list(json.loads(first)) == [
        "spec", "fleet", "key_version", "version", "min_version", "issued", "expires", "roots",
    ]  # fmt: skip


def test_signatures_stand_in_the_order_of_the_key_set_whoever_signed_first(
    fleet: Fleet, own_root: BundleRoot
) -> None:
    payload = bundle(fleet, [own_root]).payload()
    orders = []
    for signers in (fleet.bundle_keys[:2], fleet.bundle_keys[1::-1]):
        envelope = signing.Envelope(payload)
        for key in signers:
            envelope.sign(key, signing.BUNDLE)
        data = envelope.to_bytes(fleet.keyset.bundle.kids)
        orders.append(signing.Envelope.from_bytes(data).kids())
    assert orders[0] == orders[1] == list(fleet.keyset.bundle.kids[:2])


def make_root(**options: object) -> BundleRoot:
    return BundleRoot(Authority.root("Odd", key="p256", **options).der)  # type: ignore[arg-type]


def leaf_root() -> BundleRoot:
    made = Authority.root("CA", key="p256").leaf("a.example", dns=["a.example"])
    certificate = x509.load_pem_x509_certificate(made.pem.encode())
    return BundleRoot(certificate.public_bytes(serialization.Encoding.DER))


@pytest.mark.requirement("R-25", "R-26", "R-27", "R-28", "R-30")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"roots": ()}, "0 roots"),
        ({"roots": "nine"}, "9 roots"),
        ({"roots": "twice"}, "listed twice"),
        ({"roots": "leaf"}, "not a certificate authority"),
        ({"roots": "garbage"}, "not a certificate"),
        ({"roots": "https"}, "no root with use hub"),
        ({"version": 0}, "version 0"),
        ({"version": 1 << 30}, "must be 1 to"),
        ({"version": True}, "version True"),
        ({"min_version": 3}, "min_version 3 is above"),
        ({"key_version": 0}, "key_version 0"),
        ({"expires": ISSUED}, "issued must be before"),
        ({"fleet": ""}, "fleet ''"),
        ({"fleet": "a b"}, "fleet 'a b'"),
        ({"distrust": ("00",)}, "not a SHA-256"),
        ({"distrust": ("ab" * 32,) * 2}, "twice"),
        ({"distrust": tuple(f"{i:064x}" for i in range(9))}, "9 distrusted"),
        ({"distrust": "own"}, "both listed and distrusted"),
        ({"recovery": ("ftp://x/y",)}, "http:// or https://"),
        ({"recovery": ("http://x/y",) * 5}, "5 recovery URLs"),
        ({"recovery": ("http://x/" + "y" * 250,)}, "259 characters"),
    ],
)
def test_bundle_no_device_would_accept_is_not_built(
    fleet: Fleet, own_root: BundleRoot, changes: dict, said: str
) -> None:
    special = {
        "nine": lambda: tuple(make_root() for _ in range(9)),
        "twice": lambda: (own_root, own_root),
        "leaf": lambda: (leaf_root(),),
        "garbage": lambda: (BundleRoot(b"0\x03abc", note="x"),),
        "https": lambda: (BundleRoot(own_root.der, ("https",)),),
        "own": lambda: (own_root.sha256,),
    }
    changes = {
        k: special[v]() if isinstance(v, str) and v in special else v for k, v in changes.items()
    }
    with pytest.raises(BuildError, match=said):
        require("bundle", bundle(fleet, [own_root], **changes).problems())


@pytest.mark.requirement("R-27")
def test_root_that_has_expired_by_the_issue_date_is_not_built(
    fleet: Fleet, own_root: BundleRoot
) -> None:
    facts = x509.load_der_x509_certificate(own_root.der)
    late = int(facts.not_valid_after_utc.timestamp()) + 1
    with pytest.raises(BuildError, match="has expired"):
        require("bundle", bundle(fleet, [own_root], issued=late, expires=late + 9).problems())


@pytest.mark.requirement("R-08")
@pytest.mark.parametrize(
    ("threshold", "picks", "said"),
    [
        (0, (0, 1), "threshold 0 of 2"),
        (3, (0, 1), "threshold 3 of 2"),
        (2, (0, 0), "lists a key twice"),
    ],
)
def test_key_set_no_device_would_accept_is_not_built(
    fleet: Fleet, threshold: int, picks: tuple, said: str
) -> None:
    role = Role(threshold, tuple(fleet.bundle_keys[i].public for i in picks))
    keyset = replace(fleet.keyset, bundle=role)
    with pytest.raises(BuildError, match=said):
        require("key-set", keyset.problems())


def test_key_set_holds_at_most_six_keys(fleet: Fleet) -> None:
    many = tuple(keys.PublicKey((1 << 2047) + 2 * i + 1) for i in range(4))
    keyset = KeySet(fleet.name, 1, ISSUED, fleet.keyset.root, Role(2, many))
    assert keyset.problems() == ["7 keys; a key-set holds at most 6"]


def test_openssl_agrees_with_our_signature_and_we_with_openssl(
    fleet: Fleet, own_root: BundleRoot, tmp_path: Path
) -> None:
    key = fleet.bundle_keys[0]
    payload = bundle(fleet, [own_root]).payload()
    keys.write_private(tmp_path / "k.pem", key, None)
    digest = tmp_path / "digest"
    digest.write_bytes(signing.digest(key.public, signing.BUNDLE, payload))
    pss = ["-pkeyopt", "digest:sha256", "-pkeyopt", "rsa_padding_mode:pss"]
    pss += ["-pkeyopt", "rsa_pss_saltlen:digest"]
    signature = subprocess.run(
        ["openssl", "pkeyutl", "-sign", "-inkey", tmp_path / "k.pem", "-in", digest, *pss],
        capture_output=True,
        check=True,
    ).stdout
    signing.check(key.public, signing.BUNDLE, payload, signature)
    (tmp_path / "ours").write_bytes(signing.sign(key, signing.BUNDLE, payload))
    line = ["openssl", "pkeyutl", "-verify", "-inkey", tmp_path / "k.pem", "-in", digest]
    line += ["-sigfile", tmp_path / "ours", *pss]
    verified = subprocess.run(line, capture_output=True)
    assert verified.returncode == 0, verified.stdout


def test_signature_with_another_salt_length_is_found_when_attached(
    fleet: Fleet, own_root: BundleRoot
) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, utils

    key = fleet.bundle_keys[0]
    payload = bundle(fleet, [own_root]).payload()
    longest = key.private.sign(
        signing.digest(key.public, signing.BUNDLE, payload),
        padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH),
        utils.Prehashed(hashes.SHA256()),
    )
    with pytest.raises(signing.SigningError, match="salt that is not 32"):
        signing.Envelope(payload).add(key.public, signing.BUNDLE, longest)


@pytest.mark.requirement("R-06", "R-10")
def test_one_key_signs_once_and_only_for_its_type(fleet: Fleet, own_root: BundleRoot) -> None:
    key = fleet.bundle_keys[0]
    envelope = signing.Envelope(bundle(fleet, [own_root]).payload())
    envelope.sign(key, signing.BUNDLE)
    with pytest.raises(signing.SigningError, match="already signed"):
        envelope.sign(key, signing.BUNDLE)
    other = signing.sign(fleet.bundle_keys[1], signing.KEYS, envelope.payload)
    with pytest.raises(signing.SigningError, match="does not verify"):
        envelope.add(fleet.bundle_keys[1].public, signing.BUNDLE, other)


def test_package_over_a_limit_is_refused_with_the_way_out(fleet: Fleet) -> None:
    signed = fleet.bundle_jws(version=2, roots=cloud_roots("public"))
    keyset = fleet.keyset_jws()
    with pytest.raises(package.PackageError, match="two packages one after the other"):
        package.pack(signed, [keyset] * 5)
    with pytest.raises(package.PackageError, match="holds at most 32768"):
        package.pack(signed + b" " * 33000)
    with pytest.raises(package.PackageError, match=r"bundle envelope of 1[0-9]{4} B"):
        package.pack(signed + b" " * 9000)


def test_twin_chunks_put_the_package_together_and_stay_within_the_limits(fleet: Fleet) -> None:
    data = fleet.package(fleet.bundle_jws(version=2, roots=cloud_roots("public")))
    desired = package.desired_twin(2, data)
    text = "".join(desired[f"c{i}"] for i in range(desired["chunks"]))
    assert text.encode() == data
    assert desired["sha256"] == hashlib.sha256(data).hexdigest()
    assert desired["size"] == len(data)
    assert all(len(desired[f"c{i}"]) <= 4000 for i in range(desired["chunks"]))
    with pytest.raises(package.PackageError, match="--channel url"):
        package.desired_twin(2, b"x" * 32000)


def test_factory_module_is_python_that_says_what_was_signed(fleet: Fleet) -> None:
    signed = fleet.bundle_jws(version=1, roots=cloud_roots("public"))
    text = fleet.factory_module(signed, build_date=ISSUED)
    values: dict = {}
    exec(compile(text, "trust_factory.py", "exec"), values)
    assert (values["BUNDLE"], values["KEYSET"]) == (signed, fleet.keyset_jws())
    assert (values["BUILD_DATE"], values["FLEET"], values["ROOTS"]) == (ISSUED, fleet.name, ())
    assert text == fleet.factory_module(signed, build_date=ISSUED)


@pytest.mark.requirement("R-50")
def test_demo_fleet_is_frozen_only_when_asked_for(fleet: Fleet) -> None:
    with pytest.raises(factory.FactoryError, match="say --demo"):
        factory.managed("demo-x", b"k", b"b", ISSUED)
    assert "FLEET = 'demo-x'" in factory.managed("demo-x", b"k", b"b", ISSUED, demo=True)


@pytest.mark.requirement("R-50")
def test_unmanaged_factory_has_roots_and_no_key_set() -> None:
    chosen = [BundleRoot(der, tuple(use)) for _, der, use in cloud_roots("public")]
    values: dict = {}
    exec(factory.unmanaged(chosen, ISSUED), values)
    assert values["KEYSET"] is None and values["BUNDLE"] is None and values["FLEET"] is None
    assert values["ROOTS"] == tuple(root.der for root in chosen)


def test_root_member_carries_der_digest_and_name(own_root: BundleRoot) -> None:
    member = own_root.member()
    assert base64.b64decode(member["der"]) == own_root.der
    assert member["sha256"] == hashlib.sha256(own_root.der).hexdigest()
    assert member["note"] == "Contoso Root 2026" and "state" not in member
    assert replace(own_root, state="standby").member()["state"] == "standby"
