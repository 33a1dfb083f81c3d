"""`taproot probe HOST[:PORT]…`: asks, prints, and with --watch raises the alarm."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from taproot.console import PeerFailed, Report, UsageFailed
from taproot.probe.chain import known_roots
from taproot.probe.file import usable
from taproot.probe.picture import ladders
from taproot.probe.questions import Probe, accepted, alarms, unusable
from taproot.probe.wire import Unreachable

_LONGEST = 3600  # seconds for one handshake


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="HOST[:PORT]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--picture", is_flag=True, help="Draw the handshakes with bytes per record.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Bundle, package or PEM to check.")
@click.option(
    "--root", "roots", type=click.Path(path_type=Path), multiple=True, help="PEM of more roots."
)
@click.option("--name", default="", help="Server name to ask for and verify, if not HOST.")
@click.option("--watch", is_flag=True, help="Alarm for cron: exit 1 when something needs care.")
@click.option(
    "--days", type=click.IntRange(0, 36_500), default=30, show_default=True,
    help="Alarm this many days before an end.",
)  # fmt: skip
@click.option("--timeout", default=10.0, show_default=True, help="Seconds per handshake.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the JSON object here.")
def command(
    targets: tuple[str, ...],
    as_json: bool,
    picture: bool,
    bundle: Path | None,
    roots: tuple[Path, ...],
    name: str,
    watch: bool,
    days: int,
    timeout: float,
    out: Path | None,
) -> None:
    """Ask a TLS server what a device needs to know before it meets it.

    One TLS handshake per question; no account, no credential, no MQTT. Ends with 0 when all was
    answered, 1 when no shipped board can talk to the server, or for an alarm of --watch; 3 when a
    server is not reached, speaks no TLS or leaves a question open that devices depend on.

    Example: taproot probe localhost:8883 --root root.pem --picture
    """
    report = Report("taproot probe", as_json)
    if not 0 < timeout <= _LONGEST:
        raise UsageFailed(f"--timeout is more than 0 and at most {_LONGEST} seconds")
    if name:
        _check_name(name)
    where = [parse(target) for target in targets]
    known = known_roots(bundle, roots)
    failures = []
    report.facts["targets"] = []
    for target, (host, port) in zip(targets, where, strict=True):
        probe = Probe(
            host, port, known, name, bundle is not None, timeout,
            say=lambda text, host=host: click.echo(f"{host}: {text}", err=True),
        )  # fmt: skip
        try:
            answers = probe.run()
        except Unreachable as error:
            failures.append(str(error))
            report.step(target, False, str(error))
            continue
        report.facts["targets"].append(answers)
        _print(report, answers)
        if picture:
            for line in ladders(probe.ladders):
                report.say(line)
        failures += _judge(
            report, target, answers, alarms(answers, days, bundle is not None), watch
        )
    if out is not None:
        _write(out, report)
    if failures:
        if as_json:
            # The object is still complete; the exit status says that a peer failed.
            _finish(report)
        raise PeerFailed("; ".join(failures))
    report.finish()


def _judge(
    report: Report, target: str, answers: dict[str, Any], wrong: list[str], watch: bool
) -> list[str]:
    """Record how it ends with one target; return what its server failed at."""
    missing = [one["question"] for one in answers["unanswered"] if one["device"]]
    failed = [f"{target}: no answer to {', '.join(missing)}"] if missing else []
    if not answers["tls"]:
        failed, wrong = [f"{target} speaks no TLS, not a byte of it: {answers['note']}"], []
    if watch or failed or unusable(answers):
        text = "; ".join([*failed, *wrong])
        report.step(target, not text, text or "nothing to do")
        return failed
    for text in wrong:
        report.say(f"note: {text}")
    report.step(target, True, f"{answers['handshakes']} handshakes")
    return failed


def _finish(report: Report) -> None:
    try:
        report.finish()
    except SystemExit:
        raise SystemExit(3) from None


def _write(path: Path, report: Report) -> None:
    import json

    body = {"schema": 1, "tool": report.tool, "ok": report.ok, **report.facts}
    try:
        path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageFailed(f"cannot write {path}: {error.strerror}") from None


def parse(target: str) -> tuple[str, int]:
    """`host`, `host:port` or `[v6]:port`; the port is 8883 when it is left out."""
    host, colon, port = target.rpartition(":")
    if target.startswith("[") and "]" in target:
        host, _, rest = target[1:].partition("]")
        colon, port = rest[:1], rest[1:]
    elif not colon or ":" in host:
        host, colon, port = target, "", ""
    if not host or (colon and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise UsageFailed(f"'{target}' is not HOST or HOST:PORT")
    _check_name(host)
    return host, int(port) if port else 8883


def _check_name(name: str) -> None:
    try:
        name.encode("idna")
    except UnicodeError as error:
        raise UsageFailed(f"'{name}' is no host name: {error}") from None


def _print(report: Report, answers: dict[str, Any]) -> None:
    say = report.say
    say(f"\n{answers['target']}")
    if not answers["tls"]:
        return
    versions = answers["versions"]
    marks = {True: "yes", False: "no", None: "no answer"}
    say("  versions   " + ", ".join(f"{name} {marks[v]}" for name, v in versions.items()))
    for one in answers["unanswered"]:
        say(f"  unanswered {one['question']}: {one['why']}")
    if "note" in answers:
        say(f"  TLS 1.2    refused: {answers['note']}; nothing more was asked")
    else:
        _print_answers(say, answers)
    if unusable(answers):
        say(f"  {unusable(answers)}")
    for name, why in answers["plans"].items():
        say(f"  plan {name:<8}{why}")


def _print_answers(say: Any, answers: dict[str, Any]) -> None:
    for kind in ("recommended", "legacy", "weak"):
        say(f"  {kind:<12}{accepted(answers, kind)}")
    for kind, chain in answers["chains"].items():
        _print_chain(say, kind, chain)
    for size, answer in answers["mfl"].items():
        say(f"  MFL {size:<7}{_fragments(answer)}, largest record {answer['largest_record']}")
    _print_rest(say, answers)


def _fragments(answer: dict[str, Any]) -> str:
    if "refused" in answer:
        return f"refused: {answer['refused']}"
    if not answer["echoed"]:
        return "ignored"
    if not answer["obeyed"]:
        return "acknowledged, NOT OBEYED"
    return "acknowledged, obeyed" if answer["tested"] else "acknowledged, nothing longer to send"


def _print_chain(say: Any, kind: str, chain: dict[str, Any] | None) -> None:
    if chain is None:
        say(f"  {kind:<5} chain none presented")
        return
    if "unreadable" in chain:
        say(f"  {kind:<5} chain cannot be read: {chain['unreadable']}")
        return
    say(f"  {kind:<5} chain {chain['certificate_message']} bytes, {chain['days_left']} days left")
    for cert in chain["certificates"]:
        ends = time.strftime("%Y-%m-%d", time.gmtime(cert["not_after"]))
        say(f"    {cert['subject']} ({cert['key']}, until {ends}, {cert['sha256'][:16]})")
    for root in chain["roots"]:
        say(f"    root: {root['name']} ({root['sha256'][:16]})")
    if not chain["roots"]:
        say("    root: none that is known here; give --root FILE or --bundle FILE")
    held = [cloud for cloud, there in chain["clouds"].items() if there]
    say("    held by: " + (", ".join(held) or "no cloud profile"))
    if "bundle" in chain:
        say("    bundle: " + ("holds the root" if chain["bundle"] else "DOES NOT HOLD THE ROOT"))
    if not chain["name_fits"]:
        say("    the certificate is for another host name")


def _print_rest(say: Any, answers: dict[str, Any]) -> None:
    resumption = answers["resumption"]
    if not resumption["asked"]:
        say(f"  resumption not asked: {resumption['why']}")
    for way in ("ticket", "id"):
        if way in resumption:
            say(f"  by {way:<8}{_resumes(way, resumption[way])}")
    sni = answers["sni"]
    needed = {True: "needed", False: "not needed", None: "not known"}[sni["needed"]]
    say(f"  SNI        {needed}; without: {sni['without']}; "
        f"unknown name: {sni['unknown_name']}")  # fmt: skip
    asks = "asked for" if answers["client_certificate_asked"] else "not asked for"
    say(f"  client certificate {asks}")
    skew = answers["clock"]["server_skew_s"]
    say("  clock      " + ("server does not tell" if skew is None else f"server is {skew} s off"))
    size = answers["input_buffer"]
    if size is None:
        return
    say(f"  largest message {size['largest_message']}, record {size['largest_record']}; smallest IN "
        f"that holds both {size['smallest'] or 'none, 16384 is the limit'}")  # fmt: skip
    if not usable(answers["mfl"]):
        say("             after the handshake records may be longer: up to 16384 bytes")


def _resumes(way: str, told: dict[str, Any]) -> str:
    if told["resumed"] is None:
        return f"not known: the handshake failed ({told['error']})"
    if not told["offered"]:
        return f"does not resume: the server gave no {way}"
    if not told["resumed"]:
        return "does not resume, though the server gave one"
    if way == "id":
        return "resumes, for how long is not announced"
    return f"resumes, lifetime {told['lifetime_s']} s"
