"""Runs first on the emulated board: mounts littlefs on the flash area at /.

Not for: boot.py and main.py, which the board runs afterwards (board.c).
"""

import sys

import uctypes
import vfs
from machine import mem32
from micropython import const

_START = const(0x80800000)  # board.ld
_SIZE = const(0x100000)
_BLOCK = const(4096)
_BEGUN = const(0x80900000)  # flash operations begun, and ended: a host that cut the power
_ENDED = const(0x80900004)  # sees whether it fell inside one


class Flash:
    """The flash area as a block device; erasing sets bytes to 0xFF."""

    def __init__(self) -> None:
        self._memory = memoryview(uctypes.bytearray_at(_START, _SIZE))
        self._erased = b"\xff" * 256

    def readblocks(self, block: int, buffer: bytearray, offset: int = 0) -> None:
        """Read from `offset` within a block."""
        start = block * _BLOCK + offset
        buffer[:] = self._memory[start : start + len(buffer)]

    def writeblocks(self, block: int, buffer: bytes, offset: int = 0) -> None:
        """Program from `offset` within a block that was erased."""
        mem32[_BEGUN] += 1
        start = block * _BLOCK + offset
        self._memory[start : start + len(buffer)] = buffer
        mem32[_ENDED] += 1

    def ioctl(self, request: int, argument: int) -> "int | None":
        """Answer what littlefs asks (os.AbstractBlockDev)."""
        if request == 4:
            return _SIZE // _BLOCK
        if request == 5:
            return _BLOCK
        if request == 6:
            mem32[_BEGUN] += 1
            for start in range(argument * _BLOCK, (argument + 1) * _BLOCK, 256):
                self._memory[start : start + 256] = self._erased
            mem32[_ENDED] += 1
            return 0
        return 0 if request in (1, 2, 3) else None


def _formatted() -> bool:
    """Tell whether a superblock is there; a damaged file system is never formatted over."""
    return any(uctypes.bytes_at(_START + block * _BLOCK + 8, 8) == b"littlefs" for block in (0, 1))


flash = Flash()
options = {"readsize": 32, "progsize": 32, "lookahead": 32}
if not _formatted():
    vfs.VfsLfs2.mkfs(flash, **options)
vfs.mount(vfs.VfsLfs2(flash, **options), "/")
sys.path.append("/lib")
