"""`taproot trust`: publish, status, report, ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from taproot.console import PromiseFailed, Report, UsageFailed
from taproot.trust import guards, inspection, ledger, rollout, roots, status_page, verify
from taproot.trust import package as packages
from taproot.trust import status as statuses
from taproot.trust.cli_common import (
    HomeGroup,
    home_of,
    reporting,
    select_root,
    situation,
    tell,
    telling_twice,
    when,
    with_probes,
    workspace,
)
from taproot.trust.service import Service
from taproot.trust.workspace import Workspace, now, write_whole

_FILE = click.Path(path_type=Path)


def hub_options(function: Any) -> Any:
    """Add what every command needs that talks to the hub's service side."""
    function = click.option(
        "--ca", type=_FILE, help="Root of the hub's certificate; default: the cloud's roots."
    )(function)
    function = click.option(
        "--port", type=int, default=443, show_default=True, help="HTTPS port of the hub."
    )(function)
    return click.option(
        "--connection-file",
        type=_FILE,
        help="File with the service connection string (policies registryReadWrite, service).",
    )(function)


def _service(
    space: Workspace, connection_file: Path | None, port: int, ca: Path | None
) -> Service:
    if connection_file is None:
        raise UsageFailed("give --connection-file FILE with the hub's service connection string")
    text = inspection.read(connection_file).decode("utf-8", "replace")
    if ca is not None:
        ders = [roots.load_certificate(ca)]
    else:
        ders = [der for _, der, _ in roots.cloud_roots(space.settings.cloud)]
    return Service.from_connection_string(text, port=port, roots=ders)


@click.command()
@click.option("--version", type=int, help="Default: the newest package.")
@click.option("--channel", type=click.Choice(rollout.CHANNELS), default="url", show_default=True)
@click.option("--url", help="Where devices find the package (channel url).")
@click.option("--device", help="This device first, alone.")
@click.option("--only-device", is_flag=True, help="Stop after --device.")
@click.option("--where", default="", help="Which devices, as in a twin query: tags.site = 'north'")
@click.option("--stages", default="5,25,100", show_default=True, help="Rising percentages.")
@click.option("--configuration", metavar="ID", help="Last stage by an automatic configuration.")
@click.option("--stage-timeout", default=900.0, show_default=True, help="Seconds per stage.")
@click.option("--poll", default=5.0, show_default=True, help="Seconds between looks.")
@click.option("--max-failures", default=0, show_default=True, help="More than these stop it.")
@click.option(
    "--offline-grace", default=120.0, show_default=True, help="Seconds to wait for them."
)
@click.option("--dry-run", is_flag=True, help="Only say who would be next.")
@hub_options
@with_probes
@telling_twice
@reporting
def publish(
    report: Report,
    version: int | None,
    channel: str,
    url: str | None,
    device: str | None,
    only_device: bool,
    where: str,
    stages: str,
    configuration: str | None,
    stage_timeout: float,
    poll: float,
    max_failures: int,
    offline_grace: float,
    dry_run: bool,
    connection_file: Path | None,
    port: int,
    ca: Path | None,
    probed: tuple[Path, ...],
    despite: tuple[str, ...],
    confirm_fleet: str | None,
) -> None:
    """Bring a package to the fleet: one device, then stages; a failure stops it.

    Devices are found by a twin query and offered the package in their desired properties, or
    all at once by an automatic configuration after the first device has succeeded.

    Example: taproot trust publish --dry-run --channel twin --connection-file hub.txt
    """
    space = workspace()
    offer = _offer(space, version, channel, url)
    offer.check()
    percents = _percents(stages)
    if only_device and device is None:
        raise UsageFailed("--only-device needs --device ID")
    if configuration is not None and device is None:
        raise UsageFailed("--configuration needs --device ID: one device must succeed first")
    if configuration is not None and channel == "method":
        raise UsageFailed("a configuration sets desired properties: --channel url or twin")
    payload = space.bundle(offer.version)
    where_now = situation(space, offer.version, offer.key_version, probed=probed)
    findings = guards.examine(payload, where_now)
    overridden = guards.enforce(findings, space.settings.fleet, despite, confirm_fleet)
    tell(report, findings, overridden)
    _judge_again(space, offer)
    with _service(space, connection_file, port, ca) as hub:
        condition = f" WHERE {where}" if where else ""
        rows = [statuses.device_of(t) for t in hub.query(f"SELECT * FROM devices{condition}")]
        chosen = [d["id"] for d in rows if d["enabled"] and _managed(d)]
        if not chosen:
            raise UsageFailed(f"no managed device among the {len(rows)} that the query found")
        listed = rollout.order(chosen, packages.sha256(offer.package))
        plan = _plan(listed, percents, device, only_device, configuration)
        if dry_run:
            for name, ids in plan:
                report.step(name, True, f"{len(ids)} devices: {', '.join(ids[:10])}", devices=ids)
            return
        run = rollout.Rollout(
            hub, offer, stage_timeout, poll, max_failures, offline_grace, report.say
        )
        try:
            run.run(plan)
        finally:  # what was offered is recorded however this ends
            facts = {
                "version": offer.version,
                "sha256": packages.sha256(offer.package),
                "channel": channel,
                "where": where,
                "configuration": configuration,
                "overridden": sorted({f.code for f in overridden}),
                "stages": [_stage_facts(s) for s in run.done],
            }
            space.record("publish", facts)
        for stage in run.done:
            _show_stage(report, stage, max_failures)
        report.facts.update({"version": offer.version, "stages": [s.to_json() for s in run.done]})
        if configuration is not None and report.ok:
            _configure(report, hub, configuration, offer, where)


def _stage_facts(stage: rollout.Stage) -> dict[str, Any]:
    facts = stage.to_json()
    del facts["devices"]
    return {**facts, "good": len(stage.good)}


def _offer(space: Workspace, version: int | None, channel: str, url: str | None) -> rollout.Offer:
    versions = space.package_versions()
    if not versions:
        raise UsageFailed('there is no package yet: run "taproot trust package"')
    version = version or versions[-1]
    if version not in versions:
        raise UsageFailed(f"there is no package {version}; there are: {versions}")
    data = inspection.read(space.package_path(version))
    key_version = space.bundle(version)["key_version"]
    return rollout.Offer(version, key_version, data, channel, url)


def _judge_again(space: Workspace, offer: rollout.Offer) -> None:
    keysets = [n for n in space.keyset_versions() if n <= offer.key_version]
    first = next((n for n in keysets if n >= space.settings.oldest_bootstrap), keysets[-1])
    position = verify.Position(
        inspection.read(space.keyset_path(first)), 0, now(), space.settings.dps
    )
    verdict = verify.verify_package(offer.package, position, load_roots=False)
    if not verdict.ok:
        raise PromiseFailed(f"devices would refuse this package: {verdict.code}: {verdict.text}")


def _managed(device: dict[str, Any]) -> bool:
    return (device["trust"] or {}).get("state") != "unmanaged"


def _percents(text: str) -> list[int]:
    try:
        percents = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageFailed("--stages: rising percentages up to 100, such as 5,25,100") from None
    rollout.stages([], percents, None)  # refuses what does not rise, before any connection
    return percents


def _plan(
    listed: list[str],
    percents: list[int],
    device: str | None,
    only_device: bool,
    configuration: str | None,
) -> list[tuple[str, list[str]]]:
    cut = rollout.stages(listed, percents, device)
    if only_device or configuration is not None:
        cut = cut[:1]
    names = [f"device {device}"] if device else []
    names += [f"stage {i + 1}" for i in range(len(cut) - len(names))]
    return list(zip(names, cut, strict=True))


def _show_stage(report: Report, stage: rollout.Stage, max_failures: int) -> None:
    said = f"{len(stage.good)} of {len(stage.devices)} good"
    if stage.offline:
        said += f", {len(stage.offline)} offline keep the offer"
    if stage.failed:
        said += ", failed: " + "; ".join(f"{d} ({why})" for d, why in stage.failed.items())
    if stage.withdrawn:
        said += f"; offer taken back from {len(stage.withdrawn)}"
    report.step(stage.name, len(stage.failed) <= max_failures, said)


def _configure(report: Report, hub: Service, name: str, offer: rollout.Offer, where: str) -> None:
    if hub.configuration(name) is not None:
        raise UsageFailed(f"configuration {name} exists; its content cannot be changed: new name")
    good = (
        "SELECT deviceId FROM devices WHERE "
        f"properties.reported.trust.version >= {offer.version} "
        "AND properties.reported.trust.state = 'good'"
    )
    failed = (
        "SELECT deviceId FROM devices WHERE "
        f"properties.reported.trust.last_error.version = {offer.version}"
    )
    body = {
        "id": name,
        "content": {"deviceContent": {"properties.desired.trust": offer.desired()}},
        "targetCondition": where or "*",
        "priority": offer.version,
        "metrics": {"queries": {"good": good, "failed": failed}},
    }
    hub.put_configuration(name, body)
    report.step("configuration", True, f"{name} offers version {offer.version} to {where or '*'}")


@click.command()
@click.option("--from", "source", type=_FILE, help="Read twins from a JSON file, not from a hub.")
@click.option("--html", type=_FILE, help="Write one static page.")
@click.option("--silent-days", default=statuses.DEFAULT_SILENT_DAYS, show_default=True)
@hub_options
@reporting
def status(
    report: Report,
    source: Path | None,
    html: Path | None,
    silent_days: int,
    connection_file: Path | None,
    port: int,
    ca: Path | None,
) -> None:
    """Show per root who carries it, proved it, uses it, would be stranded; and who is silent.

    The answer is kept in status.json: what would strand devices is refused by it later.

    Example: taproot trust status --from twins.json --html status.html
    """
    space = workspace()
    at = now()
    if source is not None:
        try:
            twins = json.loads(inspection.read(source))
            snap = statuses.snapshot(twins, space.settings.fleet, at)
        except (ValueError, TypeError, AttributeError):
            raise UsageFailed(f"{source}: a JSON list of device twins is needed") from None
    else:
        with _service(space, connection_file, port, ca) as hub:
            rows = hub.query("SELECT * FROM devices")
            snap = statuses.snapshot(rows, space.settings.fleet, at)
    path = space.home / "status.json"
    write_whole(path, (json.dumps(snap, indent=1) + "\n").encode())
    summary = statuses.summarise(snap, root_names(space), silent_days=silent_days)
    for line in statuses.text(summary):
        report.say(line)
    findings = fleet_findings(space)
    for finding in findings:
        report.say(f"finding: {finding}")
    if html is not None:
        write_whole(html, status_page.page(summary, findings).encode())
        report.say(f"page: {html}")
    report.step("status", True, f"{summary['devices']} devices, {len(summary['silent'])} silent")
    report.facts.update({"status": summary, "findings": findings})


def root_names(space: Workspace) -> dict[str, str]:
    """Return digest -> name of the roots an operator asks about."""
    names = {e.sha256: e.note for e in space.roots()}
    for version in reversed(space.package_versions()):
        for root in space.bundle(version)["roots"]:
            names.setdefault(root["sha256"], str(root.get("note", "")))
    known = roots.catalogue()
    for name in known.cloud(space.settings.cloud).roots:
        names.setdefault(known.roots[name].sha256, known.roots[name].title)
    return names


def fleet_findings(space: Workspace) -> list[str]:
    """Return what deserves a look in the fleet's own settings."""
    keyset = space.keyset()
    found = [
        f"role {name} has threshold 1: whoever holds one key decides alone"
        for name, role in (("root", keyset.root), ("bundle", keyset.bundle))
        if role.threshold == 1
    ]
    if not space.settings.recovery:
        found.append("no recovery URL: a stranded device is reached only by hand")
    return found


@click.command()
@click.argument("root")
@click.option("--host", required=True, help="Which server to try it on.")
@click.option("--hub-port", default=8883, show_default=True, help="The server's TLS port.")
@click.option("--where", default="", help="Which devices, as in a twin query.")
@hub_options
@reporting
def probe(
    report: Report,
    root: str,
    host: str,
    hub_port: int,
    where: str,
    connection_file: Path | None,
    port: int,
    ca: Path | None,
) -> None:
    """Ask devices to try a server with one root alone; nothing else changes on them.

    The result comes back in their twins and shows in `taproot trust status` as proven.

    Example: taproot trust probe digicert-global-root-g2 --host HUB --connection-file hub.txt
    """
    space = workspace()
    entry = select_root(space, root)
    wish = {"trust": {"probe": {"host": host, "port": hub_port, "root": entry.sha256}}}
    with _service(space, connection_file, port, ca) as hub:
        condition = f" WHERE {where}" if where else ""
        ids = [str(t["deviceId"]) for t in hub.query(f"SELECT * FROM devices{condition}")]
        for device in ids:
            hub.patch_desired(device, wish)
    space.record("probe", {"root": entry.sha256, "host": host, "devices": len(ids)})
    report.step("probe", True, f"{len(ids)} devices asked to try {entry.note} on {host}")
    report.facts["devices"] = ids


@click.command("report")
@click.option("--since", help="From this day on; default: everything.")
@click.option("--out", type=_FILE, help="Write the text to a file as well.")
@reporting
def report_command(report: Report, since: str | None, out: Path | None) -> None:
    """Write what an auditor takes away: changes, signers, bundles, refusals lifted, the fleet.

    Example: taproot trust report --since 2026-01-01
    """
    space = workspace()
    begin = when(since) if since else 0
    check = ledger.check(space.home)
    entries = [e for e in ledger.read(space.home) if e["at"] >= begin]
    labels = {k.kid: k.label for k in space.public_keys().values()}
    bundles = [_bundle_row(space, v, labels) for v in space.package_versions()]
    lifted = [
        {"n": e["n"], "command": e["command"], "codes": _listed(e["facts"], "overridden")}
        for e in entries
        if _listed(e["facts"], "overridden")
    ]
    snap = space.status()
    summary = statuses.summarise(snap, root_names(space)) if snap else None
    lines = [
        f"Trust report of fleet {space.settings.fleet}, {inspection.day(now())}",
        f"ledger: {check.entries} entries, head {check.head}, "
        + ("chain and files hold" if not check.problems else f"{len(check.problems)} PROBLEMS"),
        *(f"  {problem}" for problem in check.problems),
        "changes:",
        *(
            f"  {e['n']:>4} {_stamp(e['at'])} {statuses.printable(e['command']):<14} {_facts(e, labels)}"
            for e in entries
        ),
        "bundles:",
        *(_bundle_line(row) for row in bundles),
        "refusals that were lifted:",
        *(
            [f"  {row['n']} {row['command']}: {', '.join(row['codes'])}" for row in lifted]
            or ["  none"]
        ),
        "findings:",
        *([f"  {text}" for text in fleet_findings(space)] or ["  none"]),
    ]
    if summary:
        lines += ["fleet at the last status:", *(f"  {line}" for line in statuses.text(summary))]
    for line in lines:
        report.say(line)
    if out is not None:
        write_whole(out, ("\n".join(lines) + "\n").encode())
    report.step("ledger", not check.problems, f"{check.entries} entries, head {check.head[:16]}")
    report.facts.update(
        {
            "since": begin,
            "head": check.head,
            "problems": check.problems,
            "entries": entries,
            "bundles": bundles,
            "lifted": lifted,
            "findings": fleet_findings(space),
            "status": summary,
        }
    )


def _stamp(at: int) -> str:
    return inspection.day(at)


def _facts(entry: dict[str, Any], labels: dict[str, str]) -> str:
    facts = entry["facts"]
    shown = []
    for name in ("fleet", "version", "note", "role", "document", "channel", "host"):
        if facts.get(name):
            shown.append(f"{name} {facts[name]}")
    kids = _listed(facts, "kids")
    if kids:
        shown.append("by " + ", ".join(labels.get(k) or k[:16] for k in kids))
    return statuses.printable(", ".join(shown))


def _listed(facts: dict[str, Any], name: str) -> list[str]:
    """Return a list of a ledger entry; whoever changed the ledger wrote what they liked."""
    found = facts.get(name)
    return [statuses.printable(item) for item in found] if isinstance(found, list) else []


def _bundle_row(space: Workspace, version: int, labels: dict[str, str]) -> dict[str, Any]:
    envelope = space.envelope(space.bundle_path(version))
    body = packages.payload_of(envelope)
    return {
        "version": version,
        "key_version": body["key_version"],
        "min_version": body["min_version"],
        "issued": body["issued"],
        "expires": body["expires"],
        "roots": [{"sha256": r["sha256"], "note": r.get("note", "")} for r in body["roots"]],
        "distrust": body.get("distrust", []),
        "signers": [labels.get(k) or k for k in envelope.kids()],
        "package_sha256": packages.sha256(space.package_path(version).read_bytes()),
    }


def _bundle_line(row: dict[str, Any]) -> str:
    return (
        f"  {row['version']:>4} {inspection.day(row['issued'])} to "
        f"{inspection.day(row['expires'])}, {len(row['roots'])} roots, "
        f"{len(row['distrust'])} distrusted, signed by {', '.join(row['signers'])}"
    )


@click.group("ledger", cls=HomeGroup)
def ledger_group() -> None:
    """The hash-chained record of every change.

    Example: taproot trust ledger verify
    """


@ledger_group.command("verify")
@click.option("--head", metavar="HASH", help="The head noted last time: it must be in the chain.")
@reporting
def ledger_verify(report: Report, head: str | None) -> None:
    """Check the chain, and that the files it speaks of are those it recorded.

    Example: taproot trust ledger verify
    """
    check = ledger.check(home_of(), head)
    for problem in check.problems:
        report.step("problem", False, problem)
    held = "chain and files hold" if not check.problems else "does not hold"
    report.step(
        "ledger", not check.problems, f"{check.entries} entries, head {check.head}: {held}"
    )
    report.facts.update({"entries": check.entries, "head": check.head})
