"""The ESP32 board definitions, as far as a desktop can check them: not built with ESP-IDF."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.checkout import ROOT
from taproot import interpreters

BOARDS = ("AZURE_IOT_ESP32", "AZURE_IOT_ESP32_C3", "AZURE_IOT_ESP32_S3")
FLASH = {"AZURE_IOT_ESP32": 4, "AZURE_IOT_ESP32_C3": 4, "AZURE_IOT_ESP32_S3": 8}
SECTOR, APP_ALIGNMENT = 0x1000, 0x10000  # ESP-IDF: partition tables


@pytest.fixture(scope="module")
def micropython() -> Path:
    """The MicroPython sources that set-up builds from."""
    if os.environ.get("MICROPYTHON_DIR"):
        return Path(os.environ["MICROPYTHON_DIR"])
    stamp = interpreters.build_folder() / "stamps" / "sources.json"
    if not stamp.is_file():
        pytest.fail("no MicroPython sources here: make setup")
    return interpreters.build_folder() / "src" / json.loads(stamp.read_text("utf-8"))["folder"]


@pytest.mark.parametrize("board", BOARDS)
def test_the_manifest_freezes_the_whole_package_and_no_networking_bundle(
    board: str, micropython: Path
) -> None:
    folder = ROOT / "boards" / board
    done = subprocess.run(
        [
            *(sys.executable, micropython / "tools" / "manifestfile.py", "--freeze"),
            *("--port", micropython / "ports" / "esp32", "--board", folder),
            *("--top", micropython, folder / "manifest.py"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    package = sorted(str(p) for p in (ROOT / "firmware" / "azure_iot").rglob("*.py"))
    assert [name for name in package if name not in done.stdout] == []
    assert "extmod/asyncio/core.py" in done.stdout
    assert "modules/_boot.py" in done.stdout
    assert re.search(r"\bssl\.py\b", done.stdout) is None


@pytest.mark.parametrize("board", BOARDS)
def test_partitions_fit_the_flash_and_leave_two_image_slots(board: str) -> None:
    text = (ROOT / "boards" / board / "partitions.csv").read_text("utf-8")
    rows = [
        [cell.strip() for cell in line.split(",")]
        for line in text.splitlines()
        if line and not line.startswith("#")
    ]
    end = 0x9000  # boot loader and the table itself
    for name, kind, _, offset, size in rows:
        start, length = int(offset, 16), int(size, 16)
        assert start >= end, f"{name} overlaps the one before it"
        assert start % (APP_ALIGNMENT if kind == "app" else SECTOR) == 0, name
        assert length % SECTOR == 0, name
        end = start + length
    assert end == FLASH[board] << 20, "the table uses the whole flash and no more"
    slots = {row[2]: row[4] for row in rows if row[1] == "app"}
    assert sorted(slots) == ["ota_0", "ota_1"]
    assert len(set(slots.values())) == 1, "an image that fits one slot fits the other"
    assert "otadata" in {row[0] for row in rows}
    assert int(rows[-1][4], 16) >= 512 << 10, "room for the trust store and a downloaded package"


@pytest.mark.parametrize("path", sorted((ROOT / "boards").glob("*ESP32*/sdkconfig.*")) + sorted((ROOT / "boards" / "esp32").glob("sdkconfig.*")), ids=lambda path: f"{path.parent.name}/{path.name}")  # fmt: skip
def test_every_setting_has_its_reason_above_it(path: Path) -> None:
    for block in path.read_text("utf-8").strip().split("\n\n"):
        lines = block.splitlines()
        assert lines[0].startswith("# "), f"no reason for {lines[0]}"
        for line in lines:
            assert line.startswith("#") or re.fullmatch(r"CONFIG_[A-Z0-9_]+=(y|n|\d+)", line), line


@pytest.mark.parametrize("board", BOARDS)
def test_every_file_that_a_board_names_exists(board: str, micropython: Path) -> None:
    folder = ROOT / "boards" / board
    text = (folder / "mpconfigboard.cmake").read_text("utf-8")
    named = re.findall(r"^\s+(\S*sdkconfig\.\w+)$", text, re.MULTILINE)
    assert len(named) >= 3
    for name in named:
        if name.startswith("boards/"):
            path = micropython / "ports" / "esp32" / name
        else:
            path = Path(name.replace("${CMAKE_CURRENT_LIST_DIR}", str(folder)))
        assert path.is_file(), name
    for name in ("manifest.py", "partitions.csv", "mpconfigboard.h", "board.md"):
        assert (folder / name).is_file()
    facts = json.loads((folder / "board.json").read_text("utf-8"))
    assert f"IDF_TARGET {facts['mcu']}" in text.replace("set(", "")
    assert "Not built with ESP-IDF yet" in (folder / "board.md").read_text("utf-8")


def test_small_chips_ask_for_the_input_buffer_that_the_documentation_counts_with() -> None:
    from tools.setup.builds import BUILDS

    text = (ROOT / "boards" / "esp32" / "sdkconfig.small").read_text("utf-8")
    drilled = next(build for build in BUILDS if build.name == "unix32-board")
    for define in drilled.defines:  # the drill runs with what the boards ship
        assert f"CONFIG_MBEDTLS_SSL_{define.removeprefix('TAPROOT_')}\n" in text
    assert "CONFIG_MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH=y\n" in text
    for board in BOARDS:
        used = "sdkconfig.small" in (ROOT / "boards" / board / "mpconfigboard.cmake").read_text()
        assert used == (board != "AZURE_IOT_ESP32_S3")


def test_the_decision_on_linker_hooks_names_what_the_builds_wrap() -> None:
    adr = (ROOT / "firmware" / "docs" / "adr" / "0040-tls-by-linker-hooks.md").read_text("utf-8")
    decision = adr.split("wraps four functions", 1)[1].split("\n- ", 1)[0]
    named = set(re.findall(r"`(mbedtls_ssl_\w+)`", decision)) - {"mbedtls_ssl_setup"}
    assert len(named) == 4
    for makefile in ("micropython.mk", "micropython.cmake"):
        text = (ROOT / "boards" / "usermod" / "tlsopt" / makefile).read_text("utf-8")
        assert set(re.findall(r"--wrap=(mbedtls_\w+)", text)) == named, makefile
