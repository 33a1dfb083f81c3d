"""The commands of `taproot trust` at the desk: external signers, offline copies, mistakes."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import rsa
from taproot import interpreters
from taproot.cli import command as program
from taproot.pki import Authority
from taproot.trust import Fleet, cloud_roots, keys, signing
from taproot.trust.builder import KeySet, Role

ISSUED = 1_790_000_000
PSS = "-pkeyopt digest:sha256 -pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:digest"


def openssl(line: str, folder: Path) -> None:
    done = subprocess.run(["openssl", *line.split()], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def building(managed):
    """A second bundle waits for its signatures."""
    managed.ok("build --version 2")
    return managed


def test_same_input_gives_the_same_files(managed, tmp_path_factory, monkeypatch) -> None:
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(managed.home, other / "trust")
    managed.ok("build --version 2")
    first = (managed.home / "bundles/2.jws").read_bytes()
    managed.ok("factory --out one.py --build-date 2026-09-01")
    monkeypatch.chdir(other)
    again = type(managed)(other)
    again.ok("build --version 2")
    assert (again.home / "bundles/2.jws").read_bytes() == first
    again.ok("factory --out two.py --build-date 2026-09-01")
    assert (other / "two.py").read_bytes() == (managed.folder / "one.py").read_bytes()


def test_signed_envelopes_pack_to_the_same_bytes(building) -> None:
    building.sign_bundle(2)
    first = building.ok("package")["sha256"]
    assert building.ok("package")["sha256"] == first


@pytest.mark.parametrize("form", ["raw", "base64", "base64url", "value", "signature"])
def test_external_signature_comes_back_in_any_usual_form(building, form: str) -> None:
    folder = building.folder
    body = building.ok("sign bundles/2.jws --digest d.bin --public bundle-1")
    assert bytes.fromhex(body["digest"]) == (folder / "d.bin").read_bytes()
    openssl(f"pkeyutl -sign -inkey trust/keys/bundle-1.pem -in d.bin -out s.bin {PSS}", folder)
    raw = (folder / "s.bin").read_bytes()
    texts = {
        "raw": raw,
        "base64": base64.b64encode(raw) + b"\n",
        "base64url": keys.b64u(raw).encode(),
        "value": json.dumps({"kid": "https://v/keys/k", "value": keys.b64u(raw)}).encode(),
        "signature": json.dumps({"signature": base64.b64encode(raw).decode()}).encode(),
    }
    (folder / "s").write_bytes(texts[form])
    body = building.ok("sign bundles/2.jws --attach s --public bundle-1")
    assert body["signatures_missing"] == 1


def test_signing_input_is_what_openssl_dgst_signs(building) -> None:
    folder = building.folder
    building.ok("sign bundles/2.jws --digest d.bin --public bundle-1")
    line = "dgst -sha256 -sign trust/keys/bundle-1.pem -sigopt rsa_padding_mode:pss "
    openssl(line + "-sigopt rsa_pss_saltlen:digest -out s.bin d.bin.input", folder)
    building.ok("sign bundles/2.jws --attach s.bin --public bundle-1")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--attach s.bin --public bundle-2", "does not verify"),
        ("--attach odd.bin --public bundle-1", "neither 256 raw bytes nor base64"),
        ("--attach short.bin --public bundle-1", "does not verify"),
        ("--attach none.bin --public bundle-1", "cannot read"),
        ("--attach s.bin", "whose key"),
        ("--attach s.bin --public nobody", "0 found"),
        ("--attach s.bin --public root-1", "has no say here"),
        ("--key trust/keys/root-1.pem", "has no say here"),
        ("--key none.pem", "cannot read"),
        ("--key s.bin", "not a private key"),
        ("--key trust/keys/bundle-1.pem --passphrase-file s.txt", "is not encrypted"),
        ("--key a --digest b", "exactly one of"),
        ("", "exactly one of"),
        ("--merge trust/bundles/1.jws", "its payload differs"),
        ("--merge s.bin", "not a JWS"),
    ],
)
def test_mistake_of_a_signer_ends_in_one_line(building, line: str, said: str) -> None:
    folder = building.folder
    building.ok("sign bundles/2.jws --digest d.bin --public bundle-1")
    openssl(f"pkeyutl -sign -inkey trust/keys/bundle-1.pem -in d.bin -out s.bin {PSS}", folder)
    (folder / "odd.bin").write_text("{[")
    (folder / "short.bin").write_text("AAAA")
    (folder / "s.txt").write_text("x\n")
    before = (building.home / "bundles/2.jws").read_bytes()
    assert said in building.fails(f"sign bundles/2.jws {line}", 2)
    assert (building.home / "bundles/2.jws").read_bytes() == before


def test_signer_offline_needs_the_document_and_the_key_alone(building, tmp_path_factory) -> None:
    away = tmp_path_factory.mktemp("away")
    shutil.copy(building.home / "bundles/2.jws", away / "doc.jws")
    shutil.copy(building.home / "keys/bundle-3.pem", away / "mine.pem")
    line = ["trust", "--home", str(away / "none"), "sign", str(away / "doc.jws")]
    result = CliRunner().invoke(program, [*line, "--key", str(away / "mine.pem")])
    assert result.exit_code == 0, result.output
    building.sign_bundle(2, "bundle-1")
    body = building.ok(f"sign bundles/2.jws --merge {away}/doc.jws")
    assert body["signatures_missing"] == 0 and len(body["signers"]) == 2
    building.ok("package")


def test_signature_of_a_stranger_is_not_merged(building, tmp_path_factory) -> None:
    stranger = keys.generate("x", bits=2048)
    envelope = building.envelope("bundles/2.jws")
    envelope.sign(stranger, signing.BUNDLE)
    (building.folder / "copy.jws").write_bytes(envelope.to_bytes())
    assert "not known here" in building.fails("sign bundles/2.jws --merge copy.jws", 2)


@pytest.mark.requirement("R-06")
def test_package_below_the_threshold_is_not_written(building) -> None:
    building.sign_bundle(2, "bundle-1")
    answer = building.run("package", json_too=True)
    assert answer.code == 1 and answer.body["steps"][-1]["code"] == "THRESHOLD"
    assert not (building.home / "packages/2.json").exists()


def test_fleet_of_keys_that_were_never_here(operator) -> None:
    for name in ("r1", "r2", "r3", "b1", "b2", "b3"):
        openssl(f"genrsa -out {name}.pem 2048", operator.folder)
        openssl(f"rsa -in {name}.pem -pubout -out {name}.pub", operator.folder)
        operator.ok(f"keygen {name} --import {name}.pub")
    roots = " ".join(f"--root-key r{i}.jwk" for i in (1, 2, 3))
    bundles = " ".join(f"--bundle-key b{i}.jwk" for i in (1, 2, 3))
    body = operator.ok(f"init --fleet contoso-esp32 {roots} {bundles}")
    assert body["signatures_missing"] == 2
    assert not list((operator.home / "keys").glob("*.pem"))
    for name in ("r1", "r3"):
        operator.ok(f"sign keysets/1.jws --digest d.bin --public {name}")
        openssl(f"pkeyutl -sign -inkey {name}.pem -in d.bin -out s.bin {PSS}", operator.folder)
        body = operator.ok(f"sign keysets/1.jws --attach s.bin --public {name}")
    assert body["signatures_missing"] == 0


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("init --fleet x", 2, "--passphrase-file"),
        ("init --fleet x --unencrypted --cloud mars", 2, "no cloud named"),
        ("init --fleet x --unencrypted --root-role 4-of-3", 2, "2-of-3"),
        ("init --fleet x --unencrypted --root-role two", 2, "2-of-3"),
        ("init --fleet sp~ce --unencrypted --bits 2048", 2, "letters, digits"),
        ("init --fleet x --unencrypted --bits 1024", 2, "2048 to 4096"),
        ("init --fleet x --unencrypted --root-key k.jwk", 2, "wants 3 keys"),
        ("init --fleet x --unencrypted --issued tomorrow", 2, "a date like"),
        (f"init --fleet x --unencrypted --bits 2048 --issued {ISSUED + 9}", 2, "ahead"),
        ("init", 2, "--fleet"),
        ("build", 2, "holds no fleet.toml"),
        ("status --from none.json", 2, "holds no fleet.toml"),
        ("ledger verify", 1, "there is no"),
        ("inspect none", 2, "cannot read"),
        ("inspect k.jwk", 2, "not a JWS"),
        ("inspect text", 2, "neither a package"),
        ("keygen k2", 2, "--unencrypted"),
        ("keygen k --unencrypted --bits 2048", 2, "never replaced"),
        ("keygen k3 --import text", 2, "neither a JWK"),
        ("verify k.jwk --bootstrap k.jwk", 1, "MALFORMED"),
        ("nonsense", 2, "No such command"),
    ],
)
def test_mistake_in_an_empty_folder_ends_in_one_line(
    operator, line: str, code: int, said: str
) -> None:
    (operator.folder / "text").write_text("hello")
    operator.ok("keygen k --unencrypted --bits 2048")
    assert said in operator.fails(line, code)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("init --fleet again --unencrypted", "founded once"),
        ("add-root", "a certificate file, or"),
        ("add-root none.pem", "cannot read"),
        ("add-root fleet.txt", "neither PEM nor DER"),
        ("add-root --catalogue wosign", "there are: digicert"),
        ("add-root --catalogue digicert-global-root-g2", "on the list already"),
        ("add-root --catalogue digicert-global-root-ca --use mqtt", "some of hub,dps,https"),
        ("remove-root nothing", "0 found"),
        ("remove-root digicert-global-root-ca", "0 found"),
        ("distrust-root ffffffff --lift", "0 distrusted roots"),
        ("rotate-keys --role bundle", "nothing to change"),
        ("rotate-keys --role bundle --remove root-1", "is not in role bundle"),
        ("rotate-keys --role bundle --remove bundle-1 --threshold 1", "--single-signer"),
        ("rotate-keys --role bundle --remove bundle-1 --remove bundle-2", "threshold 2 of 1"),
        ("rotate-keys --role root --add trust/keys/root-1.jwk", "lists a key twice"),
        ("package --bundle 9", "cannot read"),
        ("sign none.jws --key k", "cannot read"),
        ("publish --version 7", "there is no package 7"),
        ("publish", "--url"),
        ("publish --channel twin", "--connection-file"),
        ("publish --channel twin --connection-file none", "cannot read"),
        ("publish --channel twin --only-device --connection-file fleet.txt", "--device ID"),
        (
            "publish --channel twin --configuration x --connection-file fleet.txt",
            "one device must",
        ),
        ("factory --folder trust", "not empty"),
        ("diff packages/1.json none", "cannot read"),
        ("verify packages/1.json --at soon", "a date like"),
    ],
)
def test_mistake_in_a_fleet_folder_ends_in_one_line(managed, line: str, said: str) -> None:
    text = "HostName=h;SharedAccessKeyName=x;SharedAccessKey=AAAA"
    (managed.folder / "fleet.txt").write_text(text)
    before = (managed.home / "ledger.jsonl").read_bytes()
    assert said in managed.fails(line, 2)
    assert (managed.home / "ledger.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("lifetime_days", "lifetime", "line 6: unknown key 'lifetime'"),
        ("dps = true", "dps = 1", "line 5: dps must be bool"),
        ("schema = 1", "schema = 2", "schema must be 1"),
        ("fleet =", "fleet", "fleet.toml:"),
    ],
)
def test_mistake_in_the_settings_names_file_and_line(
    managed, old: str, new: str, said: str
) -> None:
    path = managed.home / "fleet.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    assert said in managed.fails("build", 2)


def test_failure_with_json_is_one_object_too(managed) -> None:
    answer = managed.run("add-root", json_too=True)
    assert answer.code == 2 and answer.body["ok"] is False
    assert answer.body["steps"][-1]["name"] == "error"
    assert "certificate file" in answer.body["steps"][-1]["text"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda p: p.replace(b'"bundle"', b'"bumble"'), "MALFORMED"),
        (lambda p: p[:-1], "MALFORMED"),
        (lambda p: p + b" " * 33000, "TOO_LARGE"),
        (lambda p: _flip_payload(p), "BAD_SIGNATURE"),
    ],
)
def test_damaged_package_is_refused_with_the_devices_code(managed, change, code: str) -> None:
    data = (managed.home / "packages/1.json").read_bytes()
    (managed.folder / "bad.json").write_bytes(change(data))
    answer = managed.run("verify bad.json", json_too=True)
    assert answer.code == 1 and answer.body["code"] == code


def _flip_payload(data: bytes) -> bytes:
    at = data.index(b'"payload":"') + 200
    return data[:at] + (b"B" if data[at : at + 1] == b"A" else b"A") + data[at + 1 :]


@pytest.mark.requirement("R-11", "R-19", "R-23")
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("packages/1.json --seen 1", "ROLLBACK"),
        ("packages/1.json --at 2040-01-01", "EXPIRED"),
        ("packages/1.json --at 2020-01-01", "EXPIRED"),
        ("foreign.json", "THRESHOLD"),
    ],
)
def test_package_for_another_position_is_refused(managed, fleet: Fleet, line, code) -> None:
    foreign = fleet.bundle_jws(version=2, roots=cloud_roots("public"))
    (managed.folder / "foreign.json").write_bytes(fleet.package(foreign))
    answer = managed.run(f"verify {line}", json_too=True)
    assert answer.code == 1 and answer.body["code"] == code


@pytest.mark.requirement("R-14", "R-17")
def test_rotated_out_key_signs_nothing_any_more(managed) -> None:
    managed.ok("keygen spare --unencrypted --bits 2048")
    managed.ok("rotate-keys --role bundle --remove bundle-1 --add spare.jwk")
    assert "lacks 2 signatures" in managed.fails(
        "rotate-keys --role bundle --remove bundle-2 --threshold 2", 2
    )
    managed.ok("sign keysets/2.jws --key keys/root-1.pem")
    managed.ok("sign keysets/2.jws --key keys/root-2.pem")
    managed.ok("build --version 2")
    said = managed.fails("sign bundles/2.jws --key keys/bundle-1.pem", 2)
    assert "no device would count its signature" in said
    managed.sign_bundle(2, "bundle-2", "bundle-3")
    body = managed.ok("package")
    assert [s["name"] for s in body["steps"]].count("key-sets") == 1
    changed = managed.ok("diff packages/1.json packages/2.json")["differences"]
    assert {"key_version", "key-set"} <= {row["what"] for row in changed}


def test_retired_old_bootstraps_need_no_key_sets_in_the_package(managed) -> None:
    managed.ok("keygen spare --unencrypted --bits 2048")
    managed.ok("rotate-keys --role bundle --remove bundle-1 --add spare.jwk")
    for name in ("root-1", "root-2"):
        managed.ok(f"sign keysets/2.jws --key keys/{name}.pem")
    managed.ok("build --version 2")
    managed.sign_bundle(2, "bundle-2", "bundle-3")
    whole = managed.ok("package")["size"]
    assert managed.ok("package --from-keyset 2")["size"] < whole - 4000


@pytest.mark.requirement("R-50")
def test_demo_fleet_is_built_into_firmware_only_when_asked_for(operator) -> None:
    operator.found("demo-desk")
    operator.release(1)
    assert "say --demo" in operator.fails("factory --out f.py", 2)
    assert operator.ok("factory --out f.py --demo")["state"] == "managed"


@pytest.mark.requirement("R-45", "R-50")
@pytest.mark.parametrize("way", ["module", "folder", "unmanaged", "unmanaged folder"])
def test_device_reads_its_factory_data(managed, way: str) -> None:
    """What `factory` writes, unix MicroPython loads with the device's own module."""
    options = "--unmanaged" if "unmanaged" in way else ""
    folder = "folder" in way
    managed.ok(f"factory {options} " + ("--folder f" if folder else "--out trust_factory.py"))
    make = "from_folder('f')" if folder else "from_module()"
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from azure_iot.trust.factory import Factory\n"
        f"factory = Factory.{make}\n"
        "bundle = factory.bundle()\n"
        "print(factory.managed, factory.build_date, bundle.version, len(bundle.roots))\n"
        "from azure_iot.trust.roots import usable\n"
        "print(sum(len(der) for der in usable(bundle, None, [])))\n"
    )
    result = interpreters.run("unix64", code, cwd=managed.folder)
    first, second = result.stdout.splitlines() or ("", result.text)
    managed_is = options == ""
    assert first == f"{managed_is} {ISSUED} {1 if managed_is else 0} 4", result.text
    assert second == "3550"


def test_parts_become_the_package_again_on_a_device(managed) -> None:
    """Each part is sent twice, as QoS 1 may; the device's own module puts them together."""
    body = managed.ok("parts --out parts")
    assert all(
        (managed.folder / "parts" / m["file"]).stat().st_size <= 2048 for m in body["messages"]
    )
    code = (
        "import json\n"
        "from azure_iot.trust.parts import Parts\n"
        "parts = Parts('incoming')\n"
        "for message in json.load(open('parts/messages.json')):\n"
        "    p = message['properties']\n"
        "    data = open('parts/' + message['file'], 'rb').read()\n"
        "    for _ in (1, 2):\n"
        "        parts.begin(p['sha256'], int(p['count']))\n"
        "        parts.add(int(p['index']), data)\n"
        "print(parts.whole, parts.source().size)\n"
    )
    result = interpreters.run("unix64", code, cwd=managed.folder)
    size = (managed.home / "packages/1.json").stat().st_size
    assert result.stdout.split() == ["True", str(size)], result.text
    assert "is not empty" in managed.fails("parts --out parts", 2)
    whole = managed.ok("parts --out whole --whole")["messages"]
    assert whole == [{"file": "package.json", "properties": {"trust": "package"}}]


def test_bundle_too_large_for_a_device_is_not_built(managed) -> None:
    """Eight RSA-4096 roots: each within its limit, together beyond the envelope's."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=4096)
    for i in range(4):
        ca = Authority.root(f"Large {i} " + "x" * 40, key)
        (managed.folder / f"{i}.pem").write_text(ca.pem)
        managed.ok(f"add-root {i}.pem")
    managed.ok("remove-root digicert-global-root-g3")
    managed.ok("remove-root microsoft-ecc-root-2017")
    managed.ok("add-root --catalogue digicert-tls-rsa4096-root-g5")
    managed.ok("add-root --catalogue digicert-global-root-ca")
    said = managed.fails("build --version 2", 2)
    assert "a device reads at most 16384" in said


def test_signature_that_makes_a_key_set_too_large_is_not_added(managed, monkeypatch) -> None:
    """With 3,072-bit keys the fifth signature is too many; short keys meet a lower limit here."""
    monkeypatch.setattr(signing, "MAX_KEYSET", 5800)
    managed.ok("keygen r4 --unencrypted --bits 2048")
    managed.ok("keygen r5 --unencrypted --bits 2048")
    managed.ok("rotate-keys --role root --remove root-1 --remove root-2 --add r4.jwk --add r5.jwk")
    for name in ("keys/root-1.pem", "keys/root-2.pem", "keys/root-3.pem", "r4.pem"):
        managed.ok(f"sign keysets/2.jws --key {name}")
    before = (managed.home / "keysets/2.jws").read_bytes()
    assert "a device reads at most 5800" in managed.fails("sign keysets/2.jws --key r5.pem", 2)
    assert (managed.home / "keysets/2.jws").read_bytes() == before


def test_four_signatures_by_3072_bit_keys_fit_a_key_set_and_five_do_not() -> None:
    """Old and new threshold of a fleet that changes all its root keys at once."""
    many = [keys.PublicKey((1 << 3071) + 2 * i + 1) for i in range(8)]
    keyset = KeySet("x" * 63, 9, ISSUED, Role(2, tuple(many[:3])), Role(2, tuple(many[3:6])))
    envelope = signing.Envelope(keyset.payload())
    assert envelope.problems(signing.KEYS, many[:4]) == []
    assert "5 signatures" in envelope.problems(signing.KEYS, many[:5])[0]


@pytest.mark.requirement("R-04")
def test_key_may_be_pinned_to_rs256(operator) -> None:
    """For signers that know no PSS; a device then accepts RS256 from this key and nothing else."""
    for i in (1, 2, 3):
        operator.ok(f"keygen rs{i} --unencrypted --bits 2048 --alg RS256")
    given = " ".join(f"--bundle-key rs{i}.jwk" for i in (1, 2, 3))
    operator.ok(f"init --fleet contoso-esp32 --unencrypted --bits 2048 {given}")
    operator.ok("build")
    operator.ok("sign bundles/1.jws --key rs1.pem")
    operator.ok("sign bundles/1.jws --digest d.bin --public rs2")
    line = "pkeyutl -sign -inkey rs2.pem -in d.bin -out s.bin -pkeyopt digest:sha256"
    openssl(line, operator.folder)
    operator.ok("sign bundles/1.jws --attach s.bin --public rs2")
    operator.ok("package")
    shown = operator.ok("inspect keysets/1.jws")["document"]["keysets"][0]
    assert {k["alg"] for k in shown["roles"]["bundle"]["keys"]} == {"RS256"}


def test_inspect_shows_people_who_signed_by_label(managed) -> None:
    said = managed.run("inspect keysets/1.jws").out
    signed = [line.split() for line in said.splitlines() if line.strip().startswith("signed ")]
    assert [words[-1] for words in signed] == ["root-1", "root-2"]
    managed.ok("factory --out f.py")
    said = managed.run("inspect f.py").out
    assert "managed, built 2026-09-21" in said and "root: 2 of 3" in said


def test_passphrase_file_must_hold_one(operator) -> None:
    (operator.folder / "empty").write_text("\n")
    said = operator.fails("init --fleet x --passphrase-file empty", 2)
    assert "no passphrase on its first line" in said


def test_nothing_but_the_vectors_uses_derivable_keys() -> None:
    tools = Path(keys.__file__).resolve().parents[1]
    users = [path.name for path in tools.rglob("*.py") if "trust.seeded" in path.read_text()]
    assert users == ["vectors.py"]
