"""Fixtures: a fresh checkout, and one that has the downloads of this one already."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.checkout import ROOT, Checkout, copy_of_checkout


@pytest.fixture
def checkout() -> Iterator[Checkout]:
    """A fresh checkout; its path is short, and free of the test's name."""
    folder = Path(tempfile.mkdtemp(prefix="taproot-"))
    try:
        yield copy_of_checkout(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def downloaded(checkout: Checkout, not_checked) -> Checkout:
    """A checkout that has the downloads already, so that it needs no network."""
    downloads = ROOT / ".build" / "downloads"
    if not (downloads / "SHA256.json").is_file():
        not_checked("set-up from Debian's sources: this machine builds from MICROPYTHON_DIR")
    target = checkout.build / "downloads"
    target.mkdir(parents=True)
    for path in downloads.iterdir():
        try:
            os.link(path, target / path.name)
        except OSError:
            shutil.copy2(path, target / path.name)
    return checkout
