"""The emulated board, where `make board` has built it; elsewhere the tests say what to type."""

from __future__ import annotations

import shutil

import pytest
from support.checkout import ROOT
from taproot.emulated_board import firmware
from taproot.emulated_board.machine import EMULATOR

from tools.setup.board import is_fresh


@pytest.fixture(autouse=True)
def board(record_property):
    """End a test that cannot run here, or would run firmware of other sources; one line for all."""
    why = None
    if shutil.which(EMULATOR) is None or not firmware().is_file():
        why = "emulated board: run make board"
    elif not is_fresh(ROOT):
        why = "emulated board: older than its sources, run make board"
    if why is not None:
        record_property("not_checked", why)
        pytest.skip(why)
