"""What would strand a fleet is refused, with reason and ids, unless told twice."""

from __future__ import annotations

import base64
import json

import pytest
from taproot.pki import Authority
from taproot.trust import guards, roots

ISSUED = 1_790_000_000
DAY = 86400
G2, MS_RSA, G3, MS_ECC = (der for _, der, _ in roots.cloud_roots("public"))


def digest(der: bytes) -> str:
    return str(roots.describe(der)["sha256"])


def twin(name: str, via: bytes | None = None, heard: int = ISSUED, **trust: object) -> dict:
    """A twin as the hub's query returns it."""
    stamp = _stamp(heard)
    reported = {
        "version": 1,
        "key_version": 1,
        "floor": 1,
        "state": "good",
        "source": "ota",
        "roots": [{"sha256": digest(d)[:16], "expires": 1, "use": ["hub", "dps"]} for d in (G2,)],
        **({"via": digest(via)} if via else {}),
        **trust,
    }
    return {
        "deviceId": name,
        "status": "enabled",
        "connectionState": "Connected",
        "lastActivityTime": stamp,
        "properties": {
            "desired": {},
            "reported": {"trust": reported, "$metadata": {"trust": {"$lastUpdated": stamp}}},
        },
    }


def _stamp(at: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def probe(der: bytes, at: int = ISSUED, result: str = "ok") -> dict:
    return {"root": digest(der), "host": "hub", "result": result, "peak_heap": 0, "at": at}


@pytest.fixture
def status(managed):
    """Make the fleet say something: `status(twin, …)`."""

    def say(*twins: dict) -> None:
        path = managed.folder / "twins.json"
        path.write_text(json.dumps(twins))
        managed.ok(f"status --from {path}")

    return say


def refused(managed, code: str, line: str = "build --version 2") -> str:
    """The command is refused for exactly this reason, and done when told twice."""
    said = managed.fails(line, 1)
    assert f"{code}: " in said and "say it twice" in said, said
    assert f"--despite {code}" in said
    once = managed.fails(f"{line} --despite {code}", 1)
    assert "--confirm-fleet contoso-esp32" in once
    wrong = managed.fails(f"{line} --despite {code} --confirm-fleet fabrikam", 1)
    assert code in wrong
    body = managed.ok(f"{line} --despite {code} --confirm-fleet contoso-esp32")
    assert body["overridden"] == [code]
    last = (managed.home / "ledger.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["facts"]["overridden"] == [code]
    return said


def test_root_leaves_without_any_status(managed) -> None:
    managed.ok("remove-root digicert-global-root-g3")
    said = refused(managed, "no-status")
    assert "\n    devices:" not in said and " goes away, and there is no status" in said


def test_root_leaves_with_an_old_status(managed, status, clock) -> None:
    status(twin("a", via=G2))
    managed.ok("remove-root digicert-global-root-g3")
    clock(ISSUED + 7 * DAY)
    managed.ok("build --version 2")
    managed.ok("remove-root microsoft-ecc-root-2017")
    clock(ISSUED + 7 * DAY + 1)
    assert "go away, and the last status is over 7 days old" in refused(managed, "no-status")


def test_root_leaves_that_a_device_connects_with(managed, status) -> None:
    status(twin("a", via=G2, probes=[probe(MS_RSA)]), twin("b", via=MS_RSA))
    managed.ok("remove-root digicert-global-root-g2")
    said = refused(managed, "in-use")
    assert "1 of 2 devices" in said and "devices: a" in said


def test_root_leaves_that_a_probe_saw_in_use(managed, status) -> None:
    status(twin("a", via=MS_RSA, probes=[probe(G2)]))
    managed.ok("remove-root digicert-global-root-g2")
    refused(managed, "in-use")


def test_root_leaves_and_a_device_has_proved_no_other(managed, status) -> None:
    status(twin("a", via=MS_RSA), twin("b", via=None), twin("c", via=None, probes=[probe(G3)]))
    managed.ok("remove-root digicert-global-root-g2")
    said = refused(managed, "unproven")
    assert "devices: b\n" in said


def test_probe_older_than_seven_days_or_failed_proves_nothing(managed, status) -> None:
    status(
        twin("a", via=None, probes=[probe(MS_RSA, at=ISSUED - 7 * DAY - 1)]),
        twin("b", via=None, probes=[probe(MS_RSA, result="FAILED")]),
        twin("c", via=None, probes=[probe(MS_RSA, at=ISSUED - 7 * DAY)]),
    )
    managed.ok("remove-root digicert-global-root-g2")
    assert "devices: a, b\n" in refused(managed, "unproven")


def test_what_was_heard_seven_days_ago_counts_and_a_second_later_not(managed, status) -> None:
    status(twin("a", via=MS_RSA, heard=ISSUED - 7 * DAY), twin("b", via=MS_RSA))
    managed.ok("remove-root digicert-global-root-g3")
    managed.ok("build --version 2")
    status(twin("a", via=MS_RSA, heard=ISSUED - 7 * DAY - 1), twin("b", via=MS_RSA))
    assert "devices: a\n" in refused(managed, "unproven")


def test_root_of_the_cloud_that_is_not_listed_is_told(managed, status) -> None:
    status(twin("a", via=G2))
    managed.ok("remove-root digicert-global-root-g3")
    (told,) = managed.ok("build --version 2")["findings"]
    assert told["code"] == "missing-cloud-root" and not told["refuses"]
    assert told["text"].startswith("DigiCert Global Root G3, a root of Azure,")


def test_retired_root_that_came_in_by_another_way_is_found(managed) -> None:
    bundle = managed.space.bundle(1)
    baltimore = roots.catalogue().roots["baltimore-cybertrust-root"].der
    bundle["roots"][0]["der"] = base64.b64encode(baltimore).decode()
    codes = {f.code for f in guards.examine(bundle, _where(managed, 1)) if f.refuses}
    assert "retired-root" in codes


def test_unused_root_leaves_without_a_word_when_the_others_are_proven(managed, status) -> None:
    status(twin("a", via=G2), twin("b", via=MS_RSA))
    managed.ok("remove-root digicert-global-root-g3")
    body = managed.ok("build --version 2")
    assert body["overridden"] == [] and len(body["roots"]) == 3


def test_unmanaged_and_silent_devices_do_not_count_as_unproven(managed, status) -> None:
    status(twin("a", via=G2), twin("u", state="unmanaged"))
    managed.ok("remove-root digicert-global-root-g3")
    managed.ok("build --version 2")


def test_version_below_the_floor_of_devices(managed, status) -> None:
    status(twin("a", via=G2, floor=5, version=5))
    said = refused(managed, "below-floor", "build --version 4")
    assert "below the floor of 1 devices" in said


def test_version_that_devices_have_already(managed, status) -> None:
    status(twin("a", via=G2, version=2))
    assert "not above what 1 devices have" in refused(managed, "below-floor")


def test_version_that_is_published_already(managed) -> None:
    managed.release(2)
    (managed.home / "bundles/1.jws").rename(managed.home / "old")
    said = managed.fails("build --version 2", 2)
    assert "carries signatures" in said
    findings = guards.examine(managed.space.bundle(2), _where(managed, previous=2))
    assert [f.code for f in findings if f.refuses] == ["below-floor"]


def _where(managed, previous: int) -> guards.Situation:
    space = managed.space
    return guards.Situation(
        space.settings, roots.catalogue(), ISSUED, space.bundle(previous), None, 1
    )


def test_lower_min_version_is_told_not_refused(managed) -> None:
    managed.release(2, "--min-version 2")
    body = managed.ok("build --version 3 --min-version 1")
    told = [f for f in body["findings"] if f["code"] == "below-floor"]
    assert len(told) == 1 and not told[0]["refuses"] and "keep the higher floor" in told[0]["text"]


@pytest.mark.requirement("R-15")
def test_rotation_that_old_devices_cannot_walk(managed) -> None:
    for version in range(2, 6):
        add = f"{managed.folder}/k{version}"
        managed.ok(f"keygen {add} --unencrypted --bits 2048")
        before = managed.space.keyset().bundle.keys[0].kid
        managed.ok(f"rotate-keys --role bundle --remove {before[:20]} --add {add}.jwk")
        for root in ("root-1", "root-2"):
            managed.ok(f"sign keysets/{version}.jws --key {managed.home}/keys/{root}.pem")
    add = f"{managed.folder}/k6"
    managed.ok(f"keygen {add} --unencrypted --bits 2048")
    before = managed.space.keyset().bundle.keys[0].kid
    line = f"rotate-keys --role bundle --remove {before[:20]} --add {add}.jwk"
    said = refused(managed, "unwalkable", line)
    assert "from bootstrap key-set 1 to 6 there are 5 steps" in said


@pytest.mark.requirement("R-15")
def test_rotation_whose_chain_no_longer_fits_a_package(managed, monkeypatch) -> None:
    """Three key-sets of six 3,072-bit keys fit beside a bundle, four do not; here a lower limit."""
    monkeypatch.setattr(guards, "MAX_PACKAGE", 15_000)
    add = f"{managed.folder}/k"
    managed.ok(f"keygen {add} --unencrypted --bits 2048")
    line = f"rotate-keys --role bundle --remove bundle-1 --add {add}.jwk"
    managed.ok(line)
    for root in ("root-1", "root-2"):
        managed.ok(f"sign keysets/2.jws --key keys/{root}.pem")
    managed.ok(f"keygen {add}2 --unencrypted --bits 2048")
    line = f"rotate-keys --role bundle --remove bundle-2 --add {add}2.jwk"
    assert "a package holds 15000" in refused(managed, "unwalkable", line)


def test_retired_bootstraps_make_a_long_chain_walkable(managed) -> None:
    settings = managed.space.settings
    far = guards.Situation(settings, roots.catalogue(), ISSUED, None, None, 9, 40_000)
    assert [f.code for f in guards.walk_findings(far)] == ["unwalkable"]
    four = guards.Situation(settings, roots.catalogue(), ISSUED, None, None, 5, 40_000)
    assert "it takes 40000 B" in guards.walk_findings(four)[0].text
    settings.oldest_bootstrap = 9
    assert guards.walk_findings(far) == []


def test_root_that_ends_before_the_longest_absent_device_is_back(managed) -> None:
    short = Authority.root("Short", key="p256", not_before=_day(-10), not_after=_day(100))
    (managed.folder / "short.pem").write_text(short.pem)
    managed.ok(f"add-root {managed.folder}/short.pem")
    assert "Short" in refused(managed, "root-expires")


def _day(days: int):
    from datetime import UTC, datetime, timedelta

    return datetime.fromtimestamp(ISSUED, UTC) + timedelta(days=days)


def test_bundle_that_ends_before_the_longest_absent_device_is_back(managed) -> None:
    refused(managed, "bundle-expires", "build --version 2 --lifetime-days 179")
    managed.ok("build --version 2 --lifetime-days 180")


def test_no_root_for_dps_where_devices_register(managed) -> None:
    path = managed.home / "roots.json"
    body = json.loads(path.read_text())
    for entry in body["roots"]:
        entry["use"] = ["hub"]
    path.write_text(json.dumps(body))
    assert "dps = true" in refused(managed, "no-dps")


def test_bundle_like_the_one_before_finds_nothing(managed, status) -> None:
    status(twin("a", via=G2))
    assert managed.ok("build --version 2 --min-version 1")["findings"] == []
    assert managed.ok("build --version 2 --min-version 2")["findings"] == []


def test_retired_root_is_not_added_at_all(managed) -> None:
    said = managed.fails("add-root --catalogue baltimore-cybertrust-root", 2)
    assert "retired" in said and "2025-05-12" in said


def test_unknown_refusal_cannot_be_lifted(managed) -> None:
    managed.ok("remove-root digicert-global-root-g3")
    said = managed.fails("build --version 2 --despite everything --confirm-fleet contoso-esp32", 1)
    assert "no such refusal" in said and "no-status" in said


def test_lifting_one_refusal_does_not_lift_another(managed) -> None:
    managed.ok("remove-root digicert-global-root-g3")
    line = "build --version 2 --lifetime-days 30 --despite no-status --confirm-fleet contoso-esp32"
    assert "bundle-expires" in managed.fails(line, 1)


@pytest.mark.requirement("D8")
def test_distrust_wants_the_digest_typed_and_counts_who_goes_to_recovery(managed, status) -> None:
    status(twin("a", via=G2), twin("b", via=MS_RSA), twin("c", via=G2))
    said = managed.fails("distrust-root digicert-global-root-g2", 2)
    assert "this root go to recovery: 2 of 3 in the last status" in said
    assert "cb3ccbb76031e5e0" in said and "--confirm-sha256" in said
    managed.fails("distrust-root digicert-global-root-g2 --confirm-sha256 cb3c", 2)
    managed.fails("distrust-root digicert-global-root-g2 --confirm-sha256 00000000", 2)
    body = managed.ok("distrust-root digicert-global-root-g2 --confirm-sha256 cb3ccbb7")
    assert body["in_use_by"] == ["a", "c"]
    managed.ok("build --version 2")
    made = managed.space.bundle(2)
    assert made["distrust"] == [digest(G2)]
    assert digest(G2) not in [r["sha256"] for r in made["roots"]]


def test_distrusted_root_is_not_added_and_distrust_can_be_lifted(managed) -> None:
    managed.ok("distrust-root digicert-global-root-g2 --confirm-sha256 cb3ccbb7")
    assert "--lift" in managed.fails("add-root --catalogue digicert-global-root-g2", 2)
    managed.ok("distrust-root cb3ccbb76031e5e0 --lift")
    managed.ok("add-root --catalogue digicert-global-root-g2")
    managed.ok("build --version 2")
    assert "distrust" not in managed.space.bundle(2)


def test_last_root_neither_leaves_nor_is_distrusted(managed) -> None:
    for name in ("digicert-global-root-g2", "microsoft-rsa-root-2017", "digicert-global-root-g3"):
        managed.ok(f"remove-root {name}")
    assert "last root" in managed.fails("remove-root microsoft-ecc-root-2017", 2)
    line = "distrust-root microsoft-ecc-root-2017 --confirm-sha256 358df39d"
    assert "last root" in managed.fails(line, 2)


@pytest.mark.parametrize("role", ["--root-role 1-of-3", "--bundle-role 1-of-1"])
def test_single_signer_is_asked_for_by_name_and_shown_as_a_finding(operator, role: str) -> None:
    line = f"init --fleet contoso-esp32 --unencrypted --bits 2048 {role}"
    assert "--single-signer" in operator.fails(line, 2)
    body = operator.ok(f"{line} --single-signer")
    assert "threshold 1" in body["findings"][0]
    shown = operator.ok("inspect keysets/1.jws")["document"]["findings"]
    assert any("threshold 1" in text for text in shown)
    twins = operator.folder / "twins.json"
    twins.write_text("[]")
    assert any("threshold 1" in t for t in operator.ok(f"status --from {twins}")["findings"])


def test_issue_date_ahead_of_the_clock_is_never_built(managed) -> None:
    said = managed.fails(f"build --version 2 --issued {ISSUED + 1}", 2)
    assert "time floor" in said
    managed.ok(f"build --version 2 --issued {ISSUED}")


def test_root_in_use_cannot_leave_by_a_package_in_between(managed, status) -> None:
    status(twin("a", via=G2, probes=[probe(MS_RSA)]))
    managed.ok("remove-root digicert-global-root-g2")
    refused(managed, "in-use")
    managed.sign_bundle(2)
    managed.ok("package")
    said = refused(managed, "in-use", "build --version 3")
    assert "DigiCert Global Root G2" in said and "devices: a" in said


def test_root_that_no_longer_serves_the_hub_goes_away(managed, status) -> None:
    status(twin("a", via=G2, probes=[probe(MS_RSA)]))
    path = managed.home / "roots.json"
    body = json.loads(path.read_text())
    body["roots"][0]["use"] = ["dps"]
    assert body["roots"][0]["sha256"] == digest(G2)
    path.write_text(json.dumps(body))
    assert "devices: a" in refused(managed, "in-use")


def test_status_without_a_managed_device_proves_nothing(managed, status) -> None:
    status(twin("u", via=G2, state="unmanaged"))
    managed.ok("remove-root digicert-global-root-g2")
    assert "the last status knows no managed device" in refused(managed, "no-status")


@pytest.mark.parametrize(
    ("host", "cloud"),
    [
        ("pump.azure-devices.net", "public"),
        ("pump.device.azure-devices.net", "public"),
        ("PUMP.azure-devices.us", "us-government"),
        ("pump.azure-devices.cn", "china"),
    ],
)
def test_a_hub_s_host_name_says_whose_roots_it_needs(host, cloud):
    assert roots.cloud_roots(host) == roots.cloud_roots(cloud)


def test_a_host_of_nobody_s_names_the_clouds_there_are():
    with pytest.raises(roots.RootsError, match="there are: public"):
        roots.cloud_roots("hub.example")
