"""The story of a root migration: which step comes when, each one checked.

Devices A and B follow the operator's bundles, device C has its update agent off. Numbered QoS 1
telemetry flows all the time; at the end every accepted message must be at the hub.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from taproot.console import Report
from taproot.drill import hostile, migration
from taproot.drill.device import StepFailed
from taproot.drill.stage import Outcome, Stage
from taproot.drill.world import Options, World

STEPS: tuple[tuple[str, Callable[[Stage], Outcome]], ...] = (
    ("1", migration.make_chains),
    ("2", migration.make_bundles),
    ("3", migration.connect),
    ("3b", migration.roll_under_the_same_root),
    ("4", hostile.refuse_bad_packages),
    ("5", migration.follow_the_operator),
    ("5b", migration.probe_the_new_chain),
    ("5c", hostile.refuse_replay),
    ("6", migration.switch_the_root),
    ("6b", migration.recover_the_control),
    ("7", hostile.retire_the_old_root),
    ("8", hostile.hub_goes_back),
    ("9", hostile.distrust_under_attack),
    ("10", hostile.rotate_keys),
    ("11", hostile.revert_a_wrong_bundle),
    ("12", migration.settle),
)


def rehearse(options: Options, report: Report, world_class: type[World] = World) -> None:
    """Run the whole story; the report holds one entry per step and the figures."""
    report.say("Root migration drill: nothing leaves this machine.")
    with world_class(options) as world:
        stage = Stage(world, report)
        for number, step in STEPS:
            began = time.monotonic()
            try:
                text, facts = step(stage)
            except (StepFailed, TimeoutError) as failure:
                report.step(number, False, str(failure) or "timed out")
                return
            facts["seconds"] = round(time.monotonic() - began, 2)
            if not report.step(number, facts.pop("held", True), text, **facts):
                return
        report.facts["total_seconds"] = round(time.monotonic() - world.started, 1)
