"""Counting messages: what a device accepted, what the hub recorded, what is lost or double.

Lost is what `send_message` accepted and the hub never recorded. Recorded more than once is
what MQTT allows at QoS 1, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Account:
    """Figures of one device."""

    accepted: int
    offline: int
    recorded: int
    lost: tuple[int, ...]
    duplicated: int
    unordered: int

    @property
    def text(self) -> str:
        """One line for the report."""
        return (
            f"{self.accepted} accepted ({self.offline} without a connection), "
            f"{self.recorded} recorded, {len(self.lost)} lost, {self.duplicated} duplicated"
        )

    def as_dict(self) -> dict[str, object]:
        """Members of the JSON report."""
        return {
            "accepted": self.accepted,
            "offline": self.offline,
            "recorded": self.recorded,
            "lost": len(self.lost),
            "lost_numbers": list(self.lost[:20]),
            "duplicated": self.duplicated,
            "unordered": self.unordered,
        }


def count(accepted: dict[int, bool], recorded: Iterable[int]) -> Account:
    """Compare the numbers accepted (number → was there a connection) with those recorded in order.

    `unordered` counts messages whose *first* recording came after that of a later number.
    """
    order = list(recorded)
    times = Counter(order)
    highest, unordered = -1, 0
    for number in dict.fromkeys(order):
        unordered += number < highest
        highest = max(highest, number)
    return Account(
        accepted=len(accepted),
        offline=sum(not connected for connected in accepted.values()),
        recorded=len(times),
        lost=tuple(sorted(number for number in accepted if number not in times)),
        duplicated=sum(times.values()) - len(times),
        unordered=unordered,
    )
