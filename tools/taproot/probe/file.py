"""The file that `taproot probe --out` writes, read by whoever decides something with it.

Responsible for: its facts about each server in the words of the readers (`trust build`, `trust
publish`, `device info`, the planner of TLS connections). Not for: asking servers (questions.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taproot.console import UsageFailed

if TYPE_CHECKING:
    from azure_iot.tls.profile import TLSProfile


@dataclass(frozen=True)
class Server:
    """What a probe saw of one server."""

    target: str
    name: str  # the name that devices verify
    roots: dict[str, tuple[str, ...]]  # SHA-256 of the roots that carry each chain: rsa, ecdsa
    certificate: int  # bytes of its largest Certificate message
    acknowledged: int | bool  # smallest fragment length it agreed to, False if none
    picky: bool  # there are others it did not agree to

    def teach(self, profile: TLSProfile) -> None:
        """Let plans of `profile` start from what is known of this server."""
        profile.learn(self.name, acknowledged=self.acknowledged, certificate=self.certificate)
        if self.picky:
            profile.learn(self.name, acknowledged=False)


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
        found = [_server(target) for target in body["targets"] if target["tls"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageFailed(f"{path} lacks what a probe writes: {error!r}") from None
    if not found:
        raise UsageFailed(f"{path}: no server in it answered with TLS")
    return found


def _server(target: dict[str, Any]) -> Server:
    chains = {kind: chain for kind, chain in target["chains"].items() if chain}
    lengths = [int(size) for size, answer in target["mfl"].items() if answer["echoed"]]
    return Server(
        target["target"],
        target["name"],
        {
            kind: tuple(root["sha256"] for root in chain.get("roots", ()))
            for kind, chain in chains.items()
        },
        max((int(chain["certificate_message"]) for chain in chains.values()), default=0),
        min(lengths, default=False),
        0 < len(lengths) < len(target["mfl"]),
    )
