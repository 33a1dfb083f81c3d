"""The emulated board starts as a board does, and mpremote works on it."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from support.board_flash import files, image
from taproot.emulated_board import EmulatedBoard

HEAP = 96 * 1024  # tools/setup/board.py


@pytest.fixture
def mpremote(tmp_path):
    """`mpremote("exec", "…")` on a board whose console is a loopback port: the lines it printed."""
    with (
        socket.create_server(("127.0.0.1", 0)) as console,
        EmulatedBoard(image({"boot.py": b"booted = 6 * 7"}), limit=100, console=console) as board,
    ):
        address = f"socket://127.0.0.1:{console.getsockname()[1]}"

        def run(*words):
            done = subprocess.run(
                [sys.executable, "-m", "mpremote", "connect", address, *words],
                capture_output=True,
                text=True,
                timeout=40,
                check=False,
                cwd=tmp_path,
            )
            assert done.returncode == 0, done.stdout + done.stderr + board.text
            return done.stdout.splitlines()

        run.board = board
        yield run


def test_the_package_is_frozen_and_the_settings_are_those_of_the_esp32_boards(mpremote):
    program = """
import azure_iot.agent, gc, os, sys, tlsopt as t
print(azure_iot.agent.__file__, os.listdir("/"), sys.maxsize == 2**31 - 1)
print(t.IN_CONTENT_LEN, t.OUT_CONTENT_LEN, t.VARIABLE_BUFFER, t.BIGNUM, t.CA_CALLBACK)
print(gc.mem_free() + gc.mem_alloc())
print(os.uname().machine)
print(booted)
"""
    module, settings, heap, machine, booted = mpremote("resume", "exec", program)
    assert module == "azure_iot/agent.py ['boot.py'] True"
    assert settings == "4096 2048 True True True"
    assert HEAP * 0.95 < int(heap) < HEAP, "without the collector's tables"
    assert "TEST FIRMWARE ONLY" in machine
    assert booted == "42", "boot.py has run"


def test_files_survive_a_soft_reset_and_a_power_cut(mpremote, tmp_path):
    (tmp_path / "copied.bin").write_bytes(bytes(range(256)) * 20)
    mpremote("cp", "copied.bin", ":")
    mpremote("soft-reset", "exec", "with open('made.txt', 'w') as f: print(f.write('kept'))")
    assert mpremote("soft-reset", "exec", "print(open('made.txt').read())") == ["kept"]
    mpremote.board.kill()
    found = files(mpremote.board.flash())  # read by another littlefs
    assert found["/made.txt"] == b"kept" and found["/copied.bin"] == bytes(range(256)) * 20
    begun, ended = mpremote.board.operations()
    assert begun == ended > 0


def test_a_folder_of_the_desktop_can_be_mounted(mpremote, tmp_path):
    (tmp_path / "from_desktop.py").write_text("print('imported over the serial line')")
    said = mpremote("mount", ".", "exec", "import from_desktop")
    assert "imported over the serial line" in said


def test_main_runs_at_power_on_and_can_be_interrupted():
    main = (
        b"try:\n    print('runs')\n    while True: pass\nexcept KeyboardInterrupt: print('ended')"
    )
    with EmulatedBoard(image({"main.py": main}), limit=30) as board:
        board.wait_for("runs", 15)
        board.send("\x03")
        board.wait_for("ended", 15)


def test_random_numbers_are_the_same_after_every_start():
    """They come from a fixed seed: a board for tests and for nothing else."""
    seen = []
    for _ in range(2):
        main = b"import os; print('random', os.urandom(16).hex())"
        with EmulatedBoard(image({"main.py": main}), limit=30) as board:
            seen.append(board.wait_for("random", 15))
    assert seen[0] == seen[1]
