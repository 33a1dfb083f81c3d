"""What a probe found of a server, in the words of those who decide something with it.

Responsible for: reading the file that `taproot probe --out` writes, and its facts for `trust build`,
`trust publish`, `device info` and the planner of TLS connections: which roots, which fragment
lengths a plan may count on, how a build would connect. Not for: asking servers (questions.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taproot.console import UsageFailed

if TYPE_CHECKING:
    from azure_iot.tls.profile import Build, TLSProfile

SIZES = (512, 1024, 2048, 4096)  # fragment lengths of RFC 6066
_DPS = ".azure-devices-provisioning."


@dataclass(frozen=True)
class Server:
    """What a probe saw of one server."""

    target: str
    name: str  # the name that devices verify
    versions: dict[str, bool | None]  # TLS versions: accepted, None when nothing was answered
    roots: dict[str, tuple[str, ...]]  # SHA-256 of the roots that carry each chain: rsa, ecdsa
    largest: int  # bytes of its largest handshake message or record: what IN must hold
    lengths: tuple[int, ...] | None  # fragment lengths to plan with, None when nobody asked
    broken: tuple[int, ...]  # acknowledged, and longer records came all the same

    def teach(self, profile: TLSProfile) -> None:
        """Let plans of `profile` start from what is known of this server."""
        profile.learn(self.name, certificate=self.largest)
        if self.lengths is None:
            return
        limit = min(profile.build.in_len, profile.build.out_len)
        possible = [size for size in SIZES if size <= limit]
        agreed = [size for size in possible if size in self.lengths]
        for size in reversed(agreed):
            profile.learn(self.name, acknowledged=size)
        if agreed != possible:  # the others are not to be tried
            profile.learn(self.name, acknowledged=False)

    def plan(self, build: Build, name: str = "default") -> tuple[bool, str]:
        """How a build would connect, or why it cannot; `name` of the profile."""
        from azure_iot.errors import AzureIoTError
        from azure_iot.tls.profile import TLSProfile

        offers = ["TLSv1.2"] + (["TLSv1.3"] if build.tls13 or not build.module else [])
        if not any(self.versions.get(version) is not False for version in offers):
            return False, f"{speaks(self.versions)}, this build offers {' and '.join(offers)}"
        mode = "dps" if _DPS in self.name.lower() else "hub"
        profile = TLSProfile(name, build=build, mode=mode)
        self.teach(profile)
        try:
            why = profile.plan(self.name, roots=1).why
        except AzureIoTError as error:
            return False, str(error)
        if self.broken and build.mfl:
            why += f"; it acknowledges {_listed(self.broken)} and sends longer records"
        return True, why


def speaks(versions: dict[str, bool | None]) -> str:
    """Which versions a server accepts, in words."""
    found = [version for version, accepted in versions.items() if accepted]
    return f"the server speaks only {_listed(found)}" if found else "the server accepts no version"


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in values)


def usable(mfl: dict[str, Any]) -> tuple[int, ...]:
    """Fragment lengths that were obeyed: one that was not put to the test counts if none broke."""
    broken = breaking(mfl)
    return tuple(
        int(size)
        for size, answer in mfl.items()
        if answer["echoed"] and answer["obeyed"] and (answer.get("tested", True) or not broken)
    )


def breaking(mfl: dict[str, Any]) -> tuple[int, ...]:
    """Fragment lengths that were acknowledged and not obeyed."""
    return tuple(int(s) for s, answer in mfl.items() if answer["echoed"] and not answer["obeyed"])


def load(path: Path) -> list[Server]:
    """Read a probe's file. Raises UsageFailed for anything else."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageFailed(f"cannot read {path}: {error}") from None
    if not isinstance(body, dict) or (body.get("tool"), body.get("schema")) != (
        "taproot probe",
        1,
    ):
        raise UsageFailed(f"{path} is no file of 'taproot probe --out'")
    try:
        found = [server(target) for target in body["targets"] if target["tls"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageFailed(f"{path} lacks what a probe writes: {error!r}") from None
    if not found:
        raise UsageFailed(f"{path}: no server in it answered with TLS")
    return found


def server(answers: dict[str, Any]) -> Server:
    """The facts behind one target's answers."""
    chains = {kind: chain for kind, chain in answers["chains"].items() if chain}
    sizes = [int(chain["certificate_message"]) for chain in chains.values()]
    held = answers["input_buffer"] or {}
    sizes += [held.get("largest_message", 0), held.get("largest_record", 0)]
    mfl = answers["mfl"]
    return Server(
        answers["target"],
        answers["name"],
        answers["versions"],
        {
            kind: tuple(root["sha256"] for root in chain.get("roots", ()))
            for kind, chain in chains.items()
        },
        max(sizes),
        usable(mfl) if mfl else None,
        breaking(mfl),
    )
