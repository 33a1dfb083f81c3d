"""Files as the trust store uses them: sources to read, writes that are read back.

Responsible for: one place where OSError becomes a refusal; flush before close; comparing what
was written with what is there (R-34, R-37). Not for: which file means what (changes.py).
No rename-over and no directory order is relied on, so littlefs, FAT and POSIX serve alike (R-36).
"""

import os
from hashlib import sha256

from micropython import const

from .errors import RefusedError
from .sources import BytesSource, read_full

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .sources import Source

_CHUNK = const(256)
_MAX_PACKAGE = const(32768)


class FileSource:
    """A file read by position; it opens at the first read and may be closed at any time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = None
        try:
            self.size = os.stat(path)[6]
        except OSError as error:
            raise RefusedError("no file %s" % path, "STORAGE", error)

    def seek(self, position: int) -> None:
        """Continue reading at `position`."""
        try:
            if self._file is None:
                self._file = open(self.path, "rb")
            self._file.seek(position)
        except OSError as error:
            self.close()
            raise RefusedError("cannot read %s" % self.path, "STORAGE", error)

    def readinto(self, view: memoryview) -> int:
        """Read into `view`; return the count, 0 at the end."""
        if self._file is None:
            self.seek(0)
        try:
            return self._file.readinto(view)
        except OSError as error:
            self.close()
            raise RefusedError("cannot read %s" % self.path, "STORAGE", error)

    def close(self) -> None:
        """Close the file; reading opens it again."""
        file = self._file
        self._file = None
        if file is not None:
            file.close()


def source_of(text: "bytes | str") -> "Source":
    """Return a source over bytes, or over the file that a path names."""
    return FileSource(text) if isinstance(text, str) else BytesSource(text)


class PackageFile:
    """A write-only sink for a package that arrives in parts; `done()` gives the source.

    Longer than 32 KiB is refused while it arrives (H11).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        self.digest = sha256()
        try:
            self._file = open(path, "wb")
        except OSError as error:
            raise RefusedError("cannot write %s" % path, "STORAGE", error)

    def write(self, data: bytes) -> int:
        """Append `data`."""
        if self._file is None:
            raise RefusedError("%s is closed" % self.path, "STORAGE")
        self.size += len(data)
        if self.size > _MAX_PACKAGE:
            self.abort()
            raise RefusedError("package larger than %d bytes" % _MAX_PACKAGE, "TOO_LARGE")
        try:
            self._file.write(data)
        except OSError as error:
            self.abort()
            raise RefusedError("cannot write %s" % self.path, "STORAGE", error)
        self.digest.update(data)
        return len(data)

    def done(self) -> FileSource:
        """Close the file and return it as a source."""
        try:
            self._file.flush()
            self._file.close()
        except OSError as error:
            raise RefusedError("cannot write %s" % self.path, "STORAGE", error)
        self._file = None
        return FileSource(self.path)

    def abort(self) -> None:
        """Close and remove what has arrived."""
        if self._file is not None:
            self._file.close()
            self._file = None
            remove(self.path)


def remove(path: str) -> bool:
    """Remove a file; tell whether it existed and could be removed."""
    try:
        os.remove(path)
    except OSError:
        return False
    return True


def exists(path: str) -> bool:
    """Tell whether a file is there."""
    try:
        os.stat(path)
    except OSError:
        return False
    return True


def digest_of(source: "Source") -> bytes:
    """Return the SHA-256 of everything a source holds."""
    digest = sha256()
    buffer = bytearray(_CHUNK)
    source.seek(0)
    while True:
        n = read_full(source, memoryview(buffer))
        if not n:
            return digest.digest()
        digest.update(memoryview(buffer)[:n])


def write_span(path: str, source: "Source", start: int, end: int) -> bytes:
    """Copy characters `start` to `end` of a source into `path`, compare, return their SHA-256."""
    digest = sha256()
    buffer = bytearray(_CHUNK)
    source.seek(start)
    at = start
    try:
        with open(path, "wb") as file:
            while at < end:
                view = memoryview(buffer)[: min(_CHUNK, end - at)]
                if read_full(source, view) != len(view):
                    raise RefusedError("file shorter than before")
                digest.update(view)
                file.write(view)
                at += len(view)
            file.flush()
    except OSError as error:
        raise RefusedError("cannot write %s" % path, "STORAGE", error)
    expected = digest.digest()
    written = FileSource(path)
    try:
        if digest_of(written) != expected:
            raise RefusedError("%s: read back other bytes than were written" % path, "STORAGE")
    finally:
        written.close()
    return expected


def write_bytes(path: str, data: bytes) -> None:
    """Write a small file and compare."""
    try:
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
    except OSError as error:
        raise RefusedError("cannot write %s" % path, "STORAGE", error)
    if read_bytes(path, len(data)) != data:
        raise RefusedError("%s: read back other bytes than were written" % path, "STORAGE")


def read_bytes(path: str, limit: int) -> bytes | None:
    """Return a small file's contents; None if it is missing, unreadable or longer than `limit`."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError:
        return None
    return data if len(data) <= limit else None
