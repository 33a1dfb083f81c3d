"""pytest fixtures for people who test their own device code against the local hub.

Loaded by pytest itself once the `taproot` package is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def micropython_path() -> Callable[[str], Path]:
    """`micropython_path("unix64")`: the interpreter of that build."""
    from taproot import interpreters

    return interpreters.path
