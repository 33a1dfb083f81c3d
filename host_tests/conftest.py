"""Fixtures for every test: counts short and long, interpreters, and what was not checked.

`--long` turns the short form into the full one: the same test code with a bigger count.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from taproot import interpreters
from taproot.console import UsageFailed

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parent))

from support import summary  # noqa: E402

_STARTED = time.monotonic()
_counted: list[object] = []  # what `count` picked since the last report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="full counts: soaks, fuzz, power cuts")
    parser.addoption("--summary", metavar="FILE", help="write a summary of the run (Markdown)")


def pytest_configure(config: pytest.Config) -> None:
    # The judges that set-up extracted (mosquitto, …) are found like the machine's own.
    programs = str(interpreters.build_folder() / "bin")
    if programs not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join((programs, os.environ.get("PATH", "")))
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
    """`count(short, long)` picks how many times the same code runs; the summary lists it."""

    def pick(short, long):
        _counted.append(long if long_run else short)
        return _counted[-1]

    return pick


@pytest.fixture
def not_checked(record_property, request):
    """`not_checked("why")` ends a test that cannot run on this machine, and says so at the end;
    with `folder=True` once for all the tests that say the same."""

    def end(why: str, folder: bool = False) -> None:
        record_property("not_checked", why if folder else f"{request.node.nodeid}: {why}")
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Note a test's counts; one whose interpreter set-up could not have says "not checked"."""
    report = yield
    report.user_properties += [("count", value) for value in _counted]
    _counted.clear()
    if call.excinfo is not None and call.excinfo.errisinstance(UsageFailed):
        for name, why in _not_here().items():
            if f"'{name}'" in str(call.excinfo.value):
                report.outcome = "skipped"
                report.longrepr = (str(item.path), 0, f"Skipped: {why}")
                report.user_properties.append(("not_checked", f"{item.nodeid}: {why}"))
    return report


def _not_here() -> dict[str, str]:
    """What set-up could not have on this machine, and why."""
    path = interpreters.build_folder() / "not_here.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Print time per test folder and, last, the promises not checked on this machine."""
    folders, unchecked = summary.collect(terminalreporter.stats, config.getoption("--long"))
    terminalreporter.section("time per test folder (CPU cores shared)")
    for name, seconds, tests in folders:
        terminalreporter.line(f"{seconds:8.1f} s  {tests:5d} tests  {name}")
    terminalreporter.section("promises not checked on this machine")
    for line in unchecked:
        terminalreporter.line(line)
    if config.getoption("--summary"):
        path = ROOT / config.getoption("--summary")
        took = time.monotonic() - _STARTED
        summary.write(path, terminalreporter.stats, folders, unchecked, took)
        terminalreporter.line(f"summary: {path.relative_to(ROOT)}")


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
