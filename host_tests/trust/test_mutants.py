"""Mutants of the trust modules meet the suite (R-46)."""

from __future__ import annotations

import mutants
import pytest

SHARE = 0.03


@pytest.mark.requirement("R-46")
def test_mutants_of_the_signature_check_die(catalogue, count):
    """Each change of rsa.py that could let a wrong key or signature through is noticed."""
    chosen = [m for m in mutants.everything() if m.module == "rsa"][:: count(5, 1)]
    alive = mutants.run(catalogue.folder, chosen)
    assert chosen and [m.name for m in alive] == []


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.requirement("R-46")
def test_mutants_die(catalogue, record_property):
    """All of them: at most 3 % survive without a reason in mutants.toml."""
    found = mutants.everything()
    alive = mutants.run(catalogue.folder, found, workers=2)
    reasons = mutants.reasons()
    unexplained = [mutant.name for mutant in alive if mutant.name not in reasons]
    text = f"{len(found)} mutants, {len(found) - len(alive)} killed, {len(alive)} survive, {len(unexplained)} of them without a reason"
    print(text, *unexplained, sep="\n")
    record_property("mutants", text)
    assert len(unexplained) <= SHARE * len(found)


def test_every_reason_belongs_to_a_mutant():
    names = {mutant.name for mutant in mutants.everything()}
    assert [name for name in mutants.reasons() if name not in names] == []
