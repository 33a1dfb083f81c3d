"""Builds the firmware of the emulated board, on demand: `make board`.

Never part of `make setup`: compiler and emulator take 1.4 GB. The build is keyed like the others,
by sources, compiler and every file that goes in.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tools.setup import sources
from tools.setup.builds import Builder
from tools.setup.machine import Machine
from tools.setup.packages import COMPILER, EMULATOR
from tools.setup.progress import Failure, clean_environment, step
from tools.setup.sources import Sources
from tools.setup.stamps import Stamps, copy_atomically, digest_of, digest_of_files

HEAP = 98304  # bytes: 96 KiB
_TRIED = "import azure_iot, gc, machine, socket, tlsopt"
_SAYS = "print('it', 'works', gc.mem_free() + gc.mem_alloc()); machine.reset()"


class Board:
    """Builds into `.build/obj/board`, installs `.build/bin/board.elf`."""

    def __init__(self, machine: Machine, stamps: Stamps, builder: Builder) -> None:
        self._machine = machine
        self._stamps = stamps
        self._builder = builder

    def fresh(self, tree: Sources) -> bool:
        """True when the firmware is there and of these sources, compiler and files."""
        return self._stamps.fresh("board", self._key(tree))

    def make(self, tree: Sources) -> None:
        """Build the firmware, boot it once, put it in place."""
        build, folder = self._machine.build, self._machine.root / "boards" / "QEMU_RV32"
        target = build / "bin" / "board.elf"
        key = self._key(tree)
        with step("board", "building for: the device package on emulated bare metal") as note:
            self._stamps.drop("board")
            made = self._builder.compile(
                "board",
                digest_of(
                    tree.key, self._compiler(), HEAP, self._files(("*.[ch]", "*.mk", "*.ld"))
                ),
                tree.folder / "ports" / "qemu",
                [
                    "BOARD=QEMU_RV32",
                    f"BOARD_DIR={folder}",
                    f"MICROPY_MPYCROSS={build}/bin/mpy-cross",
                    f"MBEDTLS_DIR={tree.mbedtls}",
                    f"MICROPY_HEAP_SIZE={HEAP}",
                ],
                "firmware.elf",
            )
            _try(made)
            copy_atomically(made, target, 0o644)
            self._stamps.write("board", key, [target], compiler=self._compiler())
            note(f"heap of {HEAP // 1024} KiB")

    def _key(self, tree: Sources) -> str:
        return digest_of(tree.key, self._compiler(), HEAP, self._files(("*",)))

    def _compiler(self) -> str:
        """The cross compiler's version; without one, of the compiler that built the firmware."""
        if shutil.which(COMPILER) is None:
            return str(self._stamps.read("board").get("compiler", "none"))
        line = [COMPILER, "--version"]
        return subprocess.run(line, capture_output=True, text=True, check=False).stdout

    def _files(self, patterns: tuple[str, ...]) -> str:
        """One key for the files that go in, of these names."""
        root = self._machine.root
        found: set[Path] = set()
        for pattern in patterns:
            for folder in ("boards/QEMU_RV32", "boards/unix", "boards/usermod"):
                found.update((root / folder).rglob(pattern))
            found.update((root / "firmware" / "azure_iot").rglob(pattern))
        if "*" in patterns:
            found.add(root / "firmware" / "manifest.py")
        return digest_of_files(
            root, [p for p in found if p.is_file() and p.suffix not in (".md", ".pyc")]
        )


def is_fresh(root: Path) -> bool:
    """True when the firmware in a checkout's `.build` is of the checkout's present files."""
    machine = Machine(root)
    stamps = Stamps(machine.build)
    board = Board(machine, stamps, Builder(machine, stamps, None))
    return bool(stamps.read("board")) and board.fresh(sources.prepare(machine, stamps))


def _try(made: Path) -> None:
    """Boot the new firmware once and type at its prompt; one that does not answer is not used."""
    line = [EMULATOR, "-machine", "virt", "-m", "16M", "-bios", "none", "-display", "none"]
    line += ["-monitor", "none", "-nic", "none", "-semihosting", "-serial", "stdio"]
    try:
        done = subprocess.run(
            [*line, "-kernel", str(made)],
            input=f"{_TRIED}\r{_SAYS}\r",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
            env=clean_environment(),
        )
        said = done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        said = f"nothing more within 30 s: {error.stdout!r}"
    if "\nit works " not in said.replace("\r", ""):
        raise Failure(
            f"the new firmware does not start in {EMULATOR}: {said.strip()[-400:]}",
            "see boards/QEMU_RV32 and .build/logs/build-board.txt",
        )
