"""Mutants of the trust modules meet the suite (R-46)."""

from __future__ import annotations

import json

import altered
import mutants
import pytest

SHARE = 0.03


@pytest.mark.timeout(1200)
@pytest.mark.requirement("R-46")
def test_mutants_die(catalogue, count, record_property):
    """At most 3 % survive, each with its reason in mutants.toml. The short form takes every 40th."""
    step, workers = count((40, 1), (1, 2))
    *lines, total = altered.run(
        "mutants.py",
        "run",
        str(catalogue.folder),
        *("--step", str(step), "--workers", str(workers)),
        timeout=1100,
    )
    alive = [name for name, noticed in map(json.loads, lines) if noticed is None]
    print(total, *alive, sep="\n")
    record_property("mutants", total)
    assert len(lines) == len(mutants.everything()[::step]) > 10
    assert [name for name in alive if name not in mutants.reasons()] == []
    assert len(mutants.reasons()) <= SHARE * len(mutants.everything())


def test_every_reason_belongs_to_a_mutant():
    names = {mutant.name for mutant in mutants.everything()}
    assert [name for name in mutants.reasons() if name not in names] == []
