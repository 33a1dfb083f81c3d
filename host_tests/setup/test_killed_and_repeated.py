"""`make setup` killed at any moment: the next run repairs it, and a third has nothing to do."""

from __future__ import annotations

import fcntl
import hashlib
import random
import subprocess
import time
from pathlib import Path

import pytest
from support.checkout import ROOT, Checkout

# What set-up prints when a step begins: unpacking sources, compiling, the stock interpreter.
MOMENTS = ("unpacking", "building", "extracting")
SHORT = "sources,mpy-cross,stock"
LONG = SHORT + ",unix64,unix32"


def digests(folder: Path) -> dict[str, str]:
    """Content of a source tree, without what Python leaves behind."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def leftovers(build: Path) -> list[Path]:
    """What a killed run leaves half written or half removed."""
    folders = (build, build / "bin", build / "src", build / "stamps")
    return [path for folder in folders for path in folder.glob(".*")]


@pytest.mark.timeout(1500)
@pytest.mark.requirement("setup: killed at any moment, the next run repairs it")
def test_killed_at_any_moment_the_next_run_repairs_it(downloaded: Checkout, count) -> None:
    steps = count(SHORT, LONG)
    chance = random.Random(20261123)
    killed = 0
    for turn in range(count(3, 24)):
        # Once at the beginning of each kind of step, then at any moment of what is left to do.
        first = turn < len(MOMENTS)
        words, most = (MOMENTS[turn : turn + 1], 1.0) if first else (MOMENTS, 2.0 * turn)
        process = downloaded.start("--only", SHORT if first else steps)
        assert process.stdout is not None
        if any(word in line for line in process.stdout for word in words):
            time.sleep(chance.uniform(0.0, 0.2 if words == ("extracting",) else most))
            killed += process.poll() is None  # a step may have ended early
        process.kill()
        process.communicate()
    assert killed >= count(2, 10), "too few runs lasted long enough: the test tried nothing"

    repaired = downloaded.run("--only", steps, limit=600)
    assert repaired.status == 0, repaired.text

    source = next((downloaded.build / "src").iterdir())
    assert digests(source) == digests(ROOT / ".build" / "src" / source.name)
    assert leftovers(downloaded.build) == []
    version = subprocess.run(
        [downloaded.build / "bin" / "mpy-cross", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    assert "mpy-cross" in version.stdout
    answer = subprocess.run(
        [downloaded.build / "bin" / "micropython-stock", "-c", "print(6 * 7)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    assert answer.stdout == "42\n"

    again = downloaded.run("--only", steps)
    assert again.status == 0
    assert "nothing to do" in again.text
    assert again.seconds < 2.0


def test_a_second_set_up_waits_for_the_first(downloaded: Checkout) -> None:
    with (downloaded.build / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        second = downloaded.start("--only", "stock")
        assert second.stdout is not None
        assert "another set-up is at work" in second.stdout.readline()
        assert second.poll() is None
        fcntl.flock(other, fcntl.LOCK_UN)
        text, _ = second.communicate(timeout=60)
    assert second.returncode == 0, text


def test_a_damaged_download_is_noticed_and_not_used(downloaded: Checkout) -> None:
    tarball = next((downloaded.build / "downloads").glob("micropython_*.orig.tar.*"))
    content = bytearray(tarball.read_bytes())
    content[len(content) // 2] ^= 1
    tarball.unlink()  # it may be a hard link to the real one
    tarball.write_bytes(content)
    ended = downloaded.run("--only", "sources")
    assert ended.status == 2, ended.text
    assert "checksum wrong" in ended.text
    assert "no network" in ended.text  # fetching it again was tried, and could not work here
    assert not list((downloaded.build / "src").glob("*"))


def test_a_removed_result_is_made_again(downloaded: Checkout) -> None:
    assert downloaded.run("--only", "stock").status == 0
    (downloaded.build / "bin" / "micropython-stock").unlink()
    ended = downloaded.run("--only", "stock")
    assert ended.status == 0
    assert (downloaded.build / "bin" / "micropython-stock").is_file()
