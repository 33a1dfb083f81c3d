"""Where the official SDK is."""

from __future__ import annotations

from pathlib import Path

import pytest
from sdk_support import SDK


@pytest.fixture(scope="session")
def sdk_python() -> Path:
    """The interpreter of the venv with the official SDK; `make setup` makes it."""
    if not SDK.exists():
        pytest.fail("the official SDK is not installed: run  make setup")
    return SDK
