"""Root certificates of ``certs/``: loading, checking, the list of each cloud.

Responsible for: reading ``certs/roots.toml``, comparing every certificate with its committed
digests and dates, and saying what other stores of this machine hold.
Not for: deciding which roots a fleet trusts (builder.py), nor fetching anything.

    for name, der, use in cloud_roots("public"):
        ...
"""

import datetime
import hashlib
import json
import tomllib
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from azure_iot import hub
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from taproot.console import UsageFailed

CERTS = Path(__file__).resolve().parents[3] / "certs"
STATES = ("active", "watch", "retired")
USES = ("hub", "dps", "https")
_ROOT_KEYS = {
    "name", "title", "file", "subject", "sha256", "sha1", "key", "signature", "der_bytes",
    "not_before", "not_after", "state", "source", "seen_in", "why",
}  # fmt: skip
_ROOT_REQUIRED = {"name", "title", "subject", "sha256", "state", "source", "why"}
_CLOUD_KEYS = {"title", "hub_suffix", "dps_host", "use", "roots", "note"}
_PEM_BEGIN = b"-----BEGIN CERTIFICATE-----"


class RootsError(UsageFailed):
    """``certs/`` contradicts itself; nothing can be built from it."""


@dataclass(frozen=True)
class Root:
    """One entry of ``roots.toml``; ``der`` is empty where no certificate is kept."""

    name: str
    title: str
    subject: str
    sha256: str
    state: str
    source: str
    why: str
    der: bytes = b""
    sha1: str = ""
    not_before: int = 0
    not_after: int = 0
    seen_in: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cloud:
    """One Azure cloud and the names of the roots its devices need."""

    id: str
    title: str
    hub_suffix: str
    dps_host: str
    use: tuple[str, ...]
    roots: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Catalogue:
    """Everything ``roots.toml`` says, checked."""

    serial: int
    reviewed: str
    roots: dict[str, Root]
    clouds: dict[str, Cloud]

    def cloud(self, cloud_id: str) -> Cloud:
        """Return a cloud by id or by a hub's host name, or fail naming the ids there are.

        Only a host name of Azure's says a cloud: the device's own table decides.
        """
        try:
            if ".azure-" in cloud_id:
                return self.clouds[hub.cloud(cloud_id)[0]]
            return self.clouds[cloud_id]
        except KeyError:
            raise RootsError(
                f"no cloud named {cloud_id!r}; there are: {', '.join(self.clouds)}"
            ) from None

    def by_digest(self, sha256: str) -> Root | None:
        """Return the entry with this SHA-256 of the DER, or None."""
        return next((r for r in self.roots.values() if r.sha256 == sha256), None)


def pem_to_der(pem: bytes, where: str) -> bytes:
    """Return the DER of exactly one PEM certificate."""
    if pem.count(_PEM_BEGIN) != 1:
        raise RootsError(f"{where}: expected exactly one PEM certificate")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as exc:
        raise RootsError(f"{where}: not a certificate: {exc}") from None
    return certificate.public_bytes(serialization.Encoding.DER)


def load_certificate(path: Path) -> bytes:
    """Return the DER of a certificate file, PEM or DER."""
    try:
        data = Path(path).read_bytes()
    except OSError as exc:
        raise RootsError(f"cannot read {path}: {exc.strerror}") from None
    if _PEM_BEGIN in data:
        return pem_to_der(data, str(path))
    try:
        certificate = x509.load_der_x509_certificate(data)
    except ValueError as exc:
        raise RootsError(f"{path}: neither PEM nor DER of one certificate: {exc}") from None
    return certificate.public_bytes(serialization.Encoding.DER)


def describe(der: bytes) -> dict[str, object]:
    """Return subject, key, dates and digests of a certificate."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        subject = certificate.subject.rfc4514_string()
        dates = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise RootsError(f"a certificate that cannot be read: {exc}") from None
    kind = "RSA " if isinstance(key, rsa.RSAPublicKey) else "EC P-"
    return {
        "subject": subject,
        "key": f"{kind}{getattr(key, 'key_size', '?')}",
        "sha256": hashlib.sha256(der).hexdigest(),
        "sha1": hashlib.sha1(der, usedforsecurity=False).hexdigest(),
        "not_before": int(dates[0].timestamp()),
        "not_after": int(dates[1].timestamp()),
        "der_bytes": len(der),
    }


def common_name(der: bytes) -> str:
    """Return the CN of a certificate's subject, or the whole subject."""
    subject = x509.load_der_x509_certificate(der).subject
    names = subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else subject.rfc4514_string()


def catalogue(certs: Path = CERTS) -> Catalogue:
    """Read and check ``roots.toml`` with every certificate it names."""
    path = certs / "roots.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise RootsError(f"cannot read {path}: {exc.strerror}") from None
    except tomllib.TOMLDecodeError as exc:
        raise RootsError(f"{path}: {exc}") from None
    if data.get("schema") != 1:
        raise RootsError(f"{path}: schema must be 1")
    _known(data, {"schema", "serial", "reviewed", "root", "cloud"}, str(path))
    roots: dict[str, Root] = {}
    for entry in data.get("root", []):
        root = _root(entry, certs, str(path))
        if root.name in roots or any(r.sha256 == root.sha256 for r in roots.values()):
            raise RootsError(f"{path}: {root.name} is listed twice")
        roots[root.name] = root
    clouds = {k: _cloud(k, v, roots, str(path)) for k, v in data.get("cloud", {}).items()}
    for root in roots.values():
        listed = any(root.name in c.roots for c in clouds.values())
        if listed != (root.state == "active"):
            raise RootsError(f"{path}: {root.name} is {root.state} but listed={listed}")
    reviewed = data.get("reviewed")
    return Catalogue(int(data.get("serial", 0)), str(reviewed), roots, clouds)


def cloud_roots(cloud: str, certs: Path = CERTS) -> list[tuple[str, bytes, list[str]]]:
    """Return ``[(name, der, use)]`` for one cloud, in the order of ``roots.toml``."""
    found = catalogue(certs)
    chosen = found.cloud(cloud)
    return [(n, found.roots[n].der, list(chosen.use)) for n in chosen.roots]


def cloud_list(cloud: str, found: Catalogue) -> bytes:
    """Return the unsigned root list of a cloud as committed under ``certs/bundle/``."""
    chosen = found.cloud(cloud)
    rows = [
        {
            "name": name,
            "note": found.roots[name].title,
            "sha256": found.roots[name].sha256,
            "expires": found.roots[name].not_after,
            "use": list(chosen.use),
        }
        for name in chosen.roots
    ]
    body = {"schema": 1, "cloud": cloud, "serial": found.serial, "roots": rows}
    return (json.dumps(body, indent=1) + "\n").encode()


@dataclass
class StoreCheck:
    """What one installed store holds of the catalogue."""

    store: str
    present: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)


def check_store(name: str, pem: bytes, found: Catalogue) -> StoreCheck:
    """Compare a PEM collection with the catalogue: by digest, and by subject where it differs."""
    digests: set[str] = set()
    subjects: dict[str, set[str]] = {}
    for block in pem.split(_PEM_BEGIN)[1:]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # other people's certificates, bent as they are
                certificate = x509.load_pem_x509_certificate(_PEM_BEGIN + block)
            subject = certificate.subject.rfc4514_string()
        except ValueError:
            continue  # a foreign certificate that cannot be parsed is none of ours
        digest = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
        digests.add(digest)
        subjects.setdefault(subject, set()).add(digest)
    result = StoreCheck(name)
    for root in found.roots.values():
        if root.sha256 in digests:
            (result.retired if root.state == "retired" else result.present).append(root.name)
        elif root.subject in subjects:
            result.differing.append(root.name)
        elif root.state != "retired":
            result.absent.append(root.name)
    return result


def installed_stores() -> list[tuple[str, Path]]:
    """Return the certificate stores of this machine that can be compared."""
    stores = [("system", Path("/etc/ssl/certs/ca-certificates.crt"))]
    stores.append(("system", Path("/etc/pki/tls/certs/ca-bundle.crt")))
    try:
        import certifi
    except ImportError:
        pass
    else:
        stores.append((f"certifi {certifi.__version__}", Path(certifi.where())))
    return [(name, path) for name, path in stores if path.is_file()]


def _known(entry: dict[str, object], allowed: set[str], where: str) -> None:
    unknown = sorted(set(entry) - allowed)
    if unknown:
        raise RootsError(f"{where}: unknown key {unknown[0]!r}")


def _root(entry: dict[str, object], certs: Path, where: str) -> Root:
    where = f"{where}: [[root]] {entry.get('name')}"
    _known(entry, _ROOT_KEYS, where)
    missing = sorted(_ROOT_REQUIRED - set(entry))
    if missing:
        raise RootsError(f"{where}: {missing[0]} is missing")
    if entry["state"] not in STATES:
        raise RootsError(f"{where}: state must be one of {', '.join(STATES)}")
    der = b""
    if "file" in entry:
        der = load_certificate(certs / str(entry["file"]))
        actual = describe(der)
        for key in ("sha256", "sha1", "subject", "key", "der_bytes", "not_before", "not_after"):
            wanted = entry.get(key)
            if isinstance(wanted, datetime.datetime):
                wanted = int(wanted.timestamp())
            if wanted != actual[key]:
                raise RootsError(f"{where}: {key} is {actual[key]} in the certificate")
    elif entry["state"] != "retired":
        raise RootsError(f"{where}: only a retired root may come without its certificate")
    return Root(
        name=str(entry["name"]),
        title=str(entry["title"]),
        subject=str(entry["subject"]),
        sha256=str(entry["sha256"]),
        state=str(entry["state"]),
        source=str(entry["source"]),
        why=str(entry["why"]),
        der=der,
        sha1=str(entry.get("sha1", "")),
        not_before=_unix(entry.get("not_before")),
        not_after=_unix(entry.get("not_after")),
        seen_in=tuple(str(s) for s in entry.get("seen_in", ())),  # type: ignore[attr-defined]
    )


def _unix(value: object) -> int:
    return int(value.timestamp()) if isinstance(value, datetime.datetime) else 0


def _cloud(cloud_id: str, entry: dict[str, object], roots: dict[str, Root], where: str) -> Cloud:
    where = f"{where}: [cloud.{cloud_id}]"
    _known(entry, _CLOUD_KEYS, where)
    missing = sorted(_CLOUD_KEYS - set(entry))
    if missing:
        raise RootsError(f"{where}: {missing[0]} is missing")
    names = [str(n) for n in entry["roots"]]  # type: ignore[attr-defined]
    use = [str(u) for u in entry["use"]]  # type: ignore[attr-defined]
    for name in names:
        if name not in roots:
            raise RootsError(f"{where}: no [[root]] is named {name!r}")
    if not set(use) <= set(USES) or not use:
        raise RootsError(f"{where}: use must name some of {', '.join(USES)}")
    return Cloud(
        id=cloud_id,
        title=str(entry["title"]),
        hub_suffix=str(entry["hub_suffix"]),
        dps_host=str(entry["dps_host"]),
        use=tuple(use),
        roots=tuple(names),
        note=str(entry["note"]),
    )
