"""Power cuts of the emulated board while it installs: the emulator is killed at random moments."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import trust_maker
from support.board_flash import files, image
from support.surface import outputs
from taproot.emulated_board import EmulatedBoard

PROGRAM = Path(__file__).with_name("installs.py")
LAST = 9


@pytest.fixture(scope="module")
def factory_flash() -> bytes:
    """A board as it left the factory, with packages 2 to LAST beside it."""
    fleet = trust_maker.Fleet()
    found = {
        "main.py": PROGRAM.read_bytes(),
        "factory/keyset.jws": trust_maker.compact(fleet.keyset),
        "factory/bundle.jws": trust_maker.compact(fleet.factory_bundle),
        "factory/build_date": str(trust_maker.ISSUED).encode(),
    }
    for version in range(2, LAST + 1):
        found[f"packages/{version}"] = fleet.package(version)
    return image(found)


@dataclass
class Life:
    """What a board said, how long, and what the cut left: flash, operations begun and ended."""

    said: list[list]
    seconds: float
    flash: bytes
    begun: int
    ended: int


def live(flash: bytes, cut_after: float) -> Life:
    """One life of the board, cut so long after its program began (or when it ends)."""
    with EmulatedBoard(flash, limit=60) as board:
        board.wait_for('"boot"', 20)
        begun = time.monotonic()
        timer = threading.Timer(cut_after, board.kill)
        timer.start()
        failed = False
        for line in board.lines(40):
            failed = failed or "Traceback" in line
            if '"end"' in line or failed and "Error" in line:  # its last line
                break
        timer.cancel()
        took = time.monotonic() - begun
        board.kill()
        whole = [line for line in board.text.splitlines() if line.endswith("]")]
        assert "Traceback" not in board.text, board.text
        return Life(outputs(whole), took, board.flash(), *board.operations())


@pytest.mark.timeout(600)
@pytest.mark.requirement("R-32", "R-33", "R-36")
def test_a_cut_leaves_the_old_the_trial_or_the_new_state(factory_flash, count, record_property):
    pick = random.Random(20261128)
    cuts, inside = count(12, 300), count(4, 100)
    uncut = live(factory_flash, 30)
    assert uncut.said[-1][0] == "end" and uncut.said[-2][:2] == ["confirmed", LAST]
    found: Counter[str] = Counter()
    flash, said = factory_flash, [["end", 0]]
    for _ in range(10 * cuts):
        life = live(flash, pick.random() * uncut.seconds / 3)
        _, good, trial, floor, error, _ = life.said[0]
        last = said[-1]
        state = _judge(last, good, trial)
        assert state is not None and error == "None", (said, life.said, sorted(files(flash)))
        assert floor <= good
        if last[0] != "end":
            found[f"found {state}"] += 1
        if found["cuts"] >= cuts and found["inside a change of the store"] >= inside:
            break
        # What this cut left is judged by the next start, and here by another littlefs.
        flash, said = life.flash, life.said
        last = said[-1]
        assert "/main.py" in files(flash)
        if last[0] == "end":
            flash = factory_flash
            continue
        found["cuts"] += 1
        found["inside a change of the store"] += life.begun > last[-1]
        found["inside one flash operation"] += life.begun != life.ended
    text = ", ".join(f"{name} {n}" for name, n in found.items())
    print(text)
    record_property("power_cut", text)
    assert found["cuts"] >= cuts and found["inside a change of the store"] >= inside, text


def _judge(last: list, good: int, trial: int | None) -> str | None:
    """Name the state that a start found; None for one that must not be, after this last word."""
    name, version = last[0], last[-2]
    if name == "end":
        allowed = {"old": (1, None)}
    elif name == "boot":
        allowed = {"old": (last[1], last[2])}
    elif name == "install":
        allowed = {"old": (version - 1, None), "trial": (version - 1, version)}
    elif name == "staged":
        allowed = {"old": (version - 1, version), "new": (version, None)}
        allowed["given up"] = (version - 1, None)  # after a cut in each try of the trial
    else:
        allowed = {"old": (version, None)}
    return next((state for state, facts in allowed.items() if facts == (good, trial)), None)
