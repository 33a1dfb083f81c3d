"""The committed roots: digests, clouds, states, and the stores of a machine beside them."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest
from taproot.pki import Authority
from taproot.trust import roots

# From the publishers' pages and two independent stores; not computed from certs/.
SHA256 = dict(
    line.split()
    for line in """
digicert-global-root-g2 cb3ccbb76031e5e0138f8dd39a23f9de47ffc35e43c1144cea27d46a5ab1cb5f
microsoft-rsa-root-2017 c741f70f4b2a8d88bf2e71c14122ef53ef10eba0cfa5e64cfa20f418853073e0
digicert-global-root-g3 31ad6648f8104138c738f39ea4320133393e3a18cc02296ef97c2ac9ef6731d0
microsoft-ecc-root-2017 358df39d764af9e1b766e9c972df352ee15cfac227af6ad1d70e8e4a6edcba02
digicert-global-root-ca 4348a0e9444c78cb265e058d5e8944b4d84f9662bd26db257f8934a443c70161
baltimore-cybertrust-root 16af57a9f676b0ab126095aa5ebadef22ab31119d644ac95cd4b93dbf3f26aeb
digicert-tls-rsa4096-root-g5 371a00dc0533b3721a7eeb40e8419e70799d2b0a0f2c1d80693165f7cec4ad75
digicert-tls-ecc-p384-root-g5 018e13f0772532cf809bd1b17281867283fc48c6e13be9c69812854a490c1b05
""".splitlines()
    if line
)
LIVE = list(SHA256)[:4]


@pytest.fixture(scope="module")
def found() -> roots.Catalogue:
    return roots.catalogue()


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    """A copy of certs/ that may be damaged."""
    return Path(shutil.copytree(roots.CERTS, tmp_path / "certs"))


@pytest.mark.parametrize("name", SHA256)
def test_certificate_has_the_published_digest(name: str, found: roots.Catalogue) -> None:
    assert hashlib.sha256(found.roots[name].der).hexdigest() == SHA256[name]


def test_public_cloud_has_the_four_live_roots_in_3550_bytes() -> None:
    listed = roots.cloud_roots("public")
    assert [name for name, _, _ in listed] == LIVE
    assert sum(len(der) for _, der, _ in listed) == 3550
    assert all(use == ["hub", "dps"] for _, _, use in listed)


@pytest.mark.parametrize("cloud", ["us-government", "china"])
def test_sovereign_clouds_keep_the_root_that_browsers_dropped(cloud: str) -> None:
    names = [name for name, _, _ in roots.cloud_roots(cloud)]
    assert names == [*LIVE, "digicert-global-root-ca"]


@pytest.mark.parametrize("name", ["baltimore-cybertrust-root", "wosign"])
def test_retired_roots_are_in_no_cloud_and_say_why(name: str, found: roots.Catalogue) -> None:
    root = found.roots[name]
    assert root.state == "retired" and len(root.why) > 40
    assert not any(name in cloud.roots for cloud in found.clouds.values())


@pytest.mark.parametrize("cloud", ["public", "us-government", "china"])
def test_committed_list_is_what_the_catalogue_generates(
    cloud: str, found: roots.Catalogue
) -> None:
    committed = (roots.CERTS / "bundle" / f"{cloud}.json").read_bytes()
    assert committed == roots.cloud_list(cloud, found)


def test_unknown_cloud_is_refused_with_the_known_ones(found: roots.Catalogue) -> None:
    with pytest.raises(roots.RootsError, match="public, us-government, china"):
        roots.cloud_roots("germany")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('sha256 = "cb3c', 'sha256 = "cb3d', "sha256 is cb3ccbb7"),
        ("der_bytes = 914", "der_bytes = 915", "der_bytes is 914"),
        ("not_after = 2038-01-15T12:00:00Z", "not_after = 2039-01-15T12:00:00Z", "not_after is"),
        ('key = "RSA 2048"', 'key = "RSA 4096"', "key is RSA 2048"),
        ('state = "watch"', 'state = "active"', "is active but listed=False"),
        ('state = "retired"', 'state = "lost"', "state must be one of"),
        ("schema = 1", "schema = 2", "schema must be 1"),
        ("serial = 1", "serail = 1", "unknown key 'serail'"),
        ('  "digicert-global-root-g2",', '  "digicert-global-root-g9",', "no \\[\\[root\\]\\]"),
        ("[[root]]", "[[root", "roots.toml"),
    ],
)
def test_catalogue_that_contradicts_its_certificates_is_refused(
    certs: Path, old: str, new: str, said: str
) -> None:
    path = certs / "roots.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(roots.RootsError, match=said):
        roots.catalogue(certs)


def test_exchanged_certificate_file_is_refused(certs: Path) -> None:
    shutil.copy(
        certs / "roots/digicert-global-root-g3.pem", certs / "roots/digicert-global-root-g2.pem"
    )
    with pytest.raises(roots.RootsError, match="digicert-global-root-g2: sha256 is 31ad6648"):
        roots.catalogue(certs)


def test_two_certificates_in_one_file_are_refused(certs: Path) -> None:
    path = certs / "roots/digicert-global-root-g2.pem"
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(roots.RootsError, match="exactly one PEM certificate"):
        roots.catalogue(certs)


def test_store_check_tells_present_absent_retired_and_counterfeit(
    found: roots.Catalogue, tmp_path: Path
) -> None:
    def pem(name: str) -> bytes:
        return (roots.CERTS / "roots" / f"{name}.pem").read_bytes()

    store = pem("digicert-global-root-g2") + pem("baltimore-cybertrust-root")
    store += b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    check = roots.check_store("mine", store, found)
    assert check.present == ["digicert-global-root-g2"]
    assert check.retired == ["baltimore-cybertrust-root"]
    assert "microsoft-rsa-root-2017" in check.absent and "wosign" not in check.absent
    assert check.differing == []


def test_root_of_the_same_name_with_another_key_fails_the_check(
    operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = Authority.root("Forged", key="p256")
    text = (roots.CERTS / "roots.toml").read_text()
    certs = tmp_path / "certs"
    shutil.copytree(roots.CERTS, certs)
    g5 = 'subject = "CN=Certification Authority of WoSign,O=WoSign CA Limited,C=CN"'
    assert g5 in text
    actual = str(roots.describe(forged.der)["subject"])
    (certs / "roots.toml").write_text(text.replace(g5, f'subject = "{actual}"'))
    monkeypatch.setattr(roots, "CERTS", certs)
    original = roots.catalogue
    monkeypatch.setattr(roots, "catalogue", lambda c=certs: original(c))
    store = tmp_path / "store.pem"
    store.write_text(forged.pem)
    said = operator.fails(f"check-roots --store {store}", 1)
    assert re.search(r"FAIL store .*differing: wosign", said)


def test_check_roots_holds_on_this_machine(operator) -> None:
    body = operator.ok("check-roots")
    assert [s["name"] for s in body["steps"][:4]] == [
        "certs",
        "list public",
        "list us-government",
        "list china",
    ]
