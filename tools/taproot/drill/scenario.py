"""The story of a root migration, step by step, each step checked.

Device A follows the operator's bundles, device C has its update agent off. Numbered QoS 1
telemetry flows all the time; at the end every accepted message must be at the hub.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from taproot.console import Report
from taproot.drill.account import Account
from taproot.drill.device import Device, StepFailed
from taproot.drill.world import Options, World

_CONNECT_S = 30.0
_INSTALL_S = 60.0
_RECONNECT_S = 60.0
_BLACKOUT_S = 2.5
MESSAGES, OFFLINE = 200, 20


def rehearse(options: Options, report: Report) -> None:
    """Run the whole story; the report holds one entry per step and the figures."""
    report.say("Root migration drill: nothing leaves this machine.")
    with World(options) as world:
        story = Story(world, report)
        for number, step in story.steps():
            began = time.monotonic()
            try:
                text, facts = step()
            except StepFailed as failure:
                report.step(number, False, str(failure))
                return
            except TimeoutError as failure:
                report.step(number, False, f"timed out: {failure}")
                return
            facts["seconds"] = round(time.monotonic() - began, 2)
            if not report.step(number, facts.pop("held", True), text, **facts):
                return


Outcome = tuple[str, dict[str, Any]]


class Story:
    """The steps, in order, on one world."""

    def __init__(self, world: World, report: Report) -> None:
        self.world, self.report = world, report
        self.followers: list[Device] = []
        self.control: Device

    def steps(self) -> list[tuple[str, Callable[[], Outcome]]]:
        """Step numbers with what they do."""
        return [
            ("1", self.make_chains),
            ("2", self.make_bundles),
            ("3", self.connect),
            ("3b", self.roll_under_the_same_root),
            ("4", self.refuse_bad_packages),
            ("5", self.follow_the_operator),
            ("6", self.switch_the_root),
            ("7", self.settle),
        ]

    def make_chains(self) -> Outcome:
        return self.world.make_chains(), {}

    def make_bundles(self) -> Outcome:
        return self.world.make_bundles(), {}

    def connect(self) -> Outcome:
        text = self.world.start_hub()
        for index in range(self.world.options.devices):
            name = "device-a" if index == 0 else f"device-a{index + 1}"
            self.followers.append(self.world.add_device(name, update_agent=True))
        self.control = self.world.add_device("device-c", update_agent=False)
        for device in self.all:
            device.wait("connected", _CONNECT_S)
        for device in self.all:
            device.wait_accepted(10, _CONNECT_S)
            self._wait_reported(device, lambda trust: trust.get("version") == 1, _CONNECT_S)
        return f"{text}; {self._names(self.all)} connected with SAS, telemetry flows", {}

    def roll_under_the_same_root(self) -> Outcome:
        spent = []
        for roll in (self.world.old.roll_leaf, self.world.old.roll_intermediate):
            marks = {device.name: device.mark() for device in self.all}
            self.world.emu.switch_chain(roll(), drop=True)
            for device in self.all:
                event = device.wait("connected", _RECONNECT_S, since=marks[device.name])
                spent.append(event["outage_ms"])
        return (
            f"hub rolled its leaf, then its issuing CA: all back, "
            f"outages {min(spent)} to {max(spent)} ms",
            {"outages_ms": spent},
        )

    def refuse_bad_packages(self) -> Outcome:
        world = self.world
        roots = [world.old_root, world.new_root, *world.azure]
        bad = {
            "flipped": world.flipped(world.package(2, roots)),
            "one-signature": world.package(2, roots, signatures=1),
        }
        codes: dict[str, str] = {}
        for name, package in bad.items():
            for device in self.followers:
                before = self._trust(device)
                world.publish(device, 2, package, f"{name}.json")
                codes[name] = self._wait_refused(device, before)
                after = self._trust(device)
                changed = [key for key in before if before[key] != after[key] and key != "last_error"]
                if changed:
                    raise StepFailed(f"{device.name}: refusing {name} changed {changed}")
        held = codes["one-signature"] == "THRESHOLD" and codes["flipped"] in (
            "BAD_SIGNATURE",
            "THRESHOLD",
        )
        return (
            f"flipped byte refused ({codes['flipped']}), one signature of two refused "
            f"({codes['one-signature']}); nothing else changed",
            {"held": held, "codes": codes},
        )

    def follow_the_operator(self) -> Outcome:
        world = self.world
        package = world.package(2, [world.old_root, world.new_root, *world.azure])
        marks = {device.name: device.mark() for device in self.followers}
        for device in [*self.followers, self.control]:
            world.publish(device, 2, package, "bundle-2.json")
        for device in self.followers:
            device.wait(
                "trust", _INSTALL_S, lambda event: event["state"] == "trial", marks[device.name]
            )
            self._wait_reported(
                device,
                lambda trust: trust.get("version") == 2 and trust.get("state") == "good",
                _INSTALL_S,
            )
        if self._trust(self.control).get("version") != 1:
            raise StepFailed("device-c installed a bundle with its update agent off")
        return (
            f"bundle 2 ({len(package)} B, old and new root) published: {self._names(self.followers)} "
            "downloaded, verified, reconnected on trial and confirmed it",
            {"package_bytes": len(package)},
        )

    def switch_the_root(self) -> Outcome:
        world = self.world
        marks = {device.name: device.mark() for device in self.all}
        world.emu.fault({"action": "blackout", "seconds": _BLACKOUT_S})
        world.emu.switch_chain(world.new.leaf, drop=True)
        outages = {}
        for device in self.followers:
            event = device.wait("connected", _RECONNECT_S, since=marks[device.name])
            outages[device.name] = event["outage_ms"]
        refusal = self.control.wait(
            "refused",
            _RECONNECT_S,
            lambda event: "new root" in event["text"] or "new issuing CA" in event["text"],
            marks[self.control.name],
        )
        via = self._wait_reported(
            self.followers[0],
            lambda trust: trust.get("via") == world.new.root.sha256,
            _CONNECT_S,
        )
        return (
            f"hub now presents the new root: back in {outages}; "
            f'device-c refused it: "{refusal["text"]}"',
            {"outages_ms": outages, "refusal": refusal["text"], "via": via["via"]},
        )

    def settle(self) -> Outcome:
        for device in self.followers:
            device.wait_accepted(MESSAGES, 60)
            device.command("quiet")
            device.wait("quiet", 30)
        accounts = {device.name: self._settled(device) for device in self.followers}
        self.control.command("quiet")
        accounts[self.control.name] = self.control.account(self.world.recorded(self.control))
        held = True
        figures = {}
        for device in self.all:
            found = accounts[device.name]
            figures[device.name] = {**found.as_dict(), **self._figures(device)}
            self.report.say(f"       {device.name}: {found.text}")
            self.report.say(f"                 {self._heap_line(figures[device.name])}")
        for device in self.followers:
            found = accounts[device.name]
            held &= not found.lost and found.accepted >= MESSAGES and found.offline >= OFFLINE
            held &= not found.unordered
        shown = [name for d in self.all for name in d.secrets_shown(self.world.secrets)]
        lost = sum(len(accounts[device.name].lost) for device in self.followers)
        return (
            f"lost: {lost}; at least {MESSAGES} accepted each, {OFFLINE} of them offline; "
            "no secret was printed",
            {
                "held": bool(held and not shown),
                "lost": lost,
                "devices": figures,
                "total_seconds": round(time.monotonic() - self.world.started, 1),
            },
        )

    # Helpers

    @property
    def all(self) -> list[Device]:
        """Every device of the story."""
        return [*self.followers, self.control]

    @staticmethod
    def _names(devices: list[Device]) -> str:
        return ", ".join(device.name for device in devices)

    def _trust(self, device: Device) -> dict[str, Any]:
        return self.world.reported(device).get("trust", {})

    def _wait_reported(
        self, device: Device, wanted: Callable[[dict[str, Any]], bool], timeout: float
    ) -> dict[str, Any]:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            trust = self._trust(device)
            if trust and wanted(trust):
                return trust
            time.sleep(0.05)
        raise StepFailed(f"{device.name}: the twin reports {self._trust(device)} after {timeout:g} s")

    def _wait_refused(self, device: Device, before: dict[str, Any]) -> str:
        old = before.get("last_error")
        found = self._wait_reported(
            device, lambda trust: trust.get("last_error") not in (None, old), _INSTALL_S
        )
        return found["last_error"]["code"]

    def _settled(self, device: Device) -> Account:
        """Wait until the hub recorded all that was accepted, or as long as that may take."""
        end = time.monotonic() + 30
        while True:
            found = device.account(self.world.recorded(device))
            if not found.lost or time.monotonic() > end:
                return found
            time.sleep(0.1)

    def _figures(self, device: Device) -> dict[str, Any]:
        connects = self.world.connects(device)
        last = connects[-1] if connects else {}
        heap = device.last("heap") or {}
        return {
            "connections": len(connects),
            "tls": last.get("tls"),
            "suite": last.get("suite"),
            "mfl_asked": last.get("mfl_asked"),
            "heap": {key: value for key, value in heap.items() if key not in ("ev", "time", "boot")},
        }

    @staticmethod
    def _heap_line(figures: dict[str, Any]) -> str:
        heap = figures["heap"]
        return (
            f"{figures['connections']} connections, {figures['tls']} {figures['suite']}; heap "
            f"{heap.get('used', 0)} B in use, TLS peak {heap.get('tls_peak', 0)} B, "
            f"largest block {heap.get('largest', 0)} B"
        )
