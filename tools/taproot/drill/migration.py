"""The steps of the migration itself: certificates, bundles, connecting, probing, switching, recovery."""

from __future__ import annotations

from typing import Any

from taproot.drill.account import Account
from taproot.drill.device import Device, StepFailed
from taproot.drill.stage import (
    CONNECT_S,
    MESSAGES,
    OFFLINE,
    RECONNECT_S,
    Outcome,
    Stage,
    Trust,
)
from taproot.drill.world import HEAPS

SETTLE_S = 30.0
_BLACKOUT_S = 2.5
_CLOCK_SPEED = 60  # the control device waits its quarter of an hour (G1) in 15 s


def make_chains(stage: Stage) -> Outcome:
    """Step 1."""
    return stage.world.make_chains(), {}


def make_bundles(stage: Stage) -> Outcome:
    """Step 2."""
    return stage.world.make_bundles(), {}


def connect(stage: Stage) -> Outcome:
    """Step 3: A with SAS, B with X.509 through DPS, C with its update agent off."""
    world = stage.world
    text = world.start_hub()
    for index in range(world.options.devices):
        name = "device-a" if index == 0 else f"device-a{index + 1}"
        stage.followers.append(world.add_device(name))
    stage.followers.append(world.add_x509_device("device-b", channels=["method", "inbox", "c2d"]))
    stage.control = world.add_device(
        "device-c",
        update_agent=False,
        trust={"recovery": [world.recovery_url]},
        clock_speed=_CLOCK_SPEED,
    )
    for device in stage.all:
        device.wait("connected", CONNECT_S)
        device.wait_accepted(10, CONNECT_S)
        stage.wait_trust(device, lambda trust: trust.get("version") == 1)
    sas, x509 = HEAPS[world.options.build]
    return (
        f"{text}; A connected with SAS, B with X.509 through DPS, C with SAS; telemetry flows; "
        f"heap of A and C {sas}, of B {x509}",
        {"heap": {"sas": sas, "x509": x509}},
    )


def roll_under_the_same_root(stage: Stage) -> Outcome:
    """Step 3b: new leaf, then new issuing CA, under the old root."""
    spent: list[Any] = []
    for roll in (stage.world.old.roll_leaf, stage.world.old.roll_intermediate):
        marks = stage.marks()
        stage.world.emu.switch_chain(roll(), drop=True)
        spent += stage.wait_back(stage.all, marks).values()
    return (
        f"hub rolled its leaf, then its issuing CA: all back within {max(spent)} ms",
        {"outages_ms": spent},
    )


def follow_the_operator(stage: Stage) -> Outcome:
    """Step 5: bundle 2 by address and by twin; C is told too and does not follow."""
    world = stage.world
    package = world.package(2, [world.old_root, world.new_root, *world.azure])
    world.publish(stage.followers[0], 2, package, "bundle-2.json")
    for device in stage.followers[1:]:
        world.publish_in_twin(device, 2, package)
    world.publish(stage.control, 2, package, "bundle-2.json")
    stage.cut_power(stage.followers[0])
    for device in stage.followers:
        stage.wait_version(device, 2)
    if stage.trust(stage.control).get("version") != 1:
        raise StepFailed("device-c installed a bundle with its update agent off")
    return (
        f"bundle 2 ({len(package)} B, old and new root): {stage.names(stage.followers)} fetched "
        "(A by address, others in the twin), verified, tried and confirmed it",
        {"package_bytes": len(package)},
    )


def probe_the_new_chain(stage: Stage) -> Outcome:
    """Step 5b: who would still connect? Asked before the switch day, without any credential."""
    world = stage.world
    port = world.start_preview()
    request = {"host": world.emu.host, "port": port, "root": world.new.root.sha256}
    ready, results = [], {}
    for device in stage.followers:
        status, answer = world.call(device, "trust.probe", request)
        if status == 200:
            results[device.name] = answer["result"]
        else:  # closed its connection to make room: the result comes with the next report
            trust = stage.wait_trust(device, lambda trust: _probed(trust) not in ("", "MEMORY"))
            results[device.name] = _probed(trust)
        if results[device.name] == "ok":
            ready.append(device.name)
    carried = [root["sha256"] for root in stage.trust(stage.control)["roots"]]
    held = len(ready) == len(stage.followers) and world.new.root.sha256[:16] not in carried
    return (
        f"probe of the new chain: {len(ready)} of {len(stage.all)} ready, device-c not "
        "(it does not carry the new root)",
        {"held": held, "results": results},
    )


def _probed(trust: Trust) -> str:
    """The result of the newest probe in a report; empty without one."""
    probes = trust.get("probes") or [{"result": ""}]
    return probes[-1]["result"]


def switch_the_root(stage: Stage) -> Outcome:
    """Step 6: after a blackout the hub presents the new chain."""
    world = stage.world
    marks = stage.marks()
    world.emu.switch_chain(world.new.leaf, drop=True)
    world.emu.fault({"action": "blackout", "seconds": _BLACKOUT_S})
    outages = stage.wait_back(stage.followers, marks)
    refusal = stage.control.wait(
        "refused", RECONNECT_S, lambda event: "new root" in event["text"], marks["device-c"]
    )
    for device in stage.followers:
        stage.wait_trust(device, lambda trust: trust.get("via") == world.new.root.sha256)
    longest = max(outages.values())
    return (
        f"hub was away {_BLACKOUT_S:g} s and now presents the new root: all followers back "
        f'within {longest} ms; device-c refused it: "{refusal["text"]}"',
        {"outages_ms": outages, "refusal": refusal["text"]},
    )


def recover_the_control(stage: Stage) -> Outcome:
    """Step 6b: C fetches the signed package by plain HTTP, tries it and is back."""
    world = stage.world
    package = world.package(2, [world.old_root, world.new_root, *world.azure])
    world.emu.publish_file("recovery.json", package)
    trust = stage.wait_version(stage.control, 2, 90)
    return (
        f"device-c recovered over plain HTTP (its quarter of an hour {_CLOCK_SPEED} times "
        f"faster): version 2, source {trust['source']}",
        {"held": trust["source"] == "recovery"},
    )


def settle(stage: Stage) -> Outcome:
    """Last step: every accepted message must be at the hub."""
    for device in stage.all:
        device.wait_accepted(MESSAGES, 60)
        device.command("quiet")
        device.wait("quiet", 30)
    held = True
    figures = {}
    for device in stage.all:
        found = _settled(stage, device)
        figures[device.name] = {**found.as_dict(), **_figures(stage, device)}
        stage.report.say(f"          {device.name}: {found.text}")
        stage.report.say(f"                    {_heap_line(figures[device.name])}")
        if device in stage.followers:
            held &= not found.lost and found.accepted >= MESSAGES and found.offline >= OFFLINE
            held &= found.unordered == 0 or stage.cuts > 0
    shown = [name for device in stage.all for name in device.secrets_shown(stage.world.secrets)]
    lost = sum(figures[device.name]["lost"] for device in stage.followers)
    return (
        f"lost: {lost}; {stage.cuts} power cuts; each accepted at least {MESSAGES} messages, "
        f"{OFFLINE} of them without a connection; no secret was printed",
        {
            "held": bool(held and not shown),
            "lost": lost,
            "power_cuts": stage.cuts,
            "devices": figures,
        },
    )


def _settled(stage: Stage, device: Device) -> Account:
    """Wait until the hub recorded all that was accepted, or as long as that may take."""
    stage.world.poll(lambda: not device.account(stage.world.recorded(device)).lost, SETTLE_S)
    return device.account(stage.world.recorded(device))


def _figures(stage: Stage, device: Device) -> dict[str, object]:
    connects = stage.world.connects(device)
    last = connects[-1] if connects else {}
    heap = device.last("heap") or {}
    return {
        "connections": len(connects),
        "boots": device.boots,
        "tls": last.get("tls"),
        "suite": last.get("suite"),
        "mfl_asked": last.get("mfl_asked"),
        "heap": {key: heap[key] for key in heap if key not in ("ev", "time", "boot")},
    }


def _heap_line(figures: dict) -> str:
    heap = figures["heap"]
    return (
        f"{figures['connections']} connections, {figures['boots']} boots, {figures['tls']} "
        f"{figures['suite']}; heap {heap.get('used', 0)} B in use (peak {heap.get('peak', 0)}), "
        f"TLS peak {heap.get('tls_peak', 0)} B, largest block {heap.get('largest', 0)} B"
    )
