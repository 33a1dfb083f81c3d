"""publish, status and probe against the emulator's service REST, over TLS.

The devices here are followers: they hold a real MQTT connection, read their twin, judge what they
are offered with the device's own modules, and report. Whole devices do this in the drill.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support import wire
from taproot.console import PeerFailed, UsageFailed
from taproot.emulator import EmulatorConfig, Running, running
from taproot.pki import Authority
from taproot.trust import rollout, roots
from taproot.trust.service import Service
from taproot.trust.verify import Position, verify_package

SCHEMAS = Path(__file__).resolve().parents[1] / "vectors" / "schemas"
G2 = roots.catalogue().roots["digicert-global-root-g2"].sha256


@pytest.fixture(scope="module")
def hub() -> Iterator[Running]:
    with running(EmulatorConfig(plain_port=0)) as emu:
        yield emu


@pytest.fixture
def empty(hub: Running) -> Iterator[Running]:
    """The hub without devices and configurations."""
    yield hub
    for name in list(hub.emulator.hub.registry.devices):
        hub.remove_device(name)
    with administration(hub) as service:
        service.delete_configuration("trust-2", missing_ok=True)


class Follower:
    """A device that follows its twin; `refuses` makes it report that error instead."""

    def __init__(self, hub: Running, name: str, bootstrap: bytes, refuses: str = "") -> None:
        self.hub, self.name, self.bootstrap, self.refuses = hub, name, bootstrap, refuses
        self.record = hub.add_device(name)
        self.link: wire.Wire | None = None
        self.taken: dict[str, Any] | None = None
        self.report(version=1, key_version=1, floor=1, state="good", source="factory", roots=[])
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def report(self, **trust: Any) -> None:
        self.hub.call(self.record.twin.reported.patch, {"trust": trust})

    def connect(self) -> None:
        self.link = wire.Wire.plain(self.hub.plain_port)
        login = wire.credentials(self.hub.host, self.name, self.record.primary_key)
        self.link.send(wire.connect(self.name, **login))
        self.link.expect(wire.CONNACK)

    def start(self) -> Follower:
        self.connect()
        self._thread.start()
        return self

    def stop(self) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(5)
        if self.link is not None:
            self.link.close()

    def _follow(self) -> None:
        while not self._end.wait(0.02):
            offer = self.hub.twin(self.name)["properties"]["desired"].get("trust")
            if not offer or "version" not in offer or offer == self.taken:
                continue
            self.taken = offer
            self._take(offer)

    def _take(self, offer: dict[str, Any]) -> None:
        version = offer["version"]
        text = "".join(offer.get(f"c{i}", "") for i in range(offer.get("chunks", 0)))
        intact = hashlib.sha256(text.encode()).hexdigest() == offer["sha256"]
        verdict = verify_package(text.encode(), Position(self.bootstrap, 1), load_roots=False)
        code = self.refuses or verdict.code or ("" if intact else "DOWNLOAD")
        if code:
            self.report(last_error={"version": version, "code": code, "text": "no"})
        else:
            self.report(
                version=verdict.version, key_version=verdict.key_version, via=G2, source="ota"
            )


@pytest.fixture
def fleet_of(managed, empty: Running) -> Iterator[Any]:
    """`fleet_of(n, refusing={index: code})` starts devices and makes the operator's files."""
    started: list[Follower] = []

    def make(count: int, refusing: dict[int, str] | None = None) -> list[Follower]:
        bootstrap = (managed.home / "keysets/1.jws").read_bytes()
        for i in range(count):
            follower = Follower(empty, f"d{i}", bootstrap, (refusing or {}).get(i, ""))
            started.append(follower.start())
        return started

    write_access(managed.folder, empty)
    managed.release(2)
    yield make
    for follower in started:
        follower.stop()


def write_access(folder: Path, hub: Running, policy: str = "iothubowner") -> None:
    key = hub.emulator.hub.registry.policies[policy].primary_key
    text = f"HostName={hub.host};SharedAccessKeyName={policy};SharedAccessKey={key}"
    (folder / "hub.txt").write_text(text + "\n")
    (folder / "ca.pem").write_text(str(hub.root_pem))


def administration(hub: Running) -> Service:
    key = hub.emulator.hub.registry.policies["iothubowner"].primary_key
    der = roots.pem_to_der(str(hub.root_pem).encode(), "emulator")
    return Service(hub.host, "iothubowner", key, hub.https_port or 0, [der])


def access(hub: Running) -> str:
    return f"--connection-file hub.txt --port {hub.https_port} --ca ca.pem"


def publish(hub: Running, more: str = "") -> str:
    return f"publish --channel twin --poll 0.05 --stage-timeout 15 {access(hub)} {more}"


def offered(hub: Running, name: str) -> Any:
    return hub.twin(name)["properties"]["desired"].get("trust")


def test_one_device_then_stages_until_all_are_good(managed, empty, fleet_of) -> None:
    fleet_of(6)
    body = managed.ok(publish(empty, "--device d3 --stages 20,50,100"))
    stages = body["stages"]
    assert [len(s["devices"]) for s in stages] == [1, 1, 2, 2]
    schema = SCHEMAS / "trust_publish.schema.json"
    jsonschema.validate(body, json.loads(schema.read_text()))
    assert stages[0]["devices"] == ["d3"]
    good = [name for stage in stages for name in stage["good"]]
    assert sorted(good) == [f"d{i}" for i in range(6)]
    states = [empty.twin(f"d{i}")["properties"]["reported"]["trust"]["version"] for i in range(6)]
    assert states == [2] * 6
    last = json.loads((managed.home / "ledger.jsonl").read_text().splitlines()[-1])
    assert last["command"] == "publish" and last["facts"]["version"] == 2


def test_refusal_on_the_first_device_stops_everything(managed, empty, fleet_of) -> None:
    fleet_of(4, refusing={2: "BAD_SIGNATURE"})
    answer = managed.run(publish(empty, "--device d2"), json_too=True)
    assert answer.code == 1
    (stage,) = answer.body["stages"]
    assert stage["failed"] == {"d2": "BAD_SIGNATURE: no"}
    assert stage["withdrawn"] == ["d2"] and offered(empty, "d2") is None
    assert all(offered(empty, f"d{i}") is None for i in (0, 1, 3))


def test_failure_within_what_is_allowed_goes_on(managed, empty, fleet_of) -> None:
    fleet_of(4, refusing={1: "NOT_CA"})
    body = managed.ok(publish(empty, "--stages 100 --max-failures 1"))
    assert sorted(body["stages"][0]["good"]) == ["d0", "d2", "d3"]
    assert list(body["stages"][0]["failed"]) == ["d1"]


def test_connected_device_that_says_nothing_fails_the_stage(managed, empty, fleet_of) -> None:
    devices = fleet_of(1)
    devices[0].taken = None
    devices[0]._end.set()
    line = publish(empty, "--stages 100").replace("--stage-timeout 15", "--stage-timeout 0.4")
    answer = managed.run(line, json_too=True)
    assert answer.code == 1
    assert "no result in 0 s" in answer.body["stages"][0]["failed"]["d0"]


def test_offline_device_keeps_the_offer_and_fails_nothing(managed, empty, fleet_of) -> None:
    devices = fleet_of(2)
    devices[1].stop()
    body = managed.ok(publish(empty, "--stages 100 --offline-grace 0.7"))
    assert body["stages"][0]["offline"] == ["d1"] and body["stages"][0]["good"] == ["d0"]
    assert offered(empty, "d1")["version"] == 2


def test_unmanaged_devices_are_never_offered_anything(managed, empty, fleet_of) -> None:
    devices = fleet_of(2)
    devices[0].report(state="unmanaged", version=None, key_version=None, floor=None)
    body = managed.ok(publish(empty, "--stages 100"))
    assert body["stages"][0]["devices"] == ["d1"] and offered(empty, "d0") is None


def test_where_chooses_by_tags(managed, empty, fleet_of) -> None:
    fleet_of(3)
    empty.patch_tags("d1", {"site": "north"})
    answer = managed.run(publish(empty, "--stages 100 --where tags.site='north'"), json_too=True)
    assert answer.code == 0, answer.err
    assert answer.body["stages"][0]["devices"] == ["d1"]
    assert offered(empty, "d0") is None


def test_dry_run_names_who_is_next_and_touches_nothing(managed, empty, fleet_of) -> None:
    fleet_of(4)
    body = managed.ok(publish(empty, "--dry-run --device d0 --stages 50,100"))
    assert [len(s["devices"]) for s in body["steps"]] == [1, 2, 1]
    assert all(offered(empty, f"d{i}") is None for i in range(4))


def test_configuration_follows_only_after_the_first_device(managed, empty, fleet_of) -> None:
    fleet_of(3)
    body = managed.ok(publish(empty, "--device d1 --configuration trust-2 --channel twin"))
    assert body["steps"][-1]["name"] == "configuration"
    with administration(empty) as service:
        deadline = time.monotonic() + 10
        results: dict = {}
        while results.get("good") != 3 and time.monotonic() < deadline:
            made = service.configuration("trust-2")
            assert made is not None
            results = made["metrics"]["results"]
        assert results == {"good": 3, "failed": 0}
        assert made["priority"] == 2
    again = managed.fails(publish(empty, "--device d1 --configuration trust-2"), 2)
    assert "new name" in again


def test_configuration_is_not_made_when_the_first_device_refuses(managed, empty, fleet_of) -> None:
    fleet_of(2, refusing={0: "FLEET"})
    assert managed.run(publish(empty, "--device d0 --configuration trust-2")).code == 1
    with administration(empty) as service:
        assert service.configuration("trust-2") is None


def test_offer_by_url_replaces_the_chunks_of_an_earlier_offer(managed, empty, fleet_of) -> None:
    package = (managed.home / "packages/2.json").read_bytes()
    present = {"version": 1, "sha256": "0", "chunks": 2, "c0": "a", "c1": "b", "probe": {}}
    offer = rollout.Offer(2, 1, package, "url", "http://x/2.json")
    patch = offer.patch(present)["trust"]
    assert patch["url"] == "http://x/2.json"
    assert [k for k, v in patch.items() if v is None] == ["chunks", "c0", "c1"]
    with pytest.raises(UsageFailed, match="--url"):
        rollout.Offer(2, 1, package, "url").desired()


def test_method_channel_hands_over_the_whole_package(managed, empty, fleet_of) -> None:
    class Hub:
        def __init__(self) -> None:
            self.calls: list[Any] = []
            self.good = False

        def twin(self, device: str) -> dict[str, Any]:
            trust = {"version": 2 if self.good else 1, "key_version": 1, "state": "good"}
            return {"connectionState": "Connected", "properties": {"reported": {"trust": trust}}}

        def twins(self, devices: Any) -> dict[str, dict[str, Any]]:
            return {device: self.twin(device) for device in devices}

        def patch_desired(self, device: str, desired: dict[str, Any]) -> dict[str, Any]:
            raise AssertionError("the method channel leaves desired properties alone")

        def invoke(self, device: str, method: str, payload: Any, timeout: int = 60) -> Any:
            self.calls.append((device, method, payload))
            self.good = True
            return {"status": 200, "payload": {}}

    package = (managed.home / "packages/2.json").read_bytes()
    service = Hub()
    run = rollout.Rollout(service, rollout.Offer(2, 1, package, "method"), 5, 0.01)
    (stage,) = run.run([("all", ["a"])])
    assert stage.good == ["a"]
    assert service.calls == [("a", "trust.install", json.loads(package))]


def test_status_reads_every_page_and_is_kept(managed, empty, fleet_of, monkeypatch) -> None:
    monkeypatch.setattr("taproot.trust.service.PAGE", 2)
    devices = fleet_of(5)
    devices[4].report(via=G2, roots=[{"sha256": G2[:16], "expires": 1, "use": ["hub"]}])
    body = managed.ok(f"status {access(empty)} --html status.html")
    assert body["status"]["devices"] == 5
    row = next(r for r in body["status"]["roots"] if r["sha256"] == G2)
    assert row["carried"] == row["in_use"] == row["proven"] == ["d4"]
    assert len(row["stranded"]) == 4
    assert len(json.loads((managed.home / "status.json").read_text())["devices"]) == 5
    assert "d4" in (managed.folder / "status.html").read_text()


@pytest.mark.requirement("R-49")
def test_probe_is_asked_for_beside_a_package(managed, empty, fleet_of) -> None:
    fleet_of(2)
    managed.ok(publish(empty, "--stages 100"))
    managed.ok(f"probe digicert-global-root-g2 --host new.example {access(empty)}")
    desired = offered(empty, "d0")
    assert desired["probe"] == {"host": "new.example", "port": 8883, "root": G2}
    assert desired["version"] == 2


def test_package_that_devices_would_refuse_is_not_published(managed, empty, fleet_of) -> None:
    fleet_of(1)
    path = managed.home / "packages/2.json"
    path.write_bytes(path.read_bytes().replace(b'"signature":"', b'"signature":"A', 1))
    said = managed.fails(publish(empty), 1)
    assert "devices would refuse this package" in said and offered(empty, "d0") is None


def test_hub_with_an_unknown_certificate_is_not_talked_to(managed, empty, fleet_of) -> None:
    fleet_of(1)
    (managed.folder / "ca.pem").write_text(Authority.root("Other", key="p256").pem)
    said = managed.fails(f"status {access(empty)}", 3)
    assert "certificate is not trusted here" in said and "--ca" in said


def test_wrong_key_and_missing_right_say_what_is_needed(managed, empty, fleet_of) -> None:
    fleet_of(1)
    write_access(managed.folder, empty, "device")
    said = managed.fails(f"status {access(empty)}", 3)
    assert "401" in said and "registry read" in said
    text = (managed.folder / "hub.txt").read_text()
    assert text.split("SharedAccessKey=")[1].strip() not in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("HostName=h;SharedAccessKeyName=x", "no SharedAccessKey"),
        ("nothing", "no HostName"),
        ("HostName=h;SharedAccessKeyName=x;SharedAccessKey=%%%", "not base64"),
    ],
)
def test_bad_connection_string_is_explained_without_repeating_it(text: str, said: str) -> None:
    with pytest.raises(UsageFailed, match=said):
        Service.from_connection_string(text)


def test_dead_hub_ends_in_one_line(managed, empty, fleet_of) -> None:
    fleet_of(1)
    line = "status --connection-file hub.txt --port 1 --ca ca.pem"
    assert "Connection refused" in managed.fails(line, 3)


@pytest.mark.parametrize("text", ["0,100", "50,20", "101", "a", "20,20", ""])
def test_stages_must_rise_to_at_most_100(managed, empty, fleet_of, text: str) -> None:
    fleet_of(1)
    assert "rising percentages" in managed.fails(publish(empty, f"--stages {text or ','}"), 2)


def test_order_is_fixed_for_a_package_and_another_for_the_next() -> None:
    ids = [f"d{i}" for i in range(50)]
    assert rollout.order(ids, "a") == rollout.order(reversed(ids), "a")  # type: ignore[arg-type]
    assert rollout.order(ids, "a") != rollout.order(ids, "b")


def test_error_of_an_earlier_attempt_does_not_fail_this_one() -> None:
    offer = rollout.Offer(2, 1, b"{}", "twin")
    run = rollout.Rollout(None, offer)  # type: ignore[arg-type]

    def twin(said: str, made: str) -> dict[str, Any]:
        return {
            "properties": {
                "reported": {"$metadata": {"trust": {"$lastUpdated": said}}},
                "desired": {"$metadata": {"trust": {"$lastUpdated": made}}},
            }
        }

    early, late = "2026-11-23T10:00:00Z", "2026-11-23T11:00:00Z"
    assert run._stale(twin(early, late)) and not run._stale(twin(late, early))


def test_many_twins_are_read_by_query_and_few_one_by_one(managed, empty, fleet_of) -> None:
    names = [f"m{i:03}" for i in range(230)]
    for name in names:
        empty.add_device(name)
    with administration(empty) as service:
        mark = empty.emulator.recorder.seq
        assert sorted(service.twins(names)) == names
        many = [e["path"] for e in empty.events(mark) if e["type"] == "service"]
        mark = empty.emulator.recorder.seq
        assert sorted(service.twins(names[:20])) == names[:20]
        few = [e["path"] for e in empty.events(mark) if e["type"] == "service"]
    assert many == ["/devices/query"] * 3 and len(few) == 20


def test_rollout_that_breaks_off_is_in_the_ledger(managed, empty, fleet_of, monkeypatch) -> None:
    fleet_of(3)
    calls: list[str] = []
    original = Service.patch_desired

    def fails_later(self: Service, device: str, desired: dict[str, Any]) -> dict[str, Any]:
        calls.append(device)
        if len(calls) == 2:
            raise PeerFailed("the hub is gone")
        return original(self, device, desired)

    monkeypatch.setattr(Service, "patch_desired", fails_later)
    assert "the hub is gone" in managed.fails(publish(empty, "--stages 34,100"), 3)
    last = json.loads((managed.home / "ledger.jsonl").read_text().splitlines()[-1])
    assert last["command"] == "publish" and len(last["facts"]["stages"]) >= 1


def test_download_that_the_device_tries_again_is_no_failure_yet(managed, empty, fleet_of) -> None:
    devices = fleet_of(1, refusing={0: "DOWNLOAD"})
    timer = threading.Timer(0.5, lambda: devices[0].report(version=2, last_error=None))
    timer.start()
    body = managed.ok(publish(empty, "--stages 100"))
    timer.join()
    assert body["stages"][0]["good"] == ["d0"]


def test_download_that_never_succeeds_fails_with_its_reason(managed, empty, fleet_of) -> None:
    fleet_of(1, refusing={0: "DOWNLOAD"})
    line = publish(empty, "--stages 100").replace("--stage-timeout 15", "--stage-timeout 5")
    answer = managed.run(line, json_too=True)
    assert answer.code == 1
    assert "DOWNLOAD: no" in answer.body["stages"][0]["failed"]["d0"]
