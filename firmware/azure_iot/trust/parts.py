"""A package that arrives in parts, kept on flash until it is whole; a reset loses nothing.

Responsible for: parts in order, the digest of the whole, resuming after a reset. Not for: how the
parts come (C2D messages, chunks in the twin), judging the package (manager.py).

    parts = Parts(store.path("parts"))
    parts.begin(digest, count)           # the same digest and count resume
    parts.add(0, data); …                # 0, 1, 2 …; a part seen before is passed over
    if parts.whole: trust.install(parts.source(), "c2d")

Two files: the data, and beside it what was announced and how much of the data is sure.
"""

import json
from hashlib import sha256

from micropython import const

from . import files
from .errors import RefusedError
from .sources import is_digest

_MAX_PACKAGE = const(32768)
_MAX_COUNT = const(64)


class Parts:
    """A package in the making: `next` is the part wanted, `whole` tells when there is none."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.sha256 = ""
        self.count = 0
        self.next = 0
        self.size = 0
        self._resume()

    @property
    def whole(self) -> bool:
        """Tell whether every part has arrived."""
        return self.count > 0 and self.next == self.count

    def begin(self, sha256_hex: str, count: int) -> None:
        """Expect `count` parts of a package with this digest; another one starts anew."""
        if not is_digest(sha256_hex.encode()) or type(count) is not int:
            raise RefusedError("parts: digest or count missing")
        if not 1 <= count <= _MAX_COUNT:
            raise RefusedError("parts: %d, 1 to %d allowed" % (count, _MAX_COUNT), "TOO_LARGE")
        if (sha256_hex, count) != (self.sha256, self.count):
            self.discard()
            self.sha256 = sha256_hex
            self.count = count
            self._note()

    def add(self, index: int, data: bytes) -> None:
        """Append part `index`; passed over if it is there already, refused if one is missing."""
        if not self.count or type(index) is not int or not 0 <= index < self.count:
            raise RefusedError("parts: no part %s expected" % index)
        if index < self.next:
            return
        if index > self.next:
            raise RefusedError("parts: %d arrived, %d is wanted" % (index, self.next), "DOWNLOAD")
        if not data or self.size + len(data) > _MAX_PACKAGE:
            raise RefusedError(
                "parts: empty, or more than %d bytes in all" % _MAX_PACKAGE, "TOO_LARGE"
            )
        try:
            # Not appended: behind the last sure byte may lie what a cut left of this very part.
            with open(self._path, "r+b" if self.size else "wb") as file:
                file.seek(self.size)
                file.write(data)
                file.flush()
        except OSError as error:
            self._resume()
            raise RefusedError("cannot write %s" % self._path, "STORAGE", error)
        self.size += len(data)
        self.next += 1
        self._note()

    def source(self) -> files.FileSource:
        """Return the whole package, its digest checked. The caller closes and `discard`s it."""
        source = files.FileSource(self._path)
        found = files.digest_of(source).hex()
        source.seek(0)
        if not self.whole or found != self.sha256:
            source.close()
            self.discard()
            raise RefusedError("parts: the package has another digest than announced", "DOWNLOAD")
        return source

    def discard(self) -> None:
        """Forget what has arrived."""
        self.sha256 = ""
        self.count = self.next = self.size = 0
        files.remove(self._path + ".note")
        files.remove(self._path)

    def _note(self) -> None:
        body = json.dumps([self.sha256, self.count, self.next, self.size]).encode()
        files.write_bytes(self._path + ".note", body + sha256(body).digest())

    def _resume(self) -> None:
        """Take up what the note vouches for; a part that was cut is asked for again."""
        record = files.read_bytes(self._path + ".note", 256)
        self.count = self.next = self.size = 0
        self.sha256 = ""
        if record is None or sha256(record[:-32]).digest() != record[-32:]:
            return
        digest, count, following, size = json.loads(record[:-32])
        if following:
            if not files.exists(self._path) or files.FileSource(self._path).size < size:
                return
        self.sha256 = digest
        self.count = count
        self.next = following
        self.size = size
