"""What the commands of `taproot trust` share: options, dates, selectors, one JSON object."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from taproot.console import Report, UsageFailed
from taproot.probe.file import load
from taproot.trust import guards, roots
from taproot.trust.workspace import Workspace, now

MIN_PREFIX = 8


class HomeGroup(click.Group):
    """A group whose commands are listed in the order of an operator's work."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def reporting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json` and hand the command its Report; a failure is one JSON object as well."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
    @click.pass_context
    @functools.wraps(function)
    def run(ctx: click.Context, /, as_json: bool, **options: Any) -> None:
        report = Report(_path_of(ctx), as_json)
        try:
            function(report, **options)
        except click.ClickException as exc:
            if not as_json:
                raise
            report.step("error", False, exc.format_message())
            try:
                report.finish()
            except SystemExit:
                click.echo(f"Error: {exc.format_message()}", err=True)
                sys.exit(exc.exit_code)
        report.finish()

    return run


def _path_of(ctx: click.Context) -> str:
    """Return the command's whole name, whatever the program was started as."""
    names: list[str] = []
    here: click.Context | None = ctx
    while here is not None and here.parent is not None:
        names.append(str(here.info_name))
        here = here.parent
    return " ".join(["taproot", *reversed(names)])


def home_of() -> Path:
    """Return the folder that `--home` names."""
    context = click.get_current_context().find_object(Path)
    return context if context is not None else Path("trust")


def workspace() -> Workspace:
    """Return the operator's folder."""
    return Workspace(home_of())


def when(text: str | None) -> int:
    """Return Unix seconds for a number or a date (UTC); the present without one."""
    if text is None:
        return now()
    if re.fullmatch(r"[0-9]{1,10}", text):
        return int(text)
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise UsageFailed(f"{text!r}: give Unix seconds or a date like 2026-11-23") from None


def role_of(text: str) -> tuple[int, int]:
    """Parse `2-of-3`."""
    match = re.fullmatch(r"([1-9])-of-([1-9])", text)
    if not match or int(match[1]) > int(match[2]):
        raise UsageFailed(f"{text!r}: a role is written like 2-of-3")
    return int(match[1]), int(match[2])


def uses_of(text: str) -> list[str]:
    """Parse `hub,dps`."""
    found = [part.strip() for part in text.split(",")]
    if not found or not set(found) <= set(roots.USES) or len(set(found)) != len(found):
        raise UsageFailed(f"--use {text!r}: some of {','.join(roots.USES)}")
    return found


def select_root(space: Workspace, name: str) -> Any:
    """Find a root of the working list by note, catalogue name or digest prefix."""
    entries = space.roots()
    known = roots.catalogue().roots.get(name)
    found = [
        e
        for e in entries
        if e.note == name
        or (known is not None and e.sha256 == known.sha256)
        or (len(name) >= MIN_PREFIX and e.sha256.startswith(name.lower()))
    ]
    if len(found) != 1:
        listed = "".join(f"\n  {e.sha256[:16]}  {e.note}" for e in entries)
        raise UsageFailed(f"root {name!r}: {len(found)} found; the working list has:{listed}")
    return found[0]


def situation(
    space: Workspace,
    version: int,
    key_version: int,
    coming: int = 0,
    probed: Sequence[Path] = (),
) -> guards.Situation:
    """Collect what the guards look at; `coming` counts the bytes that are not on disk yet."""
    oldest = space.settings.oldest_bootstrap
    steps = [n for n in space.keyset_versions() if oldest < n <= key_version]
    chain = sum(space.keyset_path(n).stat().st_size for n in steps)
    return guards.Situation(
        settings=space.settings,
        catalogue=roots.catalogue(),
        at=now(),
        previous=space.previous(version),
        status=space.status(),
        key_version=key_version,
        chain_bytes=chain + coming,
        servers=[server for path in probed for server in load(path)],
    )


def with_probes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that names files of `taproot probe --out`."""
    return click.option(
        "--probe", "probed", multiple=True, type=click.Path(path_type=Path),
        help="File of 'taproot probe --out': its servers must be reachable with the bundle.",
    )(function)  # fmt: skip


def telling_twice(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the two options that lift a refusal."""
    function = click.option(
        "--confirm-fleet", metavar="NAME", help="Second half of lifting a refusal: the fleet."
    )(function)
    return click.option(
        "--despite", multiple=True, metavar="CODE", help="First half: the refusal, by its code."
    )(function)


def tell(report: Report, findings: list[guards.Finding], overridden: list[guards.Finding]) -> None:
    """Show findings that did not stop the command."""
    for finding in findings:
        if finding in overridden:
            report.say(f"overridden {finding.code}: {finding.text}")
        elif not finding.refuses:
            report.say(f"note {finding.code}: {finding.text}")
    report.facts["findings"] = [f.to_json() for f in findings]
    report.facts["overridden"] = sorted({f.code for f in overridden})


def within(path: Path, home: Path) -> Path | None:
    """Return a file of the operator's folder as `home/…`, or None if it lies elsewhere."""
    found, base = path.resolve(), home.resolve()
    return home / found.relative_to(base) if found.is_relative_to(base) else None
