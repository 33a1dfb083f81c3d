"""The command `taproot ca`: roots, intermediates, leaves, and chains with one thing wrong.

Responsible for: files and names around `taproot.pki`, which makes every certificate.
Not for: Azure's roots (`taproot trust check-roots`) and bundle keys (`taproot trust keygen`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from taproot.console import Report, UsageFailed
from taproot.pki import Authority, Leaf
from taproot.trust.cli_common import HomeGroup, reporting
from taproot.trust.roots import describe
from taproot.trust.workspace import write_whole

_FILE = click.Path(path_type=Path)
_KEYS = click.Choice(["rsa2048", "rsa3072", "rsa4096", "p256", "p384"])
_EXPIRED = dt.timedelta(days=30)


def _expired(issuer: Authority, names: dict[str, Any]) -> Leaf:
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    return issuer.leaf(not_before=now - 3 * _EXPIRED, not_after=now - _EXPIRED, **names)


def _future(issuer: Authority, names: dict[str, Any]) -> Leaf:
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    return issuer.leaf(not_before=now + _EXPIRED, **names)


def _other_host(issuer: Authority, names: dict[str, Any]) -> Leaf:
    return issuer.leaf(**{**names, "dns": ["elsewhere.invalid"], "ips": []})


def _no_intermediate(issuer: Authority, names: dict[str, Any]) -> Leaf:
    made = issuer.leaf(**names)
    made.presented = []
    return made


def _foreign_root(issuer: Authority, names: dict[str, Any]) -> Leaf:
    stranger = Authority.root("Somebody else's root", "p256")
    return stranger.intermediate("Somebody else's CA", "p256").leaf(**names)


def _sha1(issuer: Authority, names: dict[str, Any]) -> Leaf:
    return issuer.leaf(hash_name="sha1", **names)


BAD: dict[str, Callable[[Authority, dict[str, Any]], Leaf]] = {
    "expired": _expired,
    "not-yet-valid": _future,
    "wrong-host": _other_host,
    "missing-intermediate": _no_intermediate,
    "foreign-root": _foreign_root,
    "sha1": _sha1,
}


@click.group(cls=HomeGroup, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Make roots, intermediates and leaf certificates for tests.

    Example: taproot ca chain pki --dns localhost --ip 127.0.0.1
    """


@command.command()
@click.argument("file", type=_FILE)
@click.option("--cn", default="Taproot test root", show_default=True)
@click.option("--key", type=_KEYS, default="rsa2048", show_default=True)
@click.option("--days", type=click.IntRange(1, 36500), default=3650, show_default=True)
@reporting
def root(report: Report, file: Path, cn: str, key: str, days: int) -> None:
    """Make a root: FILE.pem and FILE.key.

    Example: taproot ca root own-root --cn "Contoso device root"
    """
    _write_authority(report, file, Authority.root(cn, key, days=days))


@command.command()
@click.argument("file", type=_FILE)
@click.option("--issuer", type=_FILE, required=True, help="FILE of the authority above it.")
@click.option("--cn", default="Taproot test CA", show_default=True)
@click.option("--key", type=_KEYS, default="rsa2048", show_default=True)
@click.option("--days", type=click.IntRange(1, 36500), default=1825, show_default=True)
@reporting
def intermediate(report: Report, file: Path, issuer: Path, cn: str, key: str, days: int) -> None:
    """Make an intermediate authority.

    Example: taproot ca intermediate own-ca --issuer own-root
    """
    _write_authority(report, file, _load(issuer).intermediate(cn, key, days=days))


@command.command()
@click.argument("file", type=_FILE)
@click.option("--issuer", type=_FILE, required=True, help="FILE of the authority above it.")
@click.option("--cn", required=True, help="Common name; a device's registration id.")
@click.option("--dns", multiple=True, help="Host name of a server.")
@click.option("--ip", multiple=True, help="Address of a server.")
@click.option("--client", is_flag=True, help="A device certificate, for X.509 authentication.")
@click.option("--key", type=_KEYS, default="rsa2048", show_default=True)
@click.option("--days", type=click.IntRange(1, 36500), default=90, show_default=True)
@reporting
def leaf(
    report: Report,
    file: Path,
    issuer: Path,
    cn: str,
    dns: tuple[str, ...],
    ip: tuple[str, ...],
    client: bool,
    key: str,
    days: int,
) -> None:
    """Make a server or device certificate: FILE.pem holds the chain to present.

    Example: taproot ca leaf device-01 --issuer own-ca --cn device-01 --client
    """
    try:
        made = _load(issuer).leaf(cn, key, dns=dns, ips=ip, client=client, days=days)
    except ValueError as exc:
        raise UsageFailed(f"a name is not usable: {exc}") from None
    _write_leaf(report, file, made)


@command.command()
@click.argument("folder", type=_FILE)
@click.option("--dns", multiple=True, help="Host name of the server; default: localhost.")
@click.option("--ip", multiple=True, help="Address of the server.")
@click.option("--key", type=_KEYS, default="rsa2048", show_default=True)
@click.option("--bad", type=click.Choice(sorted(BAD)), help="What shall be wrong with it.")
@reporting
def chain(
    report: Report,
    folder: Path,
    dns: tuple[str, ...],
    ip: tuple[str, ...],
    key: str,
    bad: str | None,
) -> None:
    """Make root, intermediate and server certificate at once, right or wrong on purpose.

    Example: taproot ca chain pki --dns localhost --ip 127.0.0.1
    """
    names: dict[str, Any] = {"cn": "server", "key": key, "dns": dns or ("localhost",), "ips": ip}
    top = Authority.root("Taproot test root", key)
    middle = top.intermediate("Taproot test CA", key)
    try:
        made = BAD[bad](middle, names) if bad else middle.leaf(**names)
    except ValueError as exc:
        raise UsageFailed(f"a name is not usable: {exc}") from None
    _write_authority(report, folder / "root", top)
    _write_authority(report, folder / "intermediate", middle)
    _write_leaf(report, folder / "server", made)
    report.facts["bad"] = bad


@command.command()
@click.argument("file", type=_FILE)
@reporting
def show(report: Report, file: Path) -> None:
    """Show the certificates of a PEM file and how long they are in a handshake.

    Example: taproot ca show pki/server.pem
    """
    data = _read(file)
    try:
        listed = x509.load_pem_x509_certificates(data)
    except ValueError:
        raise UsageFailed(f"{file}: no certificates in PEM") from None
    from cryptography.hazmat.primitives.serialization import Encoding

    size, rows = 7, []
    for certificate in listed:
        der = certificate.public_bytes(Encoding.DER)
        size += 3 + len(der)
        facts = describe(der)
        rows.append(facts)
        report.say(f"  {facts['der_bytes']:>5} B {facts['key']:<8} {facts['subject']}")
        report.say(f"          sha256 {facts['sha256']}")
    report.step("read", True, f"{len(listed)} certificates, Certificate message {size} B")
    report.facts.update({"certificates": rows, "certificate_message": size})


def _stem(file: Path) -> Path:
    return file.with_suffix("") if file.suffix in (".pem", ".key") else file


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise UsageFailed(f"cannot read {path}: {exc.strerror}") from None


def _load(file: Path) -> Authority:
    stem = _stem(file)
    pem, key = _read(Path(f"{stem}.pem")), _read(Path(f"{stem}.key"))
    try:
        return Authority.load(pem, key)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound) as exc:
        raise UsageFailed(f"{stem}.pem and {stem}.key: not an authority: {exc}") from None


def _new(stem: Path) -> None:
    for suffix in (".pem", ".key"):
        if Path(f"{stem}{suffix}").exists():
            raise UsageFailed(f"{stem}{suffix} exists; a key is never replaced")
    stem.parent.mkdir(parents=True, exist_ok=True)


def _write_authority(report: Report, file: Path, made: Authority) -> None:
    stem = _stem(file)
    _new(stem)
    write_whole(Path(f"{stem}.pem"), made.lineage_pem.encode())
    _write_key(Path(f"{stem}.key"), made.key_pem)
    report.step("authority", True, f"{stem}.pem sha256 {made.sha256}")
    report.facts.setdefault("made", {})[stem.name] = made.sha256


def _write_leaf(report: Report, file: Path, made: Leaf) -> None:
    stem = _stem(file)
    _new(stem)
    made.write(stem.parent, stem.name)
    size = made.certificate_message_size
    report.step("leaf", True, f"{stem}.pem sha256 {made.sha256}, Certificate message {size} B")
    report.facts.setdefault("made", {})[stem.name] = made.sha256
    report.facts["certificate_message"] = size


def _write_key(path: Path, pem: str) -> None:
    path.touch(mode=0o600)
    path.write_text(pem)
