"""Fixtures for every test: counts short and long, interpreters, and what was not checked.

`--long` turns the short form into the full one: the same test code with a bigger count.
"""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

import taproot.device_modules  # noqa: F401  (puts micropython.const within reach)
from taproot import interpreters
from taproot.console import UsageFailed

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parent))

_UNCHECKED = pytest.StashKey[list]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="full counts: soaks, fuzz, all power cuts")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: runs only with --long")
    config.addinivalue_line("markers", "requirement(*ids): what this test proves")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    dropped = [item for item in items if item.get_closest_marker("long")]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


@pytest.fixture(scope="session")
def long_run(request: pytest.FixtureRequest) -> bool:
    """True when full counts were asked for."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def count(long_run: bool):
    """`count(short, long)` picks how many times the same code runs."""
    return lambda short, long: long if long_run else short


@pytest.fixture
def not_checked(record_property, request):
    """`not_checked("why")` ends a test that cannot run on this machine, and says so at the end."""

    def end(why: str) -> None:
        record_property("not_checked", f"{request.node.nodeid}: {why}")
        pytest.skip(why)

    return end


@pytest.fixture(params=["unix64"])
def build(request: pytest.FixtureRequest) -> str:
    """The interpreter a test runs on; override with indirect parameters."""
    return request.param


@pytest.fixture(scope="session")
def firmware() -> Path:
    """The folder with the device package."""
    return ROOT / "firmware"


def pytest_sessionstart(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return
    try:
        interpreters.path("unix64")
    except UsageFailed as error:
        pytest.exit(error.message, returncode=2)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Print time per test folder and, last, the promises not checked on this machine."""
    seconds: dict[str, float] = defaultdict(float)
    tests: dict[str, int] = defaultdict(int)
    unchecked: list[str] = []
    for reports in terminalreporter.stats.values():
        for report in reports:
            if not hasattr(report, "nodeid") or not hasattr(report, "duration"):
                continue
            folder = report.nodeid.split("/")[1] if report.nodeid.count("/") > 1 else "."
            seconds[folder] += report.duration
            tests[folder] += report.when == "call"
            unchecked += [value for name, value in report.user_properties if name == "not_checked"]
    terminalreporter.section("time per test folder (CPU cores shared)")
    for folder in sorted(seconds, key=seconds.get, reverse=True):  # type: ignore[arg-type]
        terminalreporter.line(f"{seconds[folder]:8.1f} s  {tests[folder]:5d} tests  {folder}")
    terminalreporter.section("promises not checked on this machine")
    if not config.getoption("--long"):
        terminalreporter.line("full counts of soaks, fuzz, mutants and power cuts: make test-long")
    for line in sorted(set(unchecked)):
        terminalreporter.line(line)
    for line in ("a physical ESP32", "an ESP-IDF image", "a real IoT Hub or DPS"):
        terminalreporter.line(f"{line}: not yet")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BUILD", "MICROPYPATH"):
        if name in os.environ:
            monkeypatch.delenv(name)


@pytest.fixture
def deadline():
    """`deadline(seconds)` is a callable that is True until the time is over."""

    def start(seconds: float):
        end = time.monotonic() + seconds
        return lambda: time.monotonic() < end

    return start
