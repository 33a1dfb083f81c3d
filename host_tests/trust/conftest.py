"""The catalogue of packages, made once per session, and MicroPython runs over it."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
from pathlib import Path

import pytest
from support import trust_cases
from taproot import interpreters

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory) -> trust_cases.Catalogue:
    """The catalogue; `.folder` holds its files. Parallel workers make it once and share it.

    TAPROOT_CATALOGUE names the folder of one that another session has made.
    """
    made_before = os.environ.get("TAPROOT_CATALOGUE")
    if made_before:
        return pickle.loads(Path(f"{made_before}.pickle").read_bytes())
    shared = tmp_path_factory.getbasetemp().parent / "trust-catalogue"
    with open(f"{shared}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        saved = Path(f"{shared}.pickle")
        if saved.exists() and "PYTEST_XDIST_WORKER" in os.environ:
            return pickle.loads(saved.read_bytes())
        folder = tmp_path_factory.mktemp("catalogue")
        made = trust_cases.build(folder)
        made.folder = folder
        listing = pickle.dumps(trust_cases.Listing(made))
        saved.write_bytes(listing)
        Path(f"{folder}.pickle").write_bytes(listing)
        return made


@pytest.fixture(scope="session")
def firmware() -> Path:
    """The device package, or the altered copy that TAPROOT_FIRMWARE names."""
    return Path(os.environ.get("TAPROOT_FIRMWARE", HERE.parents[1] / "firmware"))


@pytest.fixture(scope="session")
def answers(catalogue, tmp_path_factory, firmware):
    """`answers(script, build, *args)`: the `[name, answer]` lines a script prints, as a dict."""

    def run(script: str, build: str, *args: str, heap: str = "2m") -> dict:
        folder = tmp_path_factory.mktemp("device")
        result = interpreters.run(
            build,
            HERE / script,
            *args,
            heap=heap,
            timeout=300,
            cwd=folder,
            env={"MICROPYPATH": f"{HERE}:{firmware}:.frozen"},
        )
        assert result.returncode == 0, result.text
        lines = [line for line in result.stdout.splitlines() if line.startswith("[")]
        found = dict(json.loads(line) for line in lines)
        assert len(found) == len(lines), "a name twice"
        return found

    return run


@pytest.fixture
def inside(tmp_path):
    """Run a test inside a folder of its own."""
    before = os.getcwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)
