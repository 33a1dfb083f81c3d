"""`taproot device`: look at a board over its serial line, put firmware and configuration on it.

Responsible for: calling mpremote (a dependency) and saying in one line what failed. Not for:
flashing images (esptool), building them (boards/). Nothing here has met a physical board yet.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from taproot import interpreters
from taproot.console import PeerFailed, Report, UsageFailed
from taproot.probe.file import Server, load

_LIMIT_S = 120
_INFO = """
import gc, json, sys
gc.collect()
here = sys.implementation
found = {"system": sys.platform, "release": "%d.%d.%d" % here.version[:3],
    "machine": getattr(here, "_machine", ""), "free": gc.mem_free()}
try:
    import tlsopt
    found["tlsopt"] = {"in_len": tlsopt.IN_CONTENT_LEN, "out_len": tlsopt.OUT_CONTENT_LEN,
        "version": tlsopt.MBEDTLS_VERSION, "mfl": tlsopt.MFL, "tls13": tlsopt.TLS13,
        "variable_buffer": tlsopt.VARIABLE_BUFFER, "keep_peer": tlsopt.KEEP_PEER_CERTIFICATE,
        "ca_callback": tlsopt.CA_CALLBACK, "bignum": tlsopt.BIGNUM}
except ImportError:
    found["tlsopt"] = None
try:
    from azure_iot import __version__
    found["azure_iot"] = __version__
    from azure_iot.trust.factory import Factory
    from azure_iot.trust.store import Store
    from azure_iot.trust.manager import TrustManager
    from azure_iot.clock import default
    found["trust"] = repr(TrustManager(Store("/trust", Factory.from_module()), default()))
except ImportError as error:
    found["missing"] = str(error)
print(json.dumps(found))
"""


def _mpremote(port: str | None, *words: str) -> str:
    """Run mpremote; PeerFailed in one line when the board does not answer."""
    line = [sys.executable, "-m", "mpremote"]
    line += ["connect", port] if port else []
    try:
        done = subprocess.run(
            [*line, *words], capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"the board gave no answer within {_LIMIT_S} s") from None
    if done.returncode:
        text = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise PeerFailed(
            f"mpremote: {text[-1]}; is the board plugged in and no other program on its port? "
            "Name it with --port"
        )
    return done.stdout


@click.group()
def command() -> None:
    """Look at a board, deploy to it.

    Example: taproot device info --port /dev/ttyUSB0
    """


@command.command()
@click.option("--port", help="serial port; the first board found without it")
@click.option("--interpreter", metavar="BUILD", help="an interpreter of 'make setup', no board")
@click.option(
    "--probe", "probed", type=click.Path(path_type=Path),
    help="file of 'taproot probe --out': how this firmware would connect to its servers",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
def info(port: str | None, interpreter: str | None, probed: Path | None, as_json: bool) -> None:
    """Say what a board runs: versions, free heap, TLS buffers, trust.

    Example: taproot device info --port /dev/ttyUSB0
    """
    servers = load(probed) if probed else []
    if interpreter:
        answer = interpreters.run(interpreter, _INFO).stdout
    else:
        answer = _mpremote(port, "exec", _INFO)
    text = answer.strip().splitlines()
    try:
        found = json.loads(text[-1])
    except (IndexError, ValueError):
        raise PeerFailed("the board answered with something else than facts") from None
    report = Report("taproot device info", as_json)
    for name, value in found.items():
        report.step(name, True, f"{value}", value=value)
    for server in servers:
        ok, plan = _plan(found.get("tlsopt"), server)
        report.step(server.target, ok, plan)
    report.finish()


def _plan(settings: dict[str, Any] | None, server: Server) -> tuple[bool, str]:
    """How this firmware would connect to a probed server, or why it cannot."""
    from azure_iot.tls.profile import Build

    return server.plan(Build(module=True, **settings) if settings else Build())


@command.command()
@click.option("--port", help="serial port; the first board found without it")
@click.option(
    "--config", required=True, type=click.Path(dir_okay=False, path_type=Path),
    help="device.json (firmware/azure_iot/agent.py says what is in it)",
)  # fmt: skip
@click.option(
    "--factory", required=True, type=click.Path(dir_okay=False, path_type=Path),
    help="trust_factory.py of your fleet, made by 'taproot trust factory'",
)  # fmt: skip
@click.option("--main", "main_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--demo", is_flag=True, help="allow a fleet whose name starts with demo-")
@click.option("--dry-run", is_flag=True, help="check everything, copy nothing")
def deploy(
    port: str | None, config: Path, factory: Path, main_file: Path | None, demo: bool,
    dry_run: bool,
) -> None:  # fmt: skip
    """Copy the device package, its configuration and the fleet's factory trust to a board.

    Example: taproot device deploy --config device.json --factory trust_factory.py --dry-run
    """
    for path in (config, factory, *([main_file] if main_file else [])):
        if not path.is_file():
            raise UsageFailed(f"{path}: no such file")
    try:
        wanted = json.loads(config.read_text())
    except ValueError as error:
        raise UsageFailed(f"{config}: not JSON: {error}") from None
    if not isinstance(wanted, dict) or not {"connection_string", "dps"} & set(wanted):
        raise UsageFailed(f"{config}: needs connection_string or dps")
    if "SharedAccessKeyName" in str(wanted.get("connection_string", "")):
        raise UsageFailed(
            f"{config}: that is a connection string of a hub policy, it opens the whole hub; "
            "take the device's own"
        )
    if "demo-" in factory.read_text() and not demo:
        raise UsageFailed(f"{factory}: a demo fleet; say --demo if you mean it")
    package = interpreters.firmware_folder() / "azure_iot"
    main_file = main_file or interpreters.firmware_folder() / "examples" / "main.py"
    copies = [(package, ":"), (config, ":device.json"), (factory, ":trust_factory.py"),
              (main_file, ":main.py")]  # fmt: skip
    for source, target in copies:
        if not dry_run:
            flag = ["-r"] if source.is_dir() else []
            _mpremote(port, "cp", *flag, str(source), target)
        click.echo(f"{'would copy' if dry_run else 'copied'} {source.name} to {target}")
    if not dry_run:
        _mpremote(port, "reset")
