"""The emulated board, where `make board` has built it; elsewhere the tests say what to type."""

from __future__ import annotations

import shutil

import pytest
from support.checkout import ROOT
from taproot.emulated_board import firmware
from taproot.emulated_board.machine import EMULATOR

from tools.setup.board import is_fresh


@pytest.fixture(autouse=True)
def board(not_checked):
    """End a test that cannot run here, or would run firmware of other sources."""
    if shutil.which(EMULATOR) is None or not firmware().is_file():
        not_checked("emulated board: run make board", folder=True)
    elif not is_fresh(ROOT):
        not_checked("emulated board: older than its sources, run make board", folder=True)
