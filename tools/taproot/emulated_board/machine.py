"""Runs the emulated board and keeps its flash over power cuts.

The guest's memory is a shared file, so that a SIGKILL is a power cut and everything written until
then is in the file; only its flash area is carried into the next start.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from pathlib import Path

from taproot import interpreters
from taproot.console import UsageFailed
from taproot.emulated_board.network import Network

EMULATOR = "qemu-system-riscv32"
MEMORY_SIZE = 16 << 20
FLASH_OFFSET, FLASH_SIZE = 0x800000, 1 << 20  # boards/QEMU_RV32/board.ld
STACK_OFFSET, STACK_SIZE = 0x480000, 32 << 10
STACK_UNUSED = b"\xbb"  # what the port fills it with at start
OPERATIONS = struct.Struct("<II")  # begun, ended; behind the flash


def firmware() -> Path:
    """Where `make board` puts the firmware."""
    return interpreters.build_folder() / "bin" / "board.elf"


class EmulatedBoard(interpreters.Program):
    """One start of the board, until it is killed or `limit` seconds are over.

    Its console is the program's input and output, unless `console` is a listening socket: then
    the console is served there (mpremote connect socket://…).
    """

    def __init__(
        self, flash: bytes = b"", *, limit: float = 120, console: socket.socket | None = None
    ) -> None:
        if not firmware().is_file():
            raise UsageFailed(f"no emulated board: run 'make board' ({firmware()} is missing)")
        self._network = Network()
        fds = [self._network.board_end.fileno()]
        serial = "stdio"
        if console is not None:
            fds.append(console.fileno())
            serial = "chardev:console"
        line = ["timeout", "--signal=KILL", f"{limit + 5:g}", EMULATOR, "-bios", "none"]
        line += ["-machine", "virt,memory-backend=m", "-nic", "none", "-display", "none"]
        line += ["-monitor", "none", "-semihosting", "-m", f"{MEMORY_SIZE >> 20}M", "-object"]
        line += [f"memory-backend-file,id=m,size={MEMORY_SIZE},mem-path=memory,share=on"]
        if console is not None:
            line += ["-chardev", f"socket,id=console,fd={fds[1]},server=on,wait=off"]
        line += ["-chardev", f"socket,id=network,fd={fds[0]}", "-serial", serial]
        line += ["-device", "pci-serial,chardev=network,addr=1", "-kernel", str(firmware())]
        super().__init__(line, limit=limit, pass_fds=fds)
        self._memory = self.folder / "memory"
        with self._memory.open("wb") as file:
            file.truncate(MEMORY_SIZE)
            file.seek(FLASH_OFFSET)
            file.write(flash)

    def start(self) -> EmulatedBoard:
        """Start the emulator."""
        super().start()
        self._network.start()
        return self

    def kill(self) -> None:
        """Cut the power: SIGKILL for `timeout` and the emulator, which share a process group."""
        if self.running:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait(5)

    def close(self) -> None:
        """End the emulator and its connections."""
        super().close()
        self._network.close()

    def flash(self) -> bytes:
        """What the flash holds; of a board that runs, what it holds at some moment."""
        return self._area(FLASH_OFFSET, FLASH_SIZE)

    def operations(self) -> tuple[int, int]:
        """Flash operations begun and ended: they differ when the power went inside one."""
        begun, ended = OPERATIONS.unpack(self._area(FLASH_OFFSET + FLASH_SIZE, OPERATIONS.size))
        return begun, ended

    def stack_used(self) -> int:
        """The most of the stack that was in use since the start, in bytes."""
        stack = self._area(STACK_OFFSET, STACK_SIZE)
        return STACK_SIZE - (len(stack) - len(stack.lstrip(STACK_UNUSED)))

    def _area(self, offset: int, size: int) -> bytes:
        with self._memory.open("rb") as file:
            file.seek(offset)
            return file.read(size)
