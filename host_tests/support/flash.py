"""A flash that loses power: a NOR device in memory for VfsLfs2 and VfsFat (MicroPython).

Programming can only clear bits, erasing sets a block to 0xFF. The device dies at the mutating
operation `cut` in one of four ways and from then on answers every call with -EIO; it neither
raises nor allocates then, because files left open are closed by the garbage collector with its
heap locked. A dead device is never used again: `Flash(image=dead.data)` is the board after reset.
"""

from micropython import const

_EIO = const(5)
NOOP, HALF, GARBLE, DONE = 0, 1, 2, 3
MODES = ("noop", "half", "garble", "done")


_made = {}


def _noise(size, seed):
    """Return `size` bytes of noise, made once."""
    found = _made.get((size, seed))
    if found is None:
        found = bytearray(size)
        value = seed or 1
        for i in range(size):
            value = (value * 1103515245 + 12345) & 0x7FFFFFFF
            found[i] = value >> 16 & 0xFF
        _made[(size, seed)] = found
    return found


class Flash:
    """`blocks` of `size` bytes; `cut` is the operation it dies at (0: never), `mode` how.

    raw: programs need erased blocks (littlefs). Without it the device erases by itself, as the
    flash translation under FAT does: a write replaces the whole block.
    """

    def __init__(self, blocks, size, raw=True, image=None, cut=0, mode=NOOP, seed=1):
        self.blocks = blocks
        self.size = size
        self.raw = raw
        self.data = bytearray(image) if image is not None else bytearray(b"\xff" * (blocks * size))
        self.cut = cut
        self.mode = mode
        self.operations = 0
        self.dead = False
        self._view = memoryview(self.data)
        self._noise = _noise(size, seed)
        self._erased = memoryview(b"\xff" * size)

    def _dies(self):
        """Count a mutating operation; tell whether it is the one at which power goes."""
        self.operations += 1
        if self.operations == self.cut:
            self.dead = True
            return True
        return False

    def readblocks(self, block, buffer, offset=0):
        """Read."""
        if self.dead:
            return -_EIO
        at = block * self.size + offset
        buffer[:] = self._view[at : at + len(buffer)]
        return 0

    def writeblocks(self, block, buffer, offset=None):
        """Program; without `offset` (FAT) whole blocks are replaced."""
        if self.dead:
            return -_EIO
        at = block * self.size + (offset or 0)
        length = len(buffer)
        if not self._dies():
            self._program(at, buffer, 0, length)
            return 0
        if self.mode == HALF:
            self._program(at, buffer, 0, length // 2)
        elif self.mode == GARBLE:
            for i in range(length):
                noise = self._noise[i % self.size]
                # Each bit has changed, or has not.
                self.data[at + i] = (self.data[at + i] & noise) | (buffer[i] & ~noise & 0xFF)
        elif self.mode == DONE:
            self._program(at, buffer, 0, length)
        return -_EIO

    def _program(self, at, buffer, start, end):
        if not self.raw:
            self._view[at + start : at + end] = memoryview(buffer)[start:end]
            return
        data = self.data
        if self._view[at + start : at + end] == self._erased[: end - start]:
            data[at + start : at + end] = memoryview(buffer)[start:end]
            return
        for i in range(start, end):
            data[at + i] &= buffer[i]

    def ioctl(self, op, arg):
        """Geometry, sync, erase."""
        if op == 4:
            return self.blocks
        if op == 5:
            return self.size
        if op == 6:
            if not self.raw:
                return 0
            if self.dead:
                return -_EIO
            at = arg * self.size
            if not self._dies():
                self._erase(at, self.size)
                return 0
            if self.mode == HALF:
                self._erase(at, self.size // 2)
            elif self.mode == GARBLE:
                for i in range(self.size):
                    self.data[at + i] |= self._noise[i]
            elif self.mode == DONE:
                self._erase(at, self.size)
            return -_EIO
        if self.dead:
            return -_EIO
        return 0

    def _erase(self, at, length):
        self._view[at : at + length] = self._erased[:length]


class Recorder(Flash):
    """A flash that keeps its mutating operations in `log`, for `torn`."""

    def __init__(self, blocks, size, raw=True, image=None):
        Flash.__init__(self, blocks, size, raw, image)
        self.log = []

    def writeblocks(self, block, buffer, offset=None):
        """Program, and note it."""
        self.log.append((block, bytes(buffer), offset))
        return Flash.writeblocks(self, block, buffer, offset)

    def ioctl(self, op, arg):
        """Geometry, sync, erase; note what is erased."""
        if op == 6 and self.raw:
            self.log.append((arg, None, None))
        return Flash.ioctl(self, op, arg)


def _apply(flash, entry):
    block, buffer, offset = entry
    if buffer is None:
        flash.ioctl(6, block)
    else:
        flash.writeblocks(block, buffer, offset)


def torn(recorder, image, wanted):
    """Yield (operation, mode, what is on flash) for power cuts in the operations recorded.

    image: what was there before the first. wanted(operation, mode): which to make. That is what a
    run with `cut` leaves, without running it again: a device whose flash is dead changes nothing.
    """
    shape = recorder.blocks, recorder.size, recorder.raw
    now = Flash(*shape, image)
    for operation, entry in enumerate(recorder.log, 1):
        for mode in range(len(MODES)):
            if wanted(operation, mode):
                dying = Flash(*shape, now.data, 1, mode)
                _apply(dying, entry)
                yield operation, mode, dying.data
        _apply(now, entry)
