"""Damaged and hostile files at the operator's desk: one clear line, never a traceback or a secret."""

from __future__ import annotations

import json
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
from taproot.trust import inspection, ledger, roots, signing, status, timeline
from taproot.trust.verify import Position, verify_package
from taproot.trust.workspace import keyset_from_payload, read_settings

ROOT = Path(__file__).resolve().parents[2]
ISSUED = 1_790_000_000
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1 << 70,
    1.5,
    "",
    "x",
    "AAAA",
    [],
    [[]],
    {},
    {"a": 1},
    "\ud800",
]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Damage a document: bytes, or the structure of its JSON at any depth."""
    if rng.random() < 0.4:
        body = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(body))
            way = rng.randrange(3)
            if way == 0:
                body[at] = rng.randrange(256)
            elif way == 1:
                del body[at : at + rng.choice((1, 5, 200))]
            else:
                body[at:at] = rng.choice((b'"', b"{", b"]", b"\x00", b",", b"\xff"))
            if not body:
                break
        return bytes(body)
    document = json.loads(data)
    place: Any = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = rng.choice(keys)
        if isinstance(place[key], (dict, list)) and rng.random() < 0.75:
            place = place[key]
            continue
        if rng.random() < 0.3 and isinstance(place, dict):
            del place[key]
        else:
            place[key] = rng.choice(VALUES)
        break
    return json.dumps(document).encode()


def documents(managed: Any) -> dict[str, bytes]:
    home = managed.home
    names = ("packages/1.json", "keysets/1.jws", "bundles/1.jws")
    found = {name: (home / name).read_bytes() for name in names}
    for name in names[1:]:  # payloads damaged inside, then packed again
        found[f"payload of {name}"] = signing.Envelope.from_bytes(found[name]).payload
    return found


@pytest.mark.timeout(1200)
def test_damaged_document_is_described_or_refused(managed, count) -> None:
    catalogue = roots.catalogue()
    rng = random.Random(7)
    listed = documents(managed)
    described = refused = 0
    for _ in range(count(300, 40_000)):
        name = rng.choice(list(listed))
        data = mutated(rng, listed[name])
        if name.startswith("payload"):
            data = signing.Envelope(data).to_bytes()
        try:
            found = inspection.describe_document(data, catalogue, ISSUED)
            inspection.text(found)
            inspection.difference(found, found)
            if found["bundle"]:
                timeline.svg(found, ISSUED)
            described += 1
        except click.ClickException as error:
            assert error.exit_code == 2 and error.format_message()
            refused += 1
    assert described > 10 and refused > 100


@pytest.mark.timeout(1200)
@pytest.mark.requirement("H1", "H13")
def test_damaged_package_is_never_judged_good(managed, count) -> None:
    rng = random.Random(8)
    package = (managed.home / "packages/1.json").read_bytes()
    bootstrap = (managed.home / "keysets/1.jws").read_bytes()
    codes = set()
    for _ in range(count(70, 4_000)):
        data = mutated(rng, package)
        if json_equal(data, package):
            continue
        verdict = verify_package(data, Position(bootstrap, 0, ISSUED), load_roots=False)
        assert not verdict.ok, data
        codes.add(verdict.code)
    assert {"MALFORMED", "BAD_SIGNATURE"} <= codes


def json_equal(one: bytes, other: bytes) -> bool:
    """White space between members is no damage."""
    try:
        return json.loads(one) == json.loads(other) and b'""' not in one
    except ValueError:
        return False


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["keysets/1.jws", "roots.json", "fleet.toml", "ledger.jsonl"])
def test_damaged_folder_ends_in_one_line(managed, count, name: str) -> None:
    rng = random.Random(9)
    path = managed.home / name
    original = path.read_bytes()
    for _ in range(count(25, 1_000)):
        body = bytearray(original)
        for _ in range(rng.choice((1, 3, 30))):
            body[rng.randrange(len(body))] = rng.randrange(256)
        path.write_bytes(bytes(body))
        for line in ("build --version 2", "report", "ledger verify"):
            answer = managed.run(line)
            assert answer.code in (0, 1, 2), line
            assert "Traceback" not in answer.err
    path.write_bytes(original)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "[1]", '[{"deviceId": 1}]', '[{"properties": 3}]', '[{"properties": {"reported": []}}]',
     '[{"properties": {"reported": {"trust": {"roots": [1], "probes": [2], "via": 3}}}}]',
     '[{"properties": {"reported": {"trust": {"last_error": "x"}}}}]', "\x00"],
)  # fmt: skip
def test_odd_twins_are_counted_or_refused(managed, text: str) -> None:
    (managed.folder / "twins.json").write_text(text)
    answer = managed.run("status --from twins.json --html s.html")
    assert answer.code in (0, 2), answer.err
    if answer.code == 0:
        managed.run("remove-root digicert-global-root-g3")
        assert managed.run("build --version 2").code in (0, 1)


def test_no_secret_is_printed_or_recorded(operator) -> None:
    (operator.folder / "pass.txt").write_text("correct horse battery staple\n")
    said = []
    for line in (
        "init --fleet contoso-esp32 --bits 2048 --passphrase-file pass.txt",
        "build",
        "sign bundles/1.jws --key keys/bundle-1.pem --passphrase-file pass.txt",
        "sign bundles/1.jws --key keys/bundle-2.pem --passphrase-file pass.txt",
        "package",
        "factory --out f.py",
        "inspect f.py",
        "report",
    ):
        answer = operator.run(line, json_too=True)
        assert answer.code == 0, answer.err
        said.append(answer.out + answer.err)
    for path in operator.home.rglob("*"):
        if path.is_file() and path.suffix != ".pem":
            said.append(path.read_bytes().decode("latin-1"))
    said.append((operator.folder / "f.py").read_text())
    everything = "\n".join(said)
    assert "battery" not in everything and "PRIVATE" not in everything
    assert '"d"' not in everything
    for pem in (operator.home / "keys").glob("*.pem"):
        assert b"ENCRYPTED PRIVATE KEY" in pem.read_bytes()


@pytest.mark.requirement("R-50")
def test_no_signing_key_is_in_the_tree(not_checked) -> None:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if done.returncode:
        not_checked("that no signing key is in the tree: this is not a git checkout")
    begin = re.compile(rb"-----BEGIN (ENCRYPTED |RSA |EC )?PRIVATE KEY-----\r?\n[A-Za-z0-9+/]{40}")
    for name in done.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():
            data = path.read_bytes()
            assert not begin.search(data), f"{name} holds a private key"
            assert not (path.suffix == ".jwk"), f"{name}: keys are the operator's own"


def test_certs_hold_certificates_and_lists_alone() -> None:
    kinds = {p.suffix for p in roots.CERTS.rglob("*") if p.is_file()}
    assert kinds == {".pem", ".toml", ".json", ".md"}
    for path in (roots.CERTS / "roots").iterdir():
        assert path.read_bytes().count(b"-----BEGIN CERTIFICATE-----") == 1


def test_settings_and_key_sets_of_any_shape_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    for text in ("", "fleet = 1", "x", 'fleet = "a"\nrecovery = 3', "[fleet]\na = 1"):
        path.write_text(text)
        try:
            read_settings(path)
        except click.ClickException as error:
            assert "fleet.toml" in error.format_message()
    for payload in (b"", b"[]", b"{}", b'{"keys": 3}', b'{"keys": [{"n": "!"}], "roles": {}}'):
        with pytest.raises(click.ClickException, match="not a key-set"):
            keyset_from_payload(payload)


def test_ledger_lines_of_any_shape_are_found_out(tmp_path: Path) -> None:
    for line in ("", "3", "[]", "null", '{"n": null}', "\x00"):
        (tmp_path / ledger.NAME).write_text(line + "\n")
        assert ledger.check(tmp_path).problems


def test_status_of_hostile_stamps() -> None:
    for stamp in (None, 3, "", "0001-01-01T00:00:00Z", "2026-99-99T00:00:00Z", "x" * 99):
        twin = {"deviceId": "a", "lastActivityTime": stamp}
        assert status.summarise(status.snapshot([twin], "f", ISSUED), {})["devices"] == 1


def test_certificate_with_an_unknown_kind_of_key_is_refused_in_words(managed) -> None:
    der = roots.catalogue().roots["digicert-global-root-g3"].der
    odd = der.replace(bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d0901"))
    assert odd != der
    (managed.folder / "odd.der").write_bytes(odd)
    said = managed.fails("add-root odd.der", 2)
    assert "is not a certificate" in said or "cannot be read" in said


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": 5}, {"use": 5}, {"use": [1]}, {"note": 5}, {"note": None}, {"state": {"a": 1}},
    ],
)  # fmt: skip
def test_list_of_roots_with_wrong_types_is_damaged(managed, change) -> None:
    path = managed.home / "roots.json"
    body = json.loads(path.read_text())
    body["roots"][0].update(change)
    path.write_text(json.dumps(body))
    assert "roots.json is damaged" in managed.fails("build --version 2", 2)
    del body["roots"][0]
    path.write_text(json.dumps({**body, "distrust": [5]}))
    assert "roots.json is damaged" in managed.fails("build --version 2", 2)


@pytest.mark.parametrize(
    "devices",
    ["[1]", "[{}]", '[{"id":"a"}]', '[{"id":"a","trust":{"version":"x"}}]', "5", "null"],
)
def test_status_of_another_shape_is_damaged(managed, devices) -> None:
    path = managed.home / "status.json"
    path.write_text(
        '{"schema":1,"fleet":"contoso-esp32","at":%d,"devices":%s}' % (ISSUED, devices)
    )
    for line in ("remove-root digicert-global-root-g2", "build --version 2", "report"):
        assert "status.json is damaged" in managed.fails(line, 2)


def test_settings_of_wrong_values_name_the_line(managed) -> None:
    path = managed.home / "fleet.toml"
    text = path.read_text()
    path.write_text(text.replace("recovery = []", "recovery = [1]"))
    assert "recovery must hold texts" in managed.fails("build --version 2", 2)
    path.write_text(text.replace("longest_offline_days = 180", "longest_offline_days = -5"))
    assert "line 7: longest_offline_days must be 1 or more" in managed.fails("build", 2)


def test_nothing_a_device_says_steers_the_terminal(managed, tmp_path) -> None:
    evil = "\x1b]0;owned\x07\x9b2J\ud800"
    reported = {
        "state": "good" + evil,
        "version": 1,
        "via": evil,
        "last_error": {"version": 2, "code": evil, "text": evil},
        "probes": [{"root": evil, "host": evil, "result": "ok", "at": 1}],
    }
    twin = {"deviceId": "d" + evil, "properties": {"reported": {"trust": reported}}}
    (tmp_path / "twins.json").write_text(json.dumps([twin]))
    answer = managed.run(f"status --from {tmp_path}/twins.json --html {tmp_path}/s.html")
    assert answer.code == 0 and "owned" in answer.out
    said = answer.out + managed.run("report").out + (tmp_path / "s.html").read_text()
    assert not [c for c in said if not c.isprintable() and c != "\n"]


def test_numbers_that_are_nothing_are_not_taken_for_the_default(managed) -> None:
    assert "version 0" in managed.fails("build --version 0", 2)
    assert "min_version 0" in managed.fails("build --min-version 0", 2)
    assert "issued must be before expires" in managed.fails("build --lifetime-days 0", 2)
    assert "threshold 0" in managed.fails("rotate-keys --role bundle --threshold 0", 2)
    assert "ten digits" in managed.fails("build --lifetime-days 200000", 2)


def test_ledger_is_read_as_it_was_written(managed) -> None:
    path = managed.home / "ledger.jsonl"
    text = path.read_text()
    for was, now in (
        ('{"n":1,', '{"n":1, '),
        ('"command":"init"', '"command":"other","command":"init"'),
    ):
        path.write_text(text.replace(was, now, 1))
        assert "line 1: not in the form" in managed.fails("ledger verify", 1)
        assert "line 1: not in the form" in managed.fails("report", 2)
    path.write_text("")
    assert "or nothing in it" in managed.fails("ledger verify", 1)


@pytest.mark.parametrize("facts", [{"overridden": [1]}, {"overridden": 5}, {"kids": [{}]}])
def test_report_bears_facts_of_any_kind(managed, facts) -> None:
    ledger.append(managed.home, "build\x1b[2J", facts, (), ISSUED)
    answer = managed.run("report")
    assert answer.code == 0 and "\x1b" not in answer.out
