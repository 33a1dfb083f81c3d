"""The fleet per root, the static page in a browser, the timeline, the ledger, the report."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from taproot.trust import inspection, ledger, roots, status, status_page, timeline
from test_operator_refusals import DAY, G2, G3, ISSUED, MS_RSA, digest, probe, twin

NAMES = {digest(G2): "G2", digest(MS_RSA): "MS"}


def carried(*ders: bytes, use: tuple[str, ...] = ("hub", "dps")) -> list[dict]:
    return [{"sha256": digest(d)[:16], "expires": 1, "use": list(use)} for d in ders]


@pytest.fixture
def snap() -> dict:
    """Six devices, one for each thing that can be said about a root."""
    twins = [
        twin("uses", via=G2, roots=carried(G2, MS_RSA)),
        twin("proved", roots=carried(G2, MS_RSA), probes=[probe(MS_RSA)]),
        twin("failed", roots=carried(G2, MS_RSA), probes=[probe(MS_RSA, result="NOT_TRUSTED")]),
        twin("lacks", via=G2, roots=carried(G2)),
        twin("distrusts", roots=carried(G2, MS_RSA), distrusted=[digest(MS_RSA)[:16]]),
        twin("dpsonly", roots=[*carried(G2), *carried(MS_RSA, use=("dps",))]),
        twin("silent", heard=ISSUED - 15 * DAY, roots=carried(MS_RSA)),
    ]
    return status.snapshot(twins, "contoso-esp32", ISSUED)


def row(summary: dict, der: bytes) -> dict:
    return next(r for r in summary["roots"] if r["sha256"] == digest(der))


def test_each_root_says_who_carries_proved_uses_and_would_be_stranded(snap: dict) -> None:
    summary = status.summarise(snap, NAMES)
    microsoft = row(summary, MS_RSA)
    assert microsoft["carried"] == ["failed", "proved", "silent", "uses"]
    assert microsoft["proven"] == ["proved"]
    assert microsoft["in_use"] == []
    assert microsoft["stranded"] == ["distrusts", "dpsonly", "lacks"]
    assert microsoft["failed_probes"] == ["failed"]
    assert row(summary, G2)["in_use"] == ["lacks", "uses"]
    assert row(summary, G2)["stranded"] == ["silent"]


def test_silence_is_counted_in_days_and_by_id(snap: dict) -> None:
    assert status.summarise(snap, NAMES)["silent"] == ["silent"]
    assert status.summarise(snap, NAMES, silent_days=15)["silent"] == []
    assert len(status.summarise(snap, NAMES, at=ISSUED + 20 * DAY)["silent"]) == 7


def test_device_that_never_reported_is_silent_and_named() -> None:
    never = {"deviceId": "n", "lastActivityTime": "0001-01-01T00:00:00Z", "properties": {}}
    summary = status.summarise(status.snapshot([never], "f", ISSUED), NAMES)
    assert summary["silent"] == ["n"] and summary["states"] == {"no report": ["n"]}


def test_disabled_device_is_left_out() -> None:
    off = {**twin("off"), "status": "disabled"}
    assert status.summarise(status.snapshot([off], "f", ISSUED), NAMES)["devices"] == 0


def test_root_reported_by_a_device_only_is_listed_with_its_whole_digest() -> None:
    odd = twin("a", via=G3, roots=carried(G3))
    summary = status.summarise(status.snapshot([odd], "f", ISSUED), NAMES)
    assert row(summary, G3)["in_use"] == ["a"] and row(summary, G3)["name"] == ""


@pytest.mark.parametrize(
    "trust", [None, [], "x", {"roots": None, "via": None, "probes": None, "distrusted": None}]
)
def test_odd_reports_are_survived(trust: object) -> None:
    odd = {"deviceId": "a", "properties": {"reported": {"trust": trust}}}
    summary = status.summarise(status.snapshot([odd], "f", ISSUED), NAMES)
    assert summary["devices"] == 1


def test_page_escapes_what_devices_say_and_loads_nothing(snap: dict) -> None:
    evil = "<script>alert(1)</script>"
    snap["devices"][0]["trust"]["last_error"] = {"version": 2, "code": evil, "text": evil}
    snap["devices"][1]["id"] = evil
    page = status_page.page(status.summarise(snap, NAMES), [evil])
    assert "<script" not in page and page.count("&lt;script&gt;") >= 4
    assert not re.search(r"(src|href|url)\s*[=(]", page)


def browser() -> str | None:
    return next((p for p in map(shutil.which, ("chromium", "google-chrome")) if p), None)


def run_browser(program: str, folder: Path, *arguments: str) -> str:
    line = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    line += [f"--user-data-dir={folder / 'profile'}", "--hide-scrollbars", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def colours(png: bytes) -> set[bytes]:
    """Return the distinct pixels of a screenshot (8-bit RGB or RGBA, all filters undone)."""
    width, height, _, kind = struct.unpack(">IIBB", png[16:26])
    size = {2: 3, 6: 4}[kind]
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    raw, stride = zlib.decompress(data), width * size
    before = bytearray(stride)
    found: set[bytes] = set()
    for y in range(height):
        start = y * (stride + 1)
        line = bytearray(raw[start + 1 : start + 1 + stride])
        _unfilter(raw[start], line, before, size)
        found.update(bytes(line[i : i + 3]) for i in range(0, stride, size * 7))
        before = line
    return found


def _unfilter(kind: int, line: bytearray, before: bytearray, size: int) -> None:
    for i in range(len(line)):
        left = line[i - size] if i >= size else 0
        corner = before[i - size] if i >= size else 0
        up = before[i]
        if kind == 4:
            guess = left + up - corner
            near = min((left, up, corner), key=lambda v: abs(guess - v))
        else:
            near = (0, left, up, (left + up) // 2)[kind]
        line[i] = (line[i] + near) & 0xFF


def test_page_opens_in_a_browser_and_shows_its_figures(
    managed, snap: dict, not_checked, tmp_path: Path
) -> None:
    program = browser()
    if program is None:
        not_checked("taproot trust status --html in a browser: no chromium")
    twins = [twin("uses", via=G2, roots=carried(G2)), twin("lacks", roots=carried(MS_RSA))]
    (managed.folder / "twins.json").write_text(json.dumps(twins))
    managed.ok("status --from twins.json --html status.html")
    page = (managed.folder / "status.html").as_uri()
    shot = tmp_path / "shot.png"
    dom = run_browser(
        program, tmp_path, "--window-size=1000,900", f"--screenshot={shot}", "--dump-dom", page
    )
    assert "Trust status of contoso-esp32" in dom and "DigiCert Global Root G2" in dom
    cells = re.findall(r"<td class=\"n[^\"]*\">(\d+ of \d+)<", dom)
    assert cells[:4] == ["1 of 2", "1 of 2", "1 of 2", "1 of 2"]
    assert shot.is_file()
    seen = colours(shot.read_bytes())
    for wanted in ("2f7d4f", "c0392b", "3a6ea5"):
        assert bytes.fromhex(wanted) in seen, f"no pixel of #{wanted}: a bar is not drawn"


def test_timeline_shows_every_root_the_bundle_and_the_day(managed) -> None:
    managed.ok("inspect packages/1.json --svg a.svg")
    managed.ok("inspect packages/1.json --svg b.svg")
    picture = (managed.folder / "a.svg").read_text()
    assert picture == (managed.folder / "b.svg").read_text()
    assert picture.count("<rect") == 6 and "2038-01-15" in picture
    assert inspection.day(ISSUED) in picture
    import xml.etree.ElementTree as tree

    assert tree.fromstring(picture).tag.endswith("svg")


def test_timeline_without_roots_is_refused(managed) -> None:
    said = managed.fails("inspect keysets/1.jws --svg a.svg", 2)
    assert "a document with roots" in said


def test_timeline_needs_no_bundle() -> None:
    facts = roots.describe(G2)
    found = {"bundle": None, "roots": [{**facts, "state": "retired"}]}
    assert "#9a9a9a" in timeline.svg(found, ISSUED)


# -- the ledger


def lines(managed) -> list[str]:
    return (managed.home / "ledger.jsonl").read_text().splitlines()


def rewrite(managed, changed: list[str]) -> None:
    (managed.home / "ledger.jsonl").write_text("".join(line + "\n" for line in changed))


def test_every_state_changing_command_is_in_the_ledger(managed) -> None:
    managed.ok("keygen trust/keys/spare --unencrypted --bits 2048")
    managed.ok("rotate-keys --role bundle --remove bundle-3 --add trust/keys/spare.jwk")
    managed.ok("sign keysets/2.jws --key trust/keys/root-1.pem")
    managed.ok("sign keysets/2.jws --key trust/keys/root-2.pem")
    managed.ok("add-root --catalogue digicert-global-root-ca")
    managed.ok("remove-root digicert-global-root-ca")
    managed.ok("distrust-root digicert-global-root-ca --confirm-sha256 4348a0e9")
    managed.release(2)
    managed.ok("factory --out f.py")
    names = [json.loads(line)["command"] for line in lines(managed)]
    assert names == [
        "init", "build", "sign", "sign", "package", "keygen", "rotate-keys", "sign", "sign",
        "add-root", "remove-root", "distrust-root", "build", "sign", "sign", "package", "factory",
    ]  # fmt: skip
    assert managed.ok("ledger verify")["entries"] == len(names)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda ls: [*ls[:1], *ls[2:]], "does not follow the line before"),
        (lambda ls: [ls[0], ls[2], ls[1], *ls[3:]], "numbered 3"),
        (lambda ls: [ls[0].replace("contoso", "fabrikam"), *ls[1:]], "changed after"),
        (lambda ls: [*ls, "{"], "not JSON"),
        (lambda ls: [*ls, ls[-1]], "does not follow"),
        (lambda ls: [*ls, '{"n":1}'], "exactly the members"),
        (lambda ls: [ls[0].replace('"n":1', '"n":"1"'), *ls[1:]], "wrong type"),
        (lambda ls: [*ls, ls[-1].replace('"files":{', '"files":{"x":1,')], "without its digest"),
    ],
)
def test_ledger_that_was_touched_does_not_verify(managed, damage, said: str) -> None:
    rewrite(managed, damage(lines(managed)))
    assert said in managed.fails("ledger verify", 1)


def test_rewritten_entry_with_a_new_hash_breaks_the_next_one(managed) -> None:
    listed = lines(managed)
    entry = json.loads(listed[1])
    entry["facts"]["version"] = 9
    entry["hash"] = ledger.entry_hash(entry)
    listed[1] = json.dumps(entry, separators=(",", ":"))
    rewrite(managed, listed)
    assert "line 3: does not follow" in managed.fails("ledger verify", 1)


def test_cut_off_end_shows_against_the_noted_head(managed) -> None:
    head = managed.ok("ledger verify")["head"]
    managed.ok("add-root --catalogue digicert-global-root-ca")
    managed.ok(f"ledger verify --head {head}")
    later = managed.ok("ledger verify")["head"]
    rewrite(managed, lines(managed)[:-1])
    assert "is not in this ledger" in managed.fails(f"ledger verify --head {later}", 1)


def test_exchanged_or_missing_file_is_found(managed) -> None:
    path = managed.home / "packages/1.json"
    data = path.read_bytes()
    path.write_bytes(data + b" ")
    assert "packages/1.json: is not the file" in managed.fails("ledger verify", 1)
    path.unlink()
    assert "packages/1.json: recorded, but gone" in managed.fails("ledger verify", 1)


def test_nothing_is_added_to_a_damaged_ledger(managed) -> None:
    path = managed.home / "ledger.jsonl"
    path.write_text(path.read_text()[:-20])
    assert "damaged ledger" in managed.fails("add-root --catalogue digicert-global-root-ca", 2)


def test_clock_that_ran_backwards_is_seen(managed, clock) -> None:
    clock(ISSUED - 10)
    managed.ok("add-root --catalogue digicert-global-root-ca")
    assert "older than the line before" in managed.fails("ledger verify", 1)


def test_report_holds_what_an_auditor_asks_for(managed, clock) -> None:
    clock(ISSUED + 40 * DAY)
    (managed.folder / "twins.json").write_text(json.dumps([twin("a", via=G2)]))
    managed.ok("remove-root digicert-global-root-g3")
    line = "build --version 2 --despite no-status --confirm-fleet contoso-esp32"
    managed.ok(line)
    managed.ok("status --from twins.json")
    body = managed.ok(f"report --since {ISSUED + DAY} --out report.txt")
    assert [e["command"] for e in body["entries"]] == ["remove-root", "build"]
    assert body["lifted"] == [{"n": 7, "command": "build", "codes": ["no-status"]}]
    assert body["bundles"][0]["signers"] == ["bundle-1", "bundle-2"]
    assert body["status"]["devices"] == 1 and not body["problems"]
    text = (managed.folder / "report.txt").read_text()
    assert body["head"] in text and "no-status" in text and "bundle-1, bundle-2" in text
    assert len(managed.ok("report")["entries"]) == 7


def test_report_of_a_broken_ledger_says_so_and_fails(managed) -> None:
    rewrite(managed, lines(managed)[:-2] + lines(managed)[-1:])
    answer = managed.run("report")
    assert answer.code == 1 and "PROBLEMS" in answer.out
