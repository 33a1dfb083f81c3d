"""`taproot trust`: add-root, remove-root, distrust-root, build, package, verify, inspect, diff,
factory, check-roots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from taproot.console import PromiseFailed, Report, UsageFailed
from taproot.trust import builder, factory, guards, inspection, roots, signing, timeline, verify
from taproot.trust import package as packages
from taproot.trust.builder import Bundle, BundleRoot
from taproot.trust.cli_common import (
    MIN_PREFIX,
    home_of,
    reporting,
    select_root,
    situation,
    tell,
    telling_twice,
    uses_of,
    when,
    with_probes,
    workspace,
)
from taproot.trust.workspace import RootEntry, Workspace, now, write_whole

_FILE = click.Path(path_type=Path)
_DAY = 86400


@click.command("add-root")
@click.argument("file", type=_FILE, required=False)
@click.option("--catalogue", metavar="NAME", help="Take a root of certs/roots.toml instead.")
@click.option("--use", default="hub,dps", show_default=True, help="What it is for.")
@click.option("--note", help="How it is shown; default: its common name.")
@click.option("--state", type=click.Choice(builder.STATES), default="active", show_default=True)
@reporting
def add_root(
    report: Report,
    file: Path | None,
    catalogue: str | None,
    use: str,
    note: str | None,
    state: str,
) -> None:
    """Put a root on the list of the next bundle.

    Example: taproot trust add-root --catalogue digicert-global-root-ca
    """
    space = workspace()
    known = roots.catalogue()
    if (file is None) == (catalogue is None):
        raise UsageFailed("give a certificate file, or --catalogue NAME")
    if catalogue is not None:
        entry = known.roots.get(catalogue)
        if entry is None or not entry.der:
            have = ", ".join(n for n, r in known.roots.items() if r.der)
            raise UsageFailed(f"no root named {catalogue!r} with a certificate; there are: {have}")
        der = entry.der
    else:
        der = roots.load_certificate(file)  # type: ignore[arg-type]
    root = BundleRoot(der, tuple(uses_of(use)), note or roots.common_name(der), state)
    listed = known.by_digest(root.sha256)
    if listed is not None and listed.state == "retired":
        raise UsageFailed(f"{listed.title} is retired and is not added: {listed.why}")
    builder.require("root", builder.root_problems(root, now()))
    entries, distrust = space.roots(), space.distrusted()
    if any(e.sha256 == root.sha256 for e in entries):
        raise UsageFailed(f"{root.note} ({root.sha256[:16]}) is on the list already")
    if root.sha256 in distrust:
        raise UsageFailed(
            f"{root.note} is distrusted: lift that first with "
            f'"taproot trust distrust-root {root.sha256[:16]} --lift"'
        )
    write_whole(space.root_path(root.sha256), der)
    entries.append(RootEntry(root.sha256, root.note, list(root.use), state))
    path = space.write_roots(entries, distrust)
    space.record("add-root", {"sha256": root.sha256, "note": root.note}, path)
    report.step("root", True, f"{root.note} ({root.sha256}) joins the next bundle")
    report.facts.update({"sha256": root.sha256, "roots": len(entries)})


@click.command("remove-root")
@click.argument("root")
@reporting
def remove_root(report: Report, root: str) -> None:
    """Take a root off the list of the next bundle: the planned way.

    Devices try the new bundle first and go back if it does not work. Whether anything still
    depends on the root is checked when the bundle is built and again when it is published.

    Example: taproot trust remove-root digicert-global-root-ca
    """
    space = workspace()
    gone = select_root(space, root)
    entries = [e for e in space.roots() if e.sha256 != gone.sha256]
    if not entries:
        raise UsageFailed(f"{gone.note} is the last root: a bundle without roots connects nobody")
    path = space.write_roots(entries, space.distrusted())
    space.record("remove-root", {"sha256": gone.sha256, "note": gone.note}, path)
    report.step("root", True, f"{gone.note} ({gone.sha256[:16]}) leaves with the next bundle")
    status = space.status()
    users = guards.users_of(gone.sha256, status["devices"], now()) if status else []
    if users:
        total = len(status["devices"]) if status else 0
        report.say(f"note: {len(users)} of {total} devices used it in the last 7 days")
    report.facts.update({"sha256": gone.sha256, "in_use_by": users})


@click.command("distrust-root")
@click.argument("root")
@click.option("--confirm-sha256", metavar="PREFIX", help="The beginning of the root's digest.")
@click.option("--lift", is_flag=True, help="Take the distrust back in the next bundle.")
@reporting
def distrust_root(report: Report, root: str, confirm_sha256: str | None, lift: bool) -> None:
    """Distrust a root at once: the emergency.

    In force on a device as soon as the signed bundle is staged, whatever becomes of the trial;
    it survives every fall-back. Devices whose hub still presents this root go to recovery.

    Example: taproot trust distrust-root digicert-global-root-g3 --confirm-sha256 31ad6648
    """
    space = workspace()
    entries, distrust = space.roots(), space.distrusted()
    if lift:
        digests = [d for d in distrust if len(root) >= MIN_PREFIX and d.startswith(root.lower())]
        if len(digests) != 1:
            raise UsageFailed(f"{root!r}: {len(digests)} distrusted roots begin so")
        path = space.write_roots(entries, [d for d in distrust if d != digests[0]])
        space.record("distrust-root", {"sha256": digests[0], "lifted": True}, path)
        report.step("lifted", True, f"{digests[0]} is no longer distrusted by the next bundle")
        return
    digest, note = _to_distrust(space, root)
    status = space.status()
    if status is None:
        said = "no status yet: how many devices that is, is not known"
        report.say(said)
        users: list[str] = []
    else:
        users = [d["id"] for d in status["devices"] if (d.get("trust") or {}).get("via") == digest]
        total = len(status["devices"])
        report.say(
            "devices whose hub still presents this root go to recovery: "
            f"{len(users)} of {total} in the last status"
        )
    report.facts.update({"sha256": digest, "in_use_by": users})
    if (
        confirm_sha256 is None
        or len(confirm_sha256) < MIN_PREFIX
        or not digest.startswith(confirm_sha256.lower())
    ):
        raise UsageFailed(
            f"{note} is {digest}: to distrust it, type the first {MIN_PREFIX} or more characters "
            "of that after --confirm-sha256"
        )
    if digest in distrust:
        raise UsageFailed(f"{note} is distrusted already")
    if len(distrust) >= builder.MAX_DISTRUST:
        raise UsageFailed(f"a bundle distrusts at most {builder.MAX_DISTRUST} roots")
    left = [e for e in entries if e.sha256 != digest]
    if not left:
        raise UsageFailed(f"{note} is the last root: add the one that follows it first")
    path = space.write_roots(left, [*distrust, digest])
    facts = {"sha256": digest, "note": note, "in_use_by": users}
    space.record("distrust-root", facts, path)
    report.step("distrusted", True, f"{note} ({digest[:16]}) from the next bundle on")


def _to_distrust(space: Workspace, name: str) -> tuple[str, str]:
    known = roots.catalogue()
    if name in known.roots:
        return known.roots[name].sha256, known.roots[name].title
    if len(name) == 64 and all(c in "0123456789abcdef" for c in name.lower()):
        return name.lower(), "the root"
    entry = select_root(space, name)
    return entry.sha256, entry.note


@click.command()
@click.option("--version", type=int, help="Default: one above the last package.")
@click.option("--min-version", type=int, help="What fall-back may still use; default: as before.")
@click.option("--issued", help="Date of the bundle; default: now.")
@click.option("--lifetime-days", type=int, help="Default: from fleet.toml.")
@with_probes
@telling_twice
@reporting
def build(
    report: Report,
    version: int | None,
    min_version: int | None,
    issued: str | None,
    lifetime_days: int | None,
    probed: tuple[Path, ...],
    despite: tuple[str, ...],
    confirm_fleet: str | None,
) -> None:
    """Write the next bundle, unsigned, from the list of roots.

    The same list, numbers and date give the same bytes. What would strand devices is refused.

    Example: taproot trust build
    """
    space = workspace()
    keyset = space.keyset()
    before = space.previous()
    if version is None:
        version = before["version"] + 1 if before else 1
    if min_version is None:
        min_version = before["min_version"] if before else 1
    path = space.bundle_path(version)
    if path.exists() and space.envelope(path).signatures:
        raise UsageFailed(f"{path} carries signatures; give a higher --version")
    issued_at = when(issued)
    if issued_at > now():
        raise UsageFailed(
            "issued is ahead of this machine's clock; a confirmed bundle becomes the devices' "
            "time floor, so a wrong one would lock them out"
        )
    lifetime = space.settings.lifetime_days if lifetime_days is None else lifetime_days
    bundle = Bundle(
        fleet=space.settings.fleet,
        key_version=keyset.version,
        version=version,
        min_version=min_version,
        issued=issued_at,
        expires=issued_at + lifetime * _DAY,
        roots=tuple(space.bundle_roots()),
        distrust=tuple(space.distrusted()),
        recovery=tuple(space.settings.recovery),
    )
    builder.require("bundle", bundle.problems())
    envelope = signing.Envelope(bundle.payload())
    signers = keyset.bundle.keys[: keyset.bundle.threshold]
    builder.require("bundle", envelope.problems(signing.BUNDLE, signers))
    payload = json.loads(bundle.payload())
    size = envelope.size(signing.BUNDLE, signers)
    findings = guards.examine(payload, situation(space, version, keyset.version, size, probed))
    overridden = guards.enforce(findings, space.settings.fleet, despite, confirm_fleet)
    tell(report, findings, overridden)
    write_whole(path, envelope.to_bytes())
    facts = {
        "version": version,
        "min_version": bundle.min_version,
        "key_version": bundle.key_version,
        "roots": [r.sha256 for r in bundle.roots],
        "distrust": list(bundle.distrust),
        "overridden": sorted({f.code for f in overridden}),
    }
    space.record("build", facts, path)
    report.step("bundle", True, f"{path}: version {version}, {len(bundle.roots)} roots, unsigned")
    names = ", ".join(k.label or k.kid[:16] for k in keyset.bundle.keys)
    report.say(f"to be signed by {keyset.bundle.threshold} of: {names}")
    report.facts.update(facts)


@click.command()
@click.option("--bundle", "version", type=int, help="Default: the newest.")
@click.option(
    "--from-keyset", type=int, help="Devices have at least this one; default: fleet.toml"
)
@reporting
def package(report: Report, version: int | None, from_keyset: int | None) -> None:
    """Pack a signed bundle with the key-sets that lead to it, and check the result.

    Example: taproot trust package
    """
    space = workspace()
    versions = space.bundle_versions()
    if not versions:
        raise UsageFailed('there is no bundle yet: run "taproot trust build"')
    version = version or versions[-1]
    begin = from_keyset or space.settings.oldest_bootstrap
    bundle = space.bundle(version)
    steps = [n for n in space.keyset_versions() if begin < n <= bundle["key_version"]]
    data = packages.pack(
        space.bundle_path(version).read_bytes(),
        [space.keyset_path(n).read_bytes() for n in steps],
    )
    verdict = verify.verify_package(data, _position(space, begin, 0, now()))
    _show(report, verdict)
    if not verdict.ok:
        report.finish()
    path = space.package_path(version)
    write_whole(path, data)
    digest = packages.sha256(data)
    space.record("package", {"version": version, "sha256": digest, "size": len(data)}, path)
    report.step("package", True, f"{path}: {len(data)} B, sha256 {digest}")
    report.facts.update({"version": version, "sha256": digest, "size": len(data)})


@click.command("verify")
@click.argument("file", type=_FILE)
@click.option("--bootstrap", type=_FILE, help="Key-set the device trusts; default: the oldest.")
@click.option("--seen", type=int, default=0, show_default=True, help="Version the device has.")
@click.option("--at", help="The device's clock; default: now.")
@click.option("--dps", is_flag=True, help="The device also registers through DPS.")
@reporting
def verify_command(
    report: Report, file: Path, bootstrap: Path | None, seen: int, at: str | None, dps: bool
) -> None:
    """Judge a package as a device would, with the device's own code.

    Example: taproot trust verify packages/1.json --seen 0
    """
    home = home_of()
    path = file if file.exists() else home / file
    data = inspection.read(path)
    if bootstrap is None:
        space = workspace()
        position = _position(space, space.settings.oldest_bootstrap, seen, when(at), dps)
    else:
        position = verify.Position(inspection.read(bootstrap), seen, when(at), dps)
    verdict = verify.verify_package(data, position)
    _show(report, verdict)
    report.facts.update({"code": verdict.code or None, "version": verdict.version or None})


def _position(
    space: Workspace, keyset: int, seen: int, at: int, dps: bool | None = None
) -> verify.Position:
    path = space.keyset_path(keyset)
    bootstrap = inspection.read(path)
    return verify.Position(bootstrap, seen, at, space.settings.dps if dps is None else dps)


def _show(report: Report, verdict: verify.Verdict) -> None:
    for step in verdict.steps:
        facts = {"code": step["code"]} if "code" in step else {}
        said = f"{step['code']}: {step['text']}" if facts else step["text"]
        report.step(step["name"], step["ok"], said, **facts)
    for line in verdict.not_checked:
        report.say(f"not checked: {line}")
    report.facts["not_checked"] = verdict.not_checked


@click.command()
@click.argument("file", type=_FILE)
@click.option("--svg", type=_FILE, help="Write a timeline of the roots.")
@click.option("--at", help="The day to look from; default: today.")
@reporting
def inspect(report: Report, file: Path, svg: Path | None, at: str | None) -> None:
    """Show what a package, key-set, bundle or trust_factory.py says. Nothing is verified.

    Example: taproot trust inspect packages/1.json --svg timeline.svg
    """
    home = home_of()
    path = file if file.exists() else home / file
    found = inspection.describe_document(inspection.read(path), roots.catalogue(), when(at))
    labels = {}
    if (home / "fleet.toml").is_file():
        labels = {k.kid: k.label for k in Workspace(home).public_keys().values()}
    for line in inspection.text(found, labels):
        report.say(line)
    if svg is not None:
        write_whole(svg, timeline.svg(found, when(at)).encode())
        report.say(f"timeline: {svg}")
    report.step("read", True, f"{path}: unverified")
    report.facts["document"] = found


@click.command()
@click.argument("old", type=_FILE)
@click.argument("new", type=_FILE)
@reporting
def diff(report: Report, old: Path, new: Path) -> None:
    """Show what changes from one document to another.

    Example: taproot trust diff packages/1.json packages/2.json
    """
    home, known = home_of(), roots.catalogue()
    documents = []
    for file in (old, new):
        path = file if file.exists() else home / file
        documents.append(inspection.describe_document(inspection.read(path), known, now()))
    rows = inspection.difference(*documents)
    for row in rows:
        report.say(f"  {row['change']:<8} {row['what']:<12} {row['text']}")
    report.step("compared", True, f"{len(rows)} differences")
    report.facts["differences"] = rows


@click.command("factory")
@click.option("--out", type=_FILE, default=Path(factory.NAME), show_default=True)
@click.option("--folder", type=_FILE, help="Write files for a development board instead.")
@click.option("--bundle", "version", type=int, help="Default: the newest package's.")
@click.option("--build-date", help="The firmware's date, a floor of its clock; default: now.")
@click.option("--demo", is_flag=True, help="Allow a demo- fleet.")
@click.option("--unmanaged", is_flag=True, help="No key-set: the cloud's roots for ever.")
@click.option(
    "--cloud",
    default="public",
    show_default=True,
    help="For --unmanaged, an id or a hub's host name.",
)
@reporting
def factory_command(
    report: Report,
    out: Path,
    folder: Path | None,
    version: int | None,
    build_date: str | None,
    demo: bool,
    unmanaged: bool,
    cloud: str,
) -> None:
    """Write trust_factory.py, which a board build freezes into the firmware.

    With --folder, the same data as files (keyset.jws, bundle.jws or *.der, build_date) for a
    device that reads its factory data from a folder.

    Example: taproot trust factory --out trust_factory.py
    """
    date = when(build_date)
    if unmanaged:
        chosen = [BundleRoot(der, tuple(use)) for _, der, use in roots.cloud_roots(cloud)]
        if folder is None:
            write_whole(out, factory.unmanaged(chosen, date).encode())
        else:
            named = {f"{i}-{r.sha256[:16]}.der": r.der for i, r in enumerate(chosen)}
            _write_folder(folder, date, named)
        first = min(int(str(roots.describe(r.der)["not_after"])) for r in chosen)
        report.step(
            "factory",
            True,
            f"{folder or out}: unmanaged, {len(chosen)} roots, first expires "
            f"{inspection.day(first)}; no over-the-air update possible: "
            'run "taproot trust init" and build again',
        )
        report.facts["state"] = "unmanaged"
        return
    space = workspace()
    versions = space.package_versions()
    if not versions:
        raise UsageFailed('no package yet: run "taproot trust package"')
    version = version or versions[-1]
    payload = space.bundle(version)
    keyset = space.keyset_path(payload["key_version"]).read_bytes()
    bundle = space.bundle_path(version).read_bytes()
    text = factory.managed(
        space.settings.fleet, keyset, bundle, date, space.settings.recovery, demo=demo
    )
    position = verify.Position(keyset, 0, max(date, payload["issued"]), space.settings.dps)
    verdict = verify.verify_package(packages.pack(bundle), position)
    if not verdict.ok:
        raise PromiseFailed(f"bundle {version} would be refused: {verdict.code}: {verdict.text}")
    if folder is None:
        write_whole(out, text.encode())
    else:
        _write_folder(folder, date, {"keyset.jws": keyset, "bundle.jws": bundle})
    facts = {"version": version, "key_version": payload["key_version"], "build_date": date}
    space.record("factory", {**facts, "sha256": packages.sha256(text.encode())})
    said = f"{folder or out}: bundle {version}, key-set {payload['key_version']}"
    report.step("factory", True, said)
    report.facts.update({"state": "managed", **facts})


def _write_folder(folder: Path, date: int, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UsageFailed(f"{folder} is not empty: factory data is never mixed with older files")
    for name, data in files.items():
        write_whole(folder / name, data)
    write_whole(folder / "build_date", f"{date}\n".encode())


@click.command("vectors")
@click.option("--out", type=_FILE, default=Path("golden.json"), show_default=True)
@reporting
def vectors_command(report: Report, out: Path) -> None:
    """Write the golden vectors: packages with the verdict every device must reach.

    The same bytes every time; the keys are derived from public names and protect nothing.

    Example: taproot trust vectors --out golden.json
    """
    from taproot.trust import vectors

    data = vectors.golden()
    write_whole(out, data)
    cases = len(json.loads(data)["cases"])
    report.step("vectors", True, f"{out}: {cases} cases, {len(data)} B")
    report.facts.update({"cases": cases, "sha256": packages.sha256(data)})


@click.command("parts")
@click.option("--version", type=int, help="Default: the newest package.")
@click.option("--out", type=_FILE, default=Path("parts"), show_default=True)
@click.option("--whole", is_flag=True, help="One message, for a hub and devices that take 64 KB.")
@reporting
def parts_command(report: Report, version: int | None, out: Path, whole: bool) -> None:
    """Write a package as cloud-to-device messages, for any program that sends them.

    The hub's REST interface sends no such messages, AMQP does. messages.json names each body with
    its properties; send them in this order, a repeated one does no harm.

    Example: taproot trust parts --out parts
    """
    space = workspace()
    versions = space.package_versions()
    if not versions:
        raise UsageFailed('no package yet: run "taproot trust package"')
    data = inspection.read(space.package_path(version or versions[-1]))
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise UsageFailed(f"{out} is not empty")
    listed = []
    for name, body, properties in packages.messages(data, whole):
        write_whole(out / name, body)
        listed.append({"file": name, "properties": properties})
    write_whole(out / "messages.json", (json.dumps(listed, indent=1) + "\n").encode())
    report.step("parts", True, f"{out}: {len(listed)} messages, {len(data)} B")
    report.facts["messages"] = listed


@click.command("check-roots")
@click.option("--store", type=_FILE, multiple=True, help="Compare this PEM collection as well.")
@click.option("--write-lists", is_flag=True, help="Write certs/bundle/ anew.")
@reporting
def check_roots(report: Report, store: tuple[Path, ...], write_lists: bool) -> None:
    """Check certs/ against its digests, and the stores of this machine against certs/.

    A missing active root is told, not failed: system stores drop roots that Azure still needs.
    A root of ours under the same name with another key fails.

    Example: taproot trust check-roots
    """
    known = roots.catalogue()
    report.step("certs", True, f"{len(known.roots)} entries, serial {known.serial}, digests hold")
    for cloud in known.clouds:
        path, wanted = roots.CERTS / "bundle" / f"{cloud}.json", roots.cloud_list(cloud, known)
        if write_lists:
            write_whole(path, wanted)
        same = path.is_file() and path.read_bytes() == wanted
        said = f"{len(known.clouds[cloud].roots)} roots" if same else "differs: --write-lists"
        report.step(f"list {cloud}", same, said)
    given = [(str(p), p) for p in store]
    stores: list[dict[str, Any]] = []
    for name, path in [*roots.installed_stores(), *given]:
        found = roots.check_store(name, inspection.read(path), known)
        said = f"{len(found.present)} present"
        for what in ("absent", "retired", "differing"):
            listed = getattr(found, what)
            said += f"; {what}: {', '.join(listed)}" if listed else ""
        report.step(f"store {name}", not found.differing, said)
        stores.append(found.__dict__)
    report.facts["stores"] = stores
