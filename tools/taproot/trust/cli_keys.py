"""`taproot trust`: init, keygen, rotate-keys, sign."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from taproot.console import Report, UsageFailed
from taproot.trust import builder, keys, roots, signing
from taproot.trust import package as packages
from taproot.trust.builder import KeySet, Role
from taproot.trust.cli_common import (
    home_of,
    reporting,
    role_of,
    situation,
    tell,
    telling_twice,
    when,
    within,
    workspace,
)
from taproot.trust.guards import enforce, walk_findings
from taproot.trust.keys import PublicKey, SigningKey
from taproot.trust.workspace import RootEntry, Settings, Workspace, now, write_whole

_FILE = click.Path(path_type=Path)


@click.command()
@click.option("--fleet", required=True, help="Name of the fleet; it is in everything signed.")
@click.option(
    "--cloud",
    default="public",
    show_default=True,
    help="Whose roots to begin with, an id or a hub's host name.",
)
@click.option("--root-role", default="2-of-3", show_default=True, metavar="M-of-N")
@click.option("--bundle-role", default="2-of-3", show_default=True, metavar="M-of-N")
@click.option("--single-signer", is_flag=True, help="Allow a threshold of 1.")
@click.option("--root-key", multiple=True, type=_FILE, help="Public key made elsewhere (N times).")
@click.option("--bundle-key", multiple=True, type=_FILE, help="The same for the bundle role.")
@click.option("--passphrase-file", type=_FILE, help="Encrypts the keys that are made here.")
@click.option("--unencrypted", is_flag=True, help="Make keys without a passphrase (demo fleets).")
@click.option("--bits", default=keys.DEFAULT_BITS, show_default=True, help="Size of new keys.")
@click.option("--issued", help="Date of the first key-set; default: now.")
@reporting
def init(
    report: Report,
    fleet: str,
    cloud: str,
    root_role: str,
    bundle_role: str,
    single_signer: bool,
    root_key: tuple[Path, ...],
    bundle_key: tuple[Path, ...],
    passphrase_file: Path | None,
    unencrypted: bool,
    bits: int,
    issued: str | None,
) -> None:
    """Found a fleet: its keys, its first key-set, its roots.

    Proposed are two of three keys for the root role and two of three others for the bundle
    role. Keep the root keys offline and apart. With --root-key and --bundle-key no private key
    is ever on this machine.

    Example: taproot trust init --fleet contoso-esp32 --passphrase-file pass.txt
    """
    home = home_of()
    if (home / "fleet.toml").exists():
        raise UsageFailed(f"{home} already holds a fleet; a fleet is founded once")
    thresholds = {"root": role_of(root_role), "bundle": role_of(bundle_role)}
    for role, (threshold, _) in thresholds.items():
        if threshold == 1 and not single_signer:
            raise UsageFailed(
                f"role {role}: with threshold 1, whoever holds one key decides which servers the "
                "fleet trusts. Use 2-of-3, or say --single-signer if that is what you want"
            )
    chosen = roots.cloud_roots(cloud)
    issued_at = when(issued)
    _not_ahead(issued_at)
    if not (root_key and bundle_key) and not unencrypted and passphrase_file is None:
        raise UsageFailed("keys are made here: give --passphrase-file FILE to encrypt them")
    passphrase = keys.read_passphrase(passphrase_file)
    public, private = _founding_keys(thresholds, {"root": root_key, "bundle": bundle_key}, bits)
    shared = {k.kid for k in public["root"]} & {k.kid for k in public["bundle"]}
    if shared:
        raise UsageFailed("a key serves both roles; bundle keys must be others than root keys")
    keyset = KeySet(
        fleet,
        1,
        issued_at,
        Role(thresholds["root"][0], tuple(public["root"])),
        Role(thresholds["bundle"][0], tuple(public["bundle"])),
    )
    builder.require("key-set", keyset.problems())
    settings = Settings(fleet, cloud, True, 730, 180, 1, [])
    files = _write_fleet(home, settings, public, private, passphrase)
    space = Workspace(home)
    files += _write_cloud_roots(space, chosen)
    envelope = signing.Envelope(keyset.payload())
    for key in private.get("root", [])[: keyset.root.threshold]:
        envelope.sign(key, signing.KEYS)
    write_whole(space.keyset_path(1), envelope.to_bytes(keyset.root.kids))
    facts = {"fleet": fleet, "cloud": cloud, "root": root_role, "bundle": bundle_role}
    space.record("init", facts, *files, space.keyset_path(1))
    for role, (threshold, count) in thresholds.items():
        report.step(role, True, f"{threshold} of {count} keys sign for the {role} role")
    _sign_state(report, envelope, keyset.root, "keysets/1.jws")
    report.step("roots", True, f"{len(chosen)} roots of cloud {cloud}")
    report.facts.update({"fleet": fleet, "home": str(home), "findings": _findings(keyset)})
    for finding in _findings(keyset):
        report.say(f"finding: {finding}")


def _findings(keyset: KeySet) -> list[str]:
    return [
        f"role {name} has threshold 1: whoever holds one key decides alone"
        for name, role in (("root", keyset.root), ("bundle", keyset.bundle))
        if role.threshold == 1
    ]


def _founding_keys(
    thresholds: dict[str, tuple[int, int]],
    given: dict[str, tuple[Path, ...]],
    bits: int,
) -> tuple[dict[str, list[PublicKey]], dict[str, list[SigningKey]]]:
    public: dict[str, list[PublicKey]] = {}
    private: dict[str, list[SigningKey]] = {}
    for role, (_, count) in thresholds.items():
        if given[role]:
            public[role] = [keys.read_public(path) for path in given[role]]
            if len(public[role]) != count:
                raise UsageFailed(
                    f"role {role} wants {count} keys, {len(public[role])} --{role}-key were given"
                )
        else:
            made = [keys.generate(f"{role}-{i + 1}", bits=bits) for i in range(count)]
            private[role] = made
            public[role] = [key.public for key in made]
    return public, private


def _write_fleet(
    home: Path,
    settings: Settings,
    public: dict[str, list[PublicKey]],
    private: dict[str, list[SigningKey]],
    passphrase: bytes | None,
) -> list[Path]:
    (home / "keys").mkdir(parents=True, exist_ok=True)
    files = [home / "fleet.toml"]
    for role, listed in public.items():
        for i, key in enumerate(listed):
            labelled = replace(key, label=key.label or f"{role}-{i + 1}")
            path = home / "keys" / f"{labelled.label}.jwk"
            keys.write_public(path, labelled)
            files.append(path)
    for made in private.values():
        for secret in made:
            keys.write_private(home / "keys" / f"{secret.label}.pem", secret, passphrase)
    write_whole(home / "fleet.toml", settings.to_toml().encode(), replace=False)
    return files[1:]


def _write_cloud_roots(space: Workspace, chosen: list[tuple[str, bytes, list[str]]]) -> list[Path]:
    entries, files = [], []
    for _, der, use in chosen:
        digest = str(roots.describe(der)["sha256"])
        write_whole(space.root_path(digest), der)
        files.append(space.root_path(digest))
        entries.append(RootEntry(digest, roots.common_name(der), use))
    return [*files, space.write_roots(entries, [])]


def _sign_state(report: Report, envelope: signing.Envelope, role: Role, name: str) -> None:
    valid = len(set(envelope.kids()) & set(role.kids))
    missing = max(0, role.threshold - valid)
    text = f"{name}: {valid} of {role.threshold} signatures needed"
    report.step("signed", True, text + ("" if missing == 0 else f", {missing} to come"))
    report.facts["signatures_missing"] = missing


def _not_ahead(issued: int) -> None:
    if issued > now():
        raise UsageFailed(
            "issued is ahead of this machine's clock; a confirmed bundle becomes the devices' "
            "time floor, so a wrong one would lock them out"
        )


@click.command()
@click.argument("file", type=_FILE)
@click.option("--passphrase-file", type=_FILE, help="Encrypts the private key.")
@click.option("--unencrypted", is_flag=True, help="Write the key without a passphrase.")
@click.option("--import", "imported", type=_FILE, help="Only take over this public key.")
@click.option("--alg", type=click.Choice(keys.ALGORITHMS), default="PS256", show_default=True)
@click.option("--bits", default=keys.DEFAULT_BITS, show_default=True)
@reporting
def keygen(
    report: Report,
    file: Path,
    passphrase_file: Path | None,
    unencrypted: bool,
    imported: Path | None,
    alg: str,
    bits: int,
) -> None:
    """Make a signing key FILE.pem with its public half FILE.jwk.

    With --import, FILE.jwk is written from a public key (PEM, certificate or JWK) whose private
    half stays in an HSM, a key vault or another machine.

    Example: taproot trust keygen spare --passphrase-file pass.txt
    """
    stem = file.with_suffix("")
    if imported is not None:
        key = replace(keys.read_public(imported, alg), label=stem.name)
    else:
        if not unencrypted and passphrase_file is None:
            raise UsageFailed("give --passphrase-file FILE, or say --unencrypted")
        made = keys.generate(stem.name, bits=bits, alg=alg)
        secret = stem.with_name(stem.name + ".pem")
        keys.write_private(secret, made, keys.read_passphrase(passphrase_file))
        key = made.public
        report.step("private", True, str(secret))
    public = stem.with_name(stem.name + ".jwk")
    keys.write_public(public, key)
    report.step("public", True, f"{public}  kid {key.kid}")
    report.facts.update({"kid": key.kid, "alg": key.alg, "bits": key.bits})
    home = home_of()
    mine = within(public, home)
    if mine is not None and (home / "fleet.toml").is_file():
        Workspace(home).record("keygen", {"kid": key.kid}, mine)


@click.command("rotate-keys")
@click.option("--role", type=click.Choice(["root", "bundle"]), required=True)
@click.option("--add", multiple=True, type=_FILE, help="Public key that joins the role.")
@click.option("--remove", multiple=True, metavar="KEY", help="Label or kid of a key that leaves.")
@click.option("--threshold", type=int, help="New threshold; default: as before.")
@click.option("--single-signer", is_flag=True, help="Allow a threshold of 1.")
@click.option("--issued", help="Date of the key-set; default: now.")
@telling_twice
@reporting
def rotate_keys(
    report: Report,
    role: str,
    add: tuple[Path, ...],
    remove: tuple[str, ...],
    threshold: int | None,
    single_signer: bool,
    issued: str | None,
    despite: tuple[str, ...],
    confirm_fleet: str | None,
) -> None:
    """Write the next key-set: keys join or leave a role.

    It must be signed by the threshold of the present root keys and by that of the new ones;
    then build, sign and publish a bundle for it, because a bundle holds for one key-set only.

    Example: taproot trust rotate-keys --role bundle --remove bundle-1 --add spare.jwk
    """
    space = workspace()
    current = space.keyset()
    before: Role = getattr(current, role)
    if not add and not remove and threshold is None:
        raise UsageFailed("nothing to change: give --add, --remove or --threshold")
    leaving = {space.key(name).kid for name in remove}
    absent = leaving - set(before.kids)
    if absent:
        raise UsageFailed(f"key {min(absent)[:16]} is not in role {role}")
    joining = [keys.read_public(path) for path in add]
    kept = [k for k in before.keys if k.kid not in leaving]
    if threshold is None:
        threshold = before.threshold
    changed = Role(threshold, (*kept, *joining))
    if changed.threshold == 1 and before.threshold != 1 and not single_signer:
        raise UsageFailed("a threshold of 1 needs --single-signer")
    issued_at = when(issued)
    _not_ahead(issued_at)
    following = replace(
        current,
        version=current.version + 1,
        issued=issued_at,
        root=changed if role == "root" else current.root,
        bundle=changed if role == "bundle" else current.bundle,
    )
    builder.require("key-set", following.problems())
    unsigned = space.keyset_path(current.version)
    missing = _missing(space.envelope(unsigned), [current.root])
    if missing:
        raise UsageFailed(f"keysets/{current.version}.jws still lacks {missing} signatures")
    envelope = signing.Envelope(following.payload())
    needed = dict.fromkeys(
        (
            *current.root.keys[: current.root.threshold],
            *following.root.keys[: following.root.threshold],
        )
    )
    builder.require("key-set", envelope.problems(signing.KEYS, list(needed)))
    coming = envelope.size(signing.KEYS, list(needed)) + _last_bundle_size(space)
    where = situation(space, builder.MAX_VERSION, following.version, coming)
    findings = walk_findings(where)
    overridden = enforce(findings, space.settings.fleet, despite, confirm_fleet)
    tell(report, findings, overridden)
    files = []
    for path, key in zip(add, joining, strict=True):
        label = key.label or path.stem
        target = space.home / "keys" / f"{label}.jwk"
        if not target.exists():
            keys.write_public(target, replace(key, label=label))
        files.append(target)
    path = space.keyset_path(following.version)
    write_whole(path, envelope.to_bytes(), replace=False)
    facts = {
        "version": following.version,
        "role": role,
        "joined": [k.kid for k in joining],
        "left": sorted(leaving),
        "overridden": sorted({f.code for f in overridden}),
    }
    space.record("rotate-keys", facts, *files, path)
    report.step("key-set", True, f"{path}: key-set {following.version}, not signed yet")
    for signing_role in dict.fromkeys((current.root, following.root)):
        names = ", ".join(k.label or k.kid[:16] for k in signing_role.keys)
        report.say(f"to be signed by {signing_role.threshold} of: {names}")
    report.facts["version"] = following.version


def _last_bundle_size(space: Workspace) -> int:
    versions = space.package_versions()
    return space.bundle_path(versions[-1]).stat().st_size if versions else 0


def _missing(envelope: signing.Envelope, needed: list[Role]) -> int:
    signed = set(envelope.kids())
    needed = [role for i, role in enumerate(needed) if role not in needed[:i]]
    return sum(max(0, role.threshold - len(signed & set(role.kids))) for role in needed)


@click.command()
@click.argument("document", type=_FILE)
@click.option("--key", type=_FILE, help="Sign with this private key.")
@click.option("--passphrase-file", type=_FILE, help="Passphrase of the private key.")
@click.option("--digest", type=_FILE, help="Write the digest that an external signer must sign.")
@click.option("--attach", type=_FILE, help="Attach a signature made elsewhere (raw or base64).")
@click.option("--public", metavar="KEY", help="Whose signature: label, kid or key file.")
@click.option("--merge", type=_FILE, help="Take over the signatures of another copy.")
@reporting
def sign(
    report: Report,
    document: Path,
    key: Path | None,
    passphrase_file: Path | None,
    digest: Path | None,
    attach: Path | None,
    public: str | None,
    merge: Path | None,
) -> None:
    """Add a signature to a key-set or bundle, made here or elsewhere.

    Each signer needs only the document and a key, no network and no other file. With --digest
    nothing is signed: the 32 bytes are written for an HSM or a key vault, whose answer comes
    back with --attach.

    Example: taproot trust sign bundles/1.jws --key keys/bundle-1.pem --passphrase-file pass.txt
    """
    ways = [way for way in (key, digest, attach, merge) if way is not None]
    if len(ways) != 1:
        raise UsageFailed("give exactly one of --key, --digest, --attach and --merge")
    home = home_of()
    path = document if document.exists() else home / document
    try:
        envelope = signing.Envelope.from_bytes(path.read_bytes(), str(path))
    except OSError as exc:
        raise UsageFailed(f"cannot read {document}: {exc.strerror}") from None
    payload = packages.payload_of(envelope)
    typ = signing.KEYS if "roles" in payload else signing.BUNDLE
    space = Workspace(home) if (home / "fleet.toml").is_file() else None
    if digest is not None:
        _write_digest(report, _named_key(space, public), typ, envelope, digest)
        return
    before = set(envelope.kids())
    order = _roles(space, typ, payload)
    if key is not None:
        place = key if key.exists() else home / key
        secret = keys.read_private(place, keys.read_passphrase(passphrase_file))
        _allowed(order, secret.public)
        envelope.sign(secret, typ)
    elif attach is not None:
        external = _named_key(space, public)
        _allowed(order, external)
        envelope.add(external, typ, _signature_bytes(attach, external))
    elif merge is not None:
        _merge(space, envelope, typ, merge)
    builder.require("document", envelope.problems(typ))
    write_whole(path, envelope.to_bytes([kid for role in order for kid in role.kids]))
    added = [kid for kid in envelope.kids() if kid not in before]
    mine = within(path, home)
    if space is not None and mine is not None:
        space.record("sign", {"document": str(mine.relative_to(home)), "kids": added}, mine)
    for kid in added:
        report.step("signed", True, f"{path} by {kid}")
    missing = _missing(envelope, order)
    if order:
        report.say(f"{missing} signatures still to come" if missing else "threshold reached")
        report.facts["signatures_missing"] = missing
    report.facts["signers"] = envelope.kids()


def _roles(space: Workspace | None, typ: str, payload: dict[str, Any]) -> list[Role]:
    """Return the roles whose thresholds the document needs, as far as they are known here."""
    if space is None:
        return []
    if typ == signing.BUNDLE:
        version = payload.get("key_version")
        return [space.keyset(version).bundle] if version in space.keyset_versions() else []
    version = payload.get("version", 0)
    wanted = [v for v in (version - 1, version) if v in space.keyset_versions()]
    return [space.keyset(v).root for v in wanted]


def _allowed(order: list[Role], key: PublicKey) -> None:
    if order and not any(key.kid in role.kids for role in order):
        raise UsageFailed(
            f"key {key.label or key.kid[:16]} has no say here: no device would count its signature"
        )


def _named_key(space: Workspace | None, name: str | None) -> PublicKey:
    if name is None:
        raise UsageFailed("whose key? give --public LABEL, a kid or a public key file")
    if Path(name).is_file():
        return keys.read_public(Path(name))
    if space is None:
        raise UsageFailed(f"--public {name}: no such file, and no fleet folder to look it up in")
    return space.key(name)


def _write_digest(
    report: Report, key: PublicKey, typ: str, envelope: signing.Envelope, out: Path
) -> None:
    value = signing.digest(key, typ, envelope.payload)
    write_whole(out, value)
    signed = signing.signing_input(key, typ, envelope.payload)
    write_whole(out.with_name(out.name + ".input"), signed)
    report.step("digest", True, f"{out}: SHA-256 {value.hex()} for key {key.kid}")
    report.facts.update({"digest": value.hex(), "base64url": keys.b64u(value), "alg": key.alg})


def _signature_bytes(path: Path, key: PublicKey) -> bytes:
    """Read a signature: raw bytes, base64, base64url, or a key vault's JSON answer."""
    data = keys.read_file(path)
    if len(data) == key.bits // 8:
        return data
    text = data.decode("ascii", "replace").strip()
    try:
        if text.startswith("{"):
            answer = json.loads(text)
            text = str(answer.get("value") or answer.get("signature"))
        text = "".join(text.split()).rstrip("=").replace("+", "-").replace("/", "_")
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, AttributeError):
        raise UsageFailed(f"{path}: neither {key.bits // 8} raw bytes nor base64") from None


def _merge(space: Workspace | None, envelope: signing.Envelope, typ: str, path: Path) -> None:
    other = signing.Envelope.from_bytes(keys.read_file(path), str(path))
    if other.payload != envelope.payload:
        raise UsageFailed(f"{path} is another document: its payload differs")
    known = space.public_keys() if space is not None else {}
    for kid, (_, raw) in zip(other.kids(), other.signatures, strict=True):
        if kid in envelope.kids():
            continue
        if kid not in known:
            raise UsageFailed(f"{path}: signed by {kid[:16]}, a key that is not known here")
        envelope.add(known[kid], typ, raw)
