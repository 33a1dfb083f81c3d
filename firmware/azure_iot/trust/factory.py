"""What the firmware was built with: the bootstrap key-set and the first bundle.

Responsible for: reading them from the frozen module `trust_factory`, or from a folder for drills
and tests. Not for: making them (`taproot trust factory`). They are trusted as the firmware is.

A frozen module holds BUILD_DATE (Unix seconds) and either KEYSET and BUNDLE (envelopes as bytes)
or, for a device that nobody manages, ROOTS (a tuple of DERs) alone. A folder holds `keyset.jws`
and `bundle.jws`, or `*.der` roots, and `build_date`.
"""

import os
from hashlib import sha256

from micropython import const

from .bundle import Bundle, Root, read_bundle, read_der
from .der import name_digest, require_root
from .errors import MalformedError, StorageError
from .files import FileSource, read_bytes
from .jws import BUNDLE, KEYS, payload_digest, scan_envelope
from .keyset import read_keyset
from .sources import BytesSource

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .keyset import KeySet
    from .sources import Source

_ALL_USES = ("hub", "dps", "https")
_MAX_DER = const(4096)


class Factory:
    """Bootstrap key-set, factory bundle and build date; `managed` is False without a key-set."""

    def __init__(
        self,
        keyset: "bytes | Source | None",
        bundle: "bytes | Source | None",
        build_date: int,
        roots: "tuple | list" = (),
    ) -> None:
        if (keyset is None) != (bundle is None) or (keyset is None and not roots):
            raise MalformedError("factory: a key-set and a bundle, or roots alone")
        self.build_date = build_date
        self.managed = keyset is not None
        self._keyset = _source(keyset)
        self._bundle = _source(bundle)
        self._ders = roots
        self._facts: Bundle | None = None
        self._envelope = None

    @classmethod
    def from_module(cls, module: "object | None" = None) -> "Factory":
        """Return what the frozen module `trust_factory` holds."""
        if module is None:
            module = __import__("trust_factory")
        return cls(
            getattr(module, "KEYSET", None),
            getattr(module, "BUNDLE", None),
            module.BUILD_DATE,
            getattr(module, "ROOTS", ()),
        )

    @classmethod
    def from_folder(cls, folder: str) -> "Factory":
        """Return what the files of a folder hold."""
        date = read_bytes(folder + "/build_date", 16)
        if date is None or not date.strip().isdigit():
            raise StorageError("no build_date in %s" % folder)
        names = os.listdir(folder)
        if "keyset.jws" in names:
            return cls(
                FileSource(folder + "/keyset.jws"),
                FileSource(folder + "/bundle.jws"),
                int(date.strip()),
            )
        ders = [
            read_bytes(folder + "/" + name, _MAX_DER)
            for name in sorted(names)
            if name.endswith(".der")
        ]
        return cls(None, None, int(date.strip()), ders)

    def keyset(self) -> "KeySet":
        """Decode the bootstrap key-set."""
        return read_keyset(scan_envelope(self._keyset, KEYS))

    def keyset_source(self) -> "Source":
        """Return the source that holds the bootstrap key-set."""
        return self._keyset

    def payload_digest(self) -> bytes:
        """Return the SHA-256 of the factory bundle's payload characters."""
        self.bundle()
        try:
            return payload_digest(self._envelope)
        finally:
            self._bundle.close()

    def bundle(self) -> Bundle:
        """Return the facts of the factory bundle; without a key-set, of the roots alone."""
        if self._facts is None:
            if self.managed:
                self._envelope = scan_envelope(self._bundle, BUNDLE)
                self._facts = read_bundle(self._envelope)
                self._bundle.close()
            else:
                self._facts = _bare(self._ders)
        return self._facts

    def der(self, root: Root) -> bytes:
        """Return the DER of one of the factory's roots."""
        if not self.managed:
            return bytes(self._ders[root.start])
        self.bundle()
        try:
            return read_der(self._envelope, root)
        finally:
            self._bundle.close()


def _source(data: "bytes | Source | None") -> "Source | None":
    if isinstance(data, (bytes, bytearray)):
        return BytesSource(data)
    return data


def _bare(ders: "tuple | list") -> Bundle:
    bundle = Bundle()
    for i, der in enumerate(ders):
        facts = require_root(der)
        root = Root()
        root.sha256 = sha256(der).digest()
        root.uses.extend(_ALL_USES)
        root.subject = name_digest(facts.subject)
        root.not_before = facts.not_before
        root.not_after = facts.not_after
        root.start = i
        bundle.roots.append(root)
    return bundle
