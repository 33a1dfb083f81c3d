"""A fleet whose keys are all on this machine: drills, examples and tests.

    fleet = Fleet.create("demo-drill", root=(2, 3), bundle=(2, 3))
    first = fleet.bundle_jws(version=1, roots=[BundleRoot(der)])
    text = fleet.factory_module(first)
    second = fleet.bundle_jws(version=2, roots=[...])
    package = fleet.package(second)

Real fleets keep their keys apart and use `workspace.py` through `taproot trust`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from taproot.trust import factory, keys, package, signing
from taproot.trust.builder import DEFAULT_LIFETIME, Bundle, BundleRoot, KeySet, Role, require
from taproot.trust.keys import SigningKey

RootLike = BundleRoot | bytes | tuple[str, bytes, Sequence[str]]


@dataclass
class Fleet:
    """Keys, key-sets and what was signed with them."""

    name: str
    root_keys: list[SigningKey]
    bundle_keys: list[SigningKey]
    root_threshold: int
    bundle_threshold: int
    issued: int
    keyset: KeySet
    keysets: list[bytes] = field(default_factory=list)

    @classmethod
    def create(
        cls,
        name: str,
        *,
        root: tuple[int, int] = (2, 3),
        bundle: tuple[int, int] = (2, 3),
        bits: int = keys.DEFAULT_BITS,
        issued: int | None = None,
    ) -> Fleet:
        """Make all keys and the bootstrap key-set, signed by a threshold of root keys."""
        root_keys = [keys.generate(f"root-{i + 1}", bits=bits) for i in range(root[1])]
        bundle_keys = [keys.generate(f"bundle-{i + 1}", bits=bits) for i in range(bundle[1])]
        return cls.from_keys(name, root_keys, bundle_keys, root[0], bundle[0], issued)

    @classmethod
    def from_keys(
        cls,
        name: str,
        root_keys: list[SigningKey],
        bundle_keys: list[SigningKey],
        root_threshold: int = 2,
        bundle_threshold: int = 2,
        issued: int | None = None,
    ) -> Fleet:
        """Found a fleet on keys that exist already."""
        when = int(time.time()) if issued is None else issued
        keyset = KeySet(
            name, 1, when, _role(root_threshold, root_keys), _role(bundle_threshold, bundle_keys)
        )
        fleet = cls(name, root_keys, bundle_keys, root_threshold, bundle_threshold, when, keyset)
        fleet.keysets.append(fleet.sign_keyset(keyset, root_keys[:root_threshold]))
        return fleet

    def keyset_jws(self, version: int | None = None) -> bytes:
        """Return a signed key-set; the current one by default."""
        return self.keysets[-1 if version is None else version - 1]

    def sign_keyset(self, keyset: KeySet, signers: Iterable[SigningKey]) -> bytes:
        """Return the envelope of a key-set signed by these keys, each once."""
        require("key-set", keyset.problems())
        envelope = signing.Envelope(keyset.payload())
        for key in {k.kid: k for k in signers}.values():
            envelope.sign(key, signing.KEYS)
        return envelope.to_bytes(keyset.root.kids)

    def rotate(
        self,
        *,
        bundle_keys: list[SigningKey] | None = None,
        root_keys: list[SigningKey] | None = None,
        signers: Iterable[SigningKey] | None = None,
        issued: int | None = None,
    ) -> bytes:
        """Move to key-set N+1 with new keys; signed by old and new threshold by default."""
        old_roots = self.root_keys
        self.root_keys = root_keys or self.root_keys
        self.bundle_keys = bundle_keys or self.bundle_keys
        self.keyset = replace(
            self.keyset,
            version=self.keyset.version + 1,
            issued=self.issued if issued is None else issued,
            root=_role(self.root_threshold, self.root_keys),
            bundle=_role(self.bundle_threshold, self.bundle_keys),
        )
        if signers is None:
            signers = [
                *old_roots[: self.root_threshold],
                *self.root_keys[: self.root_threshold],
            ]
        signed = self.sign_keyset(self.keyset, signers)
        self.keysets.append(signed)
        return signed

    def bundle_payload(
        self,
        *,
        version: int,
        roots: Sequence[RootLike],
        min_version: int = 1,
        distrust: Sequence[str] = (),
        recovery: Sequence[str] = (),
        issued: int | None = None,
        expires: int | None = None,
        key_version: int | None = None,
    ) -> bytes:
        """Return the bytes of a bundle for this fleet, checked."""
        when = self.issued if issued is None else issued
        bundle = Bundle(
            fleet=self.name,
            key_version=self.keyset.version if key_version is None else key_version,
            version=version,
            min_version=min_version,
            issued=when,
            expires=when + DEFAULT_LIFETIME if expires is None else expires,
            roots=tuple(as_root(r) for r in roots),
            distrust=tuple(distrust),
            recovery=tuple(recovery),
        )
        require("bundle", bundle.problems())
        return bundle.payload()

    def bundle_jws(
        self,
        *,
        version: int,
        roots: Sequence[RootLike],
        signers: Sequence[SigningKey] | None = None,
        min_version: int = 1,
        distrust: Sequence[str] = (),
        recovery: Sequence[str] = (),
        issued: int | None = None,
        expires: int | None = None,
        key_version: int | None = None,
    ) -> bytes:
        """Return a signed bundle envelope; by default with exactly the threshold of signatures.

        Fewer `signers` than the threshold make the package that every device must refuse.
        """
        payload = self.bundle_payload(
            version=version,
            roots=roots,
            min_version=min_version,
            distrust=distrust,
            recovery=recovery,
            issued=issued,
            expires=expires,
            key_version=key_version,
        )
        if signers is None:
            signers = self.bundle_keys[: self.bundle_threshold]
        envelope = signing.Envelope(payload)
        for key in signers:
            envelope.sign(key, signing.BUNDLE)
        return envelope.to_bytes(self.keyset.bundle.kids)

    def package(self, bundle: bytes, keysets: Sequence[bytes] = ()) -> bytes:
        """Return the package of a bundle, with the key-sets a device may lack."""
        return package.pack(bundle, keysets)

    def factory_module(
        self, bundle: bytes, build_date: int | None = None, recovery: Sequence[str] = ()
    ) -> str:
        """Return the text of `trust_factory.py` with the current key-set as bootstrap."""
        when = self.issued if build_date is None else build_date
        return factory.managed(self.name, self.keyset_jws(), bundle, when, recovery, demo=True)

    def write_factory(self, folder: Path, bundle: bytes, build_date: int | None = None) -> None:
        """Write what a device reads with `factory_folder`: key-set, bundle, date of the build."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "keyset.jws").write_bytes(self.keyset_jws())
        (folder / "bundle.jws").write_bytes(bundle)
        (folder / "build_date").write_text(str(self.issued if build_date is None else build_date))

    def write_keys(self, directory: Path, passphrase: bytes | None = None) -> None:
        """Write every key into a directory of the run, private halves mode 0600."""
        directory.mkdir(parents=True, exist_ok=True)
        for key in self.root_keys + self.bundle_keys:
            keys.write_private(directory / f"{key.label}.pem", key, passphrase)
            keys.write_public(directory / f"{key.label}.jwk", key.public)


def as_root(root: RootLike) -> BundleRoot:
    """Accept a BundleRoot, a DER, or the `(name, der, use)` of `roots.cloud_roots`."""
    if isinstance(root, BundleRoot):
        return root
    if isinstance(root, bytes):
        return BundleRoot(root)
    _, der, use = root
    return BundleRoot(der, tuple(use))


def _role(threshold: int, role_keys: Sequence[SigningKey]) -> Role:
    return Role(threshold, tuple(key.public for key in role_keys))
