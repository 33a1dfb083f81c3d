"""The steps in which somebody errs or attacks: bad packages, a stolen root, revoked keys, a wrong bundle."""

from __future__ import annotations

import json
import time
from typing import Any

from taproot.drill.device import Device, StepFailed
from taproot.drill.stage import INSTALL_S, Outcome, Stage

_REFUSALS = 3  # by every device: the tries of a trial, the rungs of the ladder below a bundle
_SHOWN_S = 60.0  # the longest that this may take
_CALLS = 6  # of a direct method that may find the device between two connections
_OFFLINE = 404
_LOWER_RUNGS = ("previous", "factory", "recovery")
_SIGNATURE_CODES = ("BAD_SIGNATURE", "THRESHOLD")


def refuse_bad_packages(stage: Stage) -> Outcome:
    """Step 4: a flipped byte, one signature of two, keys that nobody knows."""
    world = stage.world
    roots = [world.old_root, world.new_root, *world.azure]
    bad = {
        "flipped byte": world.flipped(world.package(2, roots)),
        "one signature of two": world.package(2, roots, signatures=1),
        "unknown keys": world.foreign_package(2, roots),
    }
    codes: dict[str, str] = {}
    for number, (name, package) in enumerate(bad.items()):
        before = {device.name: stage.trust(device) for device in stage.followers}
        for device in stage.followers:
            world.publish(device, 2, package, f"bad-{number}.json")
        for device in stage.followers:
            codes[name] = stage.wait_refused(device, before[device.name])
    held = all(code in _SIGNATURE_CODES for code in codes.values())
    shown = "; ".join(f"{name}: {code}" for name, code in codes.items())
    return f"refused, nothing else changed: {shown}", {"held": held, "codes": codes}


def refuse_replay(stage: Stage) -> Outcome:
    """Step 5c: an older package, and one below the threshold, after bundle 2; by direct method."""
    world = stage.world
    roots = [world.old_root, *world.azure]
    bad = {
        "replay of version 1": world.package(1, roots),
        "one signature of two": world.package(3, roots, signatures=1),
    }
    codes: dict[str, str] = {}
    for name, package in bad.items():
        for device in stage.followers:
            codes[name] = _refusal(stage, device, package)
    held = codes == {"replay of version 1": "ROLLBACK", "one signature of two": "THRESHOLD"}
    shown = "; ".join(f"{name}: {code}" for name, code in codes.items())
    return f"refused by direct method: {shown}", {"held": held, "codes": codes}


def _refusal(stage: Stage, device: Device, package: bytes) -> str:
    """Have a device refuse a package by direct method; return the code, answered or reported."""
    before = stage.trust(device)
    left = _CALLS
    while True:
        status, answer = stage.world.call(device, "trust.install", json.loads(package))
        if status == 400:
            return answer["code"]
        left -= 1
        try:
            # It closed its connection to make room, and answers in the twin; or the call found
            # it without a connection, and comes again.
            return stage.wait_refused(device, before, INSTALL_S / _CALLS)
        except StepFailed:
            if not left:
                raise


def _deliver(stage: Stage, version: int, package: bytes) -> None:
    """The same package over three channels: method, C2D parts, inbox file."""
    first, *others = stage.followers
    for _ in range(_CALLS):
        status, answer = stage.world.call(first, "trust.install", json.loads(package))
        if status != _OFFLINE or stage.trust(first).get("version") == version:
            break
        time.sleep(1)
    # No answer: it closed its connection to make room, and the answer's call is over.
    if status not in (200, 404, 504, None):
        raise StepFailed(f"{first.name}: trust.install answered {status} {answer}")
    for device in others:
        if device.name == "device-b":
            stage.world.send_in_parts(device, package)
        else:
            stage.world.publish(device, version, package, f"bundle-{version}.json")
    put_into_inbox(stage.control, package)


def put_into_inbox(device: Device, package: bytes) -> None:
    """Do what `mpremote cp package.json :/trust/inbox.json` does on a board."""
    folder = device.folder / "trust"
    (folder / "arriving").write_bytes(package)
    (folder / "arriving").rename(folder / "inbox.json")


def retire_the_old_root(stage: Stage) -> Outcome:
    """Step 7: bundle 3 without the old root, over three channels; `version` = `min_version`."""
    world = stage.world
    floor = 1 if world.options.keep_floor else 3
    package = world.package(3, [world.new_root, *world.azure], min_version=floor)
    _deliver(stage, 3, package)
    for device in stage.all:
        stage.wait_version(device, 3)
    return (
        "bundle 3 (new root and the Azure roots) by direct method, C2D parts and inbox file: "
        f"confirmed by all, floor {floor}",
        {"floor": floor},
    )


def hub_goes_back(stage: Stage) -> Outcome:
    """Step 8: the hub shows the old chain again, long enough to walk down every rung."""
    if stage.world.options.keep_floor:
        return _fall_back(stage)
    seen = _show_the_old_chain(stage)
    _wait_home(stage)
    return (
        f"hub back on the old chain: {seen['refusals']} refusals, {seen['connects']} connections, "
        "not through the previous slot nor the factory bundle either; then all returned",
        {"held": seen["connects"] == 0, **seen},
    )


def _fall_back(stage: Stage) -> Outcome:
    world = stage.world
    marks = stage.marks()
    world.emu.switch_chain(world.old.roll_leaf(), drop=True)
    stage.wait_back(stage.all, marks)
    sources = {}
    for device in stage.all:
        trust = stage.wait_trust(device, lambda trust: trust.get("source") in _LOWER_RUNGS)
        sources[device.name] = trust["source"]
    marks = stage.marks()
    world.emu.switch_chain(world.new.leaf, drop=True)
    stage.wait_back(stage.all, marks)
    return (
        f"hub back on the old chain: with the floor kept they fall back and say so: {sources}",
        {"sources": sources},
    )


def distrust_under_attack(stage: Stage) -> Outcome:
    """Step 9: the old root is in use again and its key is stolen; bundle 5 distrusts it.

    The thief stands in front of every device and burns the tries of the trial. Distrust holds all
    the same; once he is gone the operator publishes the same bundle with a higher version.
    """
    world = stage.world
    floor = 1 if world.options.keep_floor else 3
    both = world.package(4, [world.old_root, world.new_root, *world.azure], min_version=floor)
    _deliver(stage, 4, both)
    for device in stage.all:
        stage.wait_version(device, 4)
    marks = stage.marks()
    roots, stolen = [world.new_root, *world.azure], [world.old.root.sha256]
    _deliver(stage, 5, world.package(5, roots, min_version=floor, distrust=stolen))
    for device in stage.all:
        device.wait(
            "trust",
            INSTALL_S,
            lambda event: event["reason"] in ("distrust", "staged"),
            marks[device.name],
        )
    seen = _show_the_old_chain(stage)
    _wait_home(stage)
    for device in stage.all:
        stage.wait_trust(device, lambda trust: stolen[0][:16] in trust.get("distrusted", ()))
    _deliver(stage, 6, world.package(6, roots, min_version=floor, distrust=stolen))
    for device in stage.all:
        stage.wait_version(device, 6)
    return (
        f"old root's key stolen, bundle 5 distrusts it, the thief in front for {seen['shown_s']} s: "
        f"{seen['refusals']} handshakes refused, {seen['connects']} accepted; bundle 6 confirmed",
        {"held": seen["connects"] == 0, **seen},
    )


def _wait_home(stage: Stage) -> None:
    """Wait until the hub has a connection of every device again."""
    for device in stage.all:
        if not stage.world.poll(lambda device=device: stage.world.is_connected(device), 90):
            raise StepFailed(f"{device.name} did not come back: {device.last_words()}")


def _show_the_old_chain(stage: Stage) -> dict[str, Any]:
    """Show the old chain until every device has refused it; count who let himself be fooled."""
    world = stage.world
    marks = stage.marks()

    def refusals() -> list[int]:
        return [device.count("refused", marks[device.name]) for device in stage.all]

    world.emu.switch_chain(world.old.roll_leaf(), drop=True)
    since = world.emu.events()[-1]["seq"]
    began = time.monotonic()
    enough = world.poll(lambda: min(refusals()) >= _REFUSALS, _SHOWN_S)
    shown = round(time.monotonic() - began, 1)
    connects = [event for event in world.emu.events(since) if event["type"] == "connect"]
    if not enough and not connects:
        raise StepFailed(
            f"not every device has refused {_REFUSALS} times in {shown} s: {refusals()}"
        )
    found = {"connects": len(connects), "refusals": sum(refusals()), "shown_s": shown}
    world.emu.switch_chain(world.new.leaf, drop=True)
    return found


def rotate_keys(stage: Stage) -> Outcome:
    """Step 10: new bundle keys in mid-fleet; the old ones are worth nothing afterwards."""
    world = stage.world
    roots = [world.new_root, *world.azure]
    world.rotate_bundle_keys()
    floor: dict[str, Any] = {"distrust": [world.old.root.sha256]}
    package = world.package(7, roots, **floor)
    _deliver(stage, 7, package)
    stage.cut_power(stage.followers[-1])
    for device in stage.all:
        trust = stage.wait_version(device, 7)
        if trust["key_version"] != 2:
            raise StepFailed(f"{device.name} reports key version {trust['key_version']}")
    revoked = world.revoked_package(8, roots)
    codes = set()
    for device in stage.followers:
        before = stage.trust(device)
        status, answer = world.call(device, "trust.install", json.loads(revoked))
        codes.add(answer["code"] if status == 400 else stage.wait_refused(device, before))
    return (
        f"bundle keys rotated: key-set 2 and bundle 7 accepted by all; a package signed with the "
        f"revoked keys: {', '.join(sorted(codes))}",
        {"held": codes <= set(_SIGNATURE_CODES), "codes": sorted(codes)},
    )


def revert_a_wrong_bundle(stage: Stage) -> Outcome:
    """Step 11: a correctly signed bundle whose roots do not match the hub."""
    world = stage.world
    package = world.package(8, world.azure, min_version=1)
    for device in stage.followers:
        world.publish(device, 8, package, "bundle-8.json")
    for device in stage.followers:
        stage.wait_trust(device, lambda trust: trust.get("state") == "reverted", 120)
        trust = stage.trust(device)
        if trust["version"] != 7 or trust["last_error"]["version"] != 8:
            raise StepFailed(f"{device.name} reports {trust}")
    return "bundle 8 (roots that do not match the hub) tried, given up, bundle 7 in use again", {}
