"""Bringing a package to devices: one device, then percentage stages, stop on failure.

Responsible for: choosing who is next, setting desired properties (or calling the method), waiting
for what devices report, stopping and taking the offer back where something fails.
Not for: whether the bundle may be published at all (guards.py).

A device has succeeded when it reports this version (and key-set) as good; it has failed when its
last error names this version, unless it is one that the device retries by itself. Devices that
are not connected keep the offer in their twin and take it at their next connect: they neither
hold a stage up nor fail it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from taproot.console import UsageFailed
from taproot.trust.package import desired_twin, desired_url
from taproot.trust.status import device_of, printable, unix

METHOD = "trust.install"
CHANNELS = ("url", "twin", "method")
MAX_METHOD = 128_000
RETRIED = ("DOWNLOAD",)  # the device tries again by itself
_WITHDRAWN: dict[str, Any] = {"trust": None}


class Hub(Protocol):
    """What a rollout needs of the service side."""

    def twin(self, device: str) -> dict[str, Any]: ...
    def twins(self, devices: Sequence[str]) -> dict[str, dict[str, Any]]: ...
    def patch_desired(self, device: str, desired: dict[str, Any]) -> dict[str, Any]: ...
    def invoke(
        self, device: str, method: str, payload: Any, timeout: int = 60
    ) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Offer:
    """What devices are offered."""

    version: int
    key_version: int
    package: bytes
    channel: str
    url: str | None = None

    def desired(self) -> dict[str, Any]:
        """Return the desired `trust` object."""
        if self.channel == "twin":
            return desired_twin(self.version, self.package)
        if self.url is None:
            raise UsageFailed("--channel url needs --url: where devices find the package")
        return desired_url(self.version, self.package, self.url)

    def check(self) -> None:
        """Refuse an offer that the channel cannot carry."""
        if self.channel == "method":
            if len(self.package) > MAX_METHOD:
                raise UsageFailed(f"a direct method carries at most {MAX_METHOD} B")
        else:
            self.desired()

    def patch(self, present: dict[str, Any] | None) -> dict[str, Any]:
        """Return the merge patch that leaves exactly the offer (a probe beside it stays)."""
        wanted = self.desired()
        gone = {
            name: None
            for name in present or {}
            if name not in wanted and name != "probe" and not name.startswith("$")
        }
        return {"trust": {**wanted, **gone}}


@dataclass
class Stage:
    """How one stage went."""

    name: str
    devices: list[str]
    good: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    offline: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the stage for `--json` and the ledger."""
        return dict(self.__dict__)


def order(devices: Sequence[str], package_sha256: str) -> list[str]:
    """Return devices in an order fixed for this package and different for the next."""
    return sorted(devices, key=lambda d: hashlib.sha256(f"{package_sha256}/{d}".encode()).digest())


def stages(devices: Sequence[str], percents: Sequence[int], first: str | None) -> list[list[str]]:
    """Cut an ordered list into stages: the first device alone, then up to each percentage."""
    if list(percents) != sorted(set(percents)) or not all(1 <= p <= 100 for p in percents):
        raise UsageFailed("--stages: rising percentages up to 100, such as 5,25,100")
    listed = list(devices)
    found: list[list[str]] = []
    if first is not None:
        if first not in listed:
            raise UsageFailed(f"device {first!r} is not among the {len(listed)} selected")
        listed.remove(first)
        found.append([first])
    taken = 0
    for percent in percents:
        upto = -(-len(listed) * percent // 100)
        if upto > taken:
            found.append(listed[taken:upto])
            taken = upto
    return found


def outcome(twin: dict[str, Any], offer: Offer) -> tuple[str, str]:
    """Return `good`, `failed` or `waiting`, with a reason, for what a device reports."""
    trust = device_of(twin)["trust"] or {}
    error = trust.get("last_error") or {}
    version, state = trust.get("version"), trust.get("state")
    if state == "unmanaged":
        return "failed", "unmanaged: no package is accepted"
    if isinstance(version, int) and version >= offer.version and state == "good":
        if int(trust.get("key_version") or 0) >= offer.key_version:
            return "good", ""
    if error.get("version") == offer.version:
        said = f"{error.get('code')}: {error.get('text')}"
        return ("waiting" if error.get("code") in RETRIED else "failed"), said
    return "waiting", f"reports version {version}, state {state}"


@dataclass
class Rollout:
    """One run over the stages."""

    hub: Hub
    offer: Offer
    stage_timeout: float = 900
    poll: float = 5
    max_failures: int = 0
    offline_grace: float = 120
    say: Callable[[str], None] = lambda text: None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    done: list[Stage] = field(default_factory=list)

    def run(self, plan: Sequence[tuple[str, list[str]]]) -> list[Stage]:
        """Go through the stages; stop where more devices fail than may.

        `done` holds what was reached, also when this ends by an exception.
        """
        for name, devices in plan:
            stage = Stage(name, list(devices))
            self.done.append(stage)
            self.say(f"{name}: {len(devices)} devices")
            self._offer(stage)
            self._wait(stage)
            failures = sum(len(s.failed) for s in self.done)
            if failures > self.max_failures:
                self._withdraw(stage)
                self.say(f"stopped: {failures} devices failed")
                break
        return self.done

    def _offer(self, stage: Stage) -> None:
        for device in stage.devices:
            twin = self.hub.twin(device)
            result, reason = outcome(twin, self.offer)
            if result == "good":
                stage.good.append(device)
            elif self.offer.channel == "method":
                self._call(stage, device, twin)
            elif "unmanaged" in reason:
                stage.failed[device] = reason
            else:
                present = ((twin.get("properties") or {}).get("desired") or {}).get("trust")
                self.hub.patch_desired(device, self.offer.patch(present))

    def _call(self, stage: Stage, device: str, twin: dict[str, Any]) -> None:
        if twin.get("connectionState") != "Connected":
            stage.offline.append(device)
            return
        answer = self.hub.invoke(device, METHOD, json.loads(self.offer.package))
        if int(answer.get("status", 0)) >= 300:
            stage.failed[device] = printable(
                f"method answered {answer.get('status')}: {answer.get('payload')}"
            )

    def _wait(self, stage: Stage) -> None:
        end = self.clock() + self.stage_timeout
        patience = self.clock() + min(self.offline_grace, self.stage_timeout)
        while True:
            reasons: dict[str, str] = {}
            stage.offline = []
            open_ones = [d for d in stage.devices if d not in stage.good and d not in stage.failed]
            for device, twin in self.hub.twins(open_ones).items():
                result, reason = outcome(twin, self.offer)
                if result == "good":
                    stage.good.append(device)
                elif result == "failed" and not self._stale(twin):
                    stage.failed[device] = reason
                elif twin.get("connectionState") != "Connected":
                    stage.offline.append(device)
                else:
                    reasons[device] = reason
            if sum(map(len, (stage.good, stage.failed, stage.offline))) == len(stage.devices):
                # A device that reconnects on trial is away for a moment: do not give it up yet.
                if not stage.offline or self.clock() >= patience:
                    return
            if self.clock() >= end:
                for device, reason in reasons.items():
                    stage.failed[device] = f"no result in {self.stage_timeout:.0f} s: {reason}"
                return
            if len(stage.failed) > self.max_failures and not reasons:
                return
            self.sleep(min(self.poll, max(0.0, end - self.clock())))

    def _stale(self, twin: dict[str, Any]) -> bool:
        """Tell whether an error was reported before the offer was made."""
        properties = twin.get("properties") or {}
        offered = (properties.get("desired") or {}).get("$metadata", {}).get("trust", {})
        said = (properties.get("reported") or {}).get("$metadata", {}).get("trust", {})
        made, heard = unix(offered.get("$lastUpdated")), unix(said.get("$lastUpdated"))
        return bool(made and heard and heard < made)

    def _withdraw(self, stage: Stage) -> None:
        """Take the offer back from devices of this stage that have not taken it."""
        if self.offer.channel == "method":
            return
        for device in stage.devices:
            if device not in stage.good:
                self.hub.patch_desired(device, _WITHDRAWN)
                stage.withdrawn.append(device)
