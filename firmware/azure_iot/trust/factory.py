"""What the firmware was built with: the bootstrap key-set and the first bundle.

Responsible for: finding them in the frozen module `trust_factory`, or in a folder for drills and
tests. Not for: making them (`taproot trust factory`), reading them (stored.py). They are trusted
as the firmware is.

A frozen module holds BUILD_DATE (Unix seconds) and either KEYSET and BUNDLE (envelopes as bytes)
or, for a device that nobody manages, ROOTS (a tuple of DERs) alone. A folder holds `keyset.jws`
and `bundle.jws`, or `*.der` roots, and `build_date`.
"""

import os

from micropython import const

from azure_iot.transient import Transient

from .errors import RefusedError

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .roots import Bundle

_MAX_DER = const(4096)


class Factory:
    """Bootstrap key-set, factory bundle and build date; `managed` is False without a key-set.

    keyset, bundle: envelopes as bytes, or paths of files that hold them.
    """

    def __init__(
        self,
        keyset: "bytes | str | None",
        bundle: "bytes | str | None",
        build_date: int,
        roots: "tuple | list" = (),
    ) -> None:
        if (keyset is None) != (bundle is None) or (keyset is None and not roots):
            raise RefusedError("factory: a key-set and a bundle, or roots alone")
        self.build_date = build_date
        self.managed = keyset is not None
        self.keyset = keyset
        self.envelope = bundle
        self.roots = tuple(roots)
        self.facts: Bundle | None = None

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
        with Transient():
            from .files import read_bytes

            date = read_bytes(folder + "/build_date", 16)
            if date is None or not date.strip().isdigit():
                raise RefusedError("no build_date in %s" % folder, "STORAGE")
            names = os.listdir(folder)
            if "keyset.jws" in names:
                return cls(folder + "/keyset.jws", folder + "/bundle.jws", int(date.strip()))
            ders = [
                read_bytes(folder + "/" + name, _MAX_DER)
                for name in sorted(names)
                if name.endswith(".der")
            ]
            return cls(None, None, int(date.strip()), ders)

    def bundle(self) -> "Bundle":
        """Return the facts of the factory bundle; without a key-set, of the roots alone."""
        if self.facts is None:
            with Transient():
                from .stored import read_factory

                self.facts = read_factory(self)
        return self.facts
