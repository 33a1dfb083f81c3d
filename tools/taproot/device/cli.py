"""`taproot device`: look at a board over its serial line, put firmware and configuration on it.

Responsible for: calling mpremote (a dependency) and saying in one line what failed. Not for:
flashing images (esptool), building them (boards/). Nothing here has met a physical board yet.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click

from taproot import interpreters
from taproot.console import PeerFailed, Report, UsageFailed

_LIMIT_S = 120
_INFO = """
import gc, json, os, sys
gc.collect()
found = {"system": os.uname()[0], "release": os.uname()[2], "free": gc.mem_free()}
try:
    import tlsopt
    found["tlsopt"] = {"in": tlsopt.IN_CONTENT_LEN, "out": tlsopt.OUT_CONTENT_LEN,
        "mbedtls": tlsopt.MBEDTLS_VERSION}
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
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
def info(port: str | None, as_json: bool) -> None:
    """Say what a board runs: versions, free heap, TLS buffers, trust.

    Example: taproot device info --port /dev/ttyUSB0
    """
    text = _mpremote(port, "exec", _INFO).strip().splitlines()
    try:
        found = json.loads(text[-1])
    except (IndexError, ValueError):
        raise PeerFailed("the board answered with something else than facts") from None
    report = Report("taproot device info", as_json)
    for name, value in found.items():
        report.step(name, True, f"{value}", value=value)
    report.finish()


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
