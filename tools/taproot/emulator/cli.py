"""`taproot emulator`: run a local IoT Hub and DPS, and steer a running one.

Responsible for: options, the process (signals, ready line, event stream), the subcommands. Not
for: anything the hub does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import ssl
import sys
from pathlib import Path
from typing import Any

import click

from taproot.console import Report, UsageFailed
from taproot.emulator.client import (
    ControlClient,
    control_file,
    remove_control_file,
    write_control_file,
)
from taproot.emulator.credentials import new_key

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(invoke_without_command=True, subcommand_metavar="[COMMAND]")
@click.option("--config", "config_file", type=_FILE, help="TOML file; flags win over it.")
@click.option("--port", "mqtt_port", type=click.IntRange(0, 65535), help="MQTT over TLS [8883].")
@click.option("--port-https", "https_port", type=click.IntRange(0, 65535), help="HTTPS [8443].")
@click.option(
    "--port-control", "control_port", type=click.IntRange(0, 65535), help="Control API [8088]."
)
@click.option("--bind", help="Address to listen on [127.0.0.1].")
@click.option("--host-name", "host_names", multiple=True, help="Name of the hub [localhost].")
@click.option(
    "--template", "templates", type=_FILE, multiple=True, help="ARM template to enforce."
)
@click.option(
    "--state",
    "state_dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep root, devices and twins here.",
)
@click.option("--device", "devices", multiple=True, help="Register a device (d) or module (d/m).")
@click.option("--chain", "chain_file", type=_FILE, help="Server certificate: PEM, leaf first.")
@click.option("--key", "key_file", type=_FILE, help="Its private key.")
@click.option(
    "--root-file",
    type=_FILE,
    help="Write the root that clients have to trust: DER if the name ends in .der, else PEM.",
)
@click.option("--preview", is_flag=True, default=None, help="Speak preview members.")
@click.option(
    "--random-faults", is_flag=True, default=None, help="Disturb connections, repeatably."
)
@click.option("--seed", type=click.IntRange(0), help="Seed of the random faults [0].")
@click.option("--events", "stream", is_flag=True, help="Print events, one JSON object per line.")
@click.option(
    "--control", "control_path", type=_FILE, help="File that names the running emulator."
)
@click.pass_context
def command(
    context: click.Context,
    config_file: Path | None,
    root_file: Path | None,
    stream: bool,
    control_path: Path | None,
    devices: tuple[str, ...],
    **flags: Any,
) -> None:
    """Run a local IoT Hub and Device Provisioning Service. Not a Microsoft product.

    Example: taproot emulator --port 8883 --device dev1 --root-file root.pem
    """
    context.obj = control_path
    if context.invoked_subcommand is not None:
        return
    config = _configuration(config_file, devices, flags)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(config, root_file, stream, control_path or control_file()))


def _configuration(path: Path | None, devices: tuple[str, ...], flags: dict[str, Any]) -> Any:
    from taproot.emulator import config as settings

    found = {
        name: [str(one) for one in value] if isinstance(value, tuple) else value
        for name, value in flags.items()
        if value not in (None, ())
    }
    for name in ("state_dir", "chain_file", "key_file"):
        if name in found:
            found[name] = str(found[name])
    if path is not None:
        config = settings.load(path, **found)
    else:
        config = settings.EmulatorConfig(
            mqtt_port=settings.DEFAULT_MQTT,
            https_port=settings.DEFAULT_HTTPS,
            control_port=settings.DEFAULT_CONTROL,
        )
        for name, value in found.items():
            setattr(config, name, value)
    if (config.chain_file is None) != (config.key_file is None):
        raise UsageFailed("give --chain and --key together")
    config.devices += [settings.DeviceConfig(identity) for identity in devices]
    return config


async def _serve(config: Any, root_file: Path | None, stream: bool, control_path: Path) -> None:
    from taproot.emulator.registry import RegistryError
    from taproot.emulator.server import Emulator

    _raise_file_limit()
    emulator = Emulator(config)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, done.set)
    if stream:
        emulator.recorder.watch(lambda event: _print_event(event, done))
    try:
        try:
            await emulator.start()
        except RegistryError as error:
            raise UsageFailed(str(error)) from None
        if root_file is not None:
            if emulator.root_pem is None:
                raise UsageFailed("--root-file: the root of a chain given by --chain is not known")
            _write_root(root_file, emulator.root_pem)
        write_control_file(control_path, emulator.control_url, emulator.control_token)
        click.echo(_ready(emulator), err=stream)
        await done.wait()
    finally:
        await emulator.stop()
        remove_control_file(control_path)


def _print_event(event: dict[str, Any], done: asyncio.Event) -> None:
    """Print a line; when nobody reads any more, the emulator has nothing left to do."""
    try:
        click.echo(json.dumps(event))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        done.set()


def _write_root(path: Path, pem: str) -> None:
    """Write a certificate in the form that the file's name asks for."""
    if path.suffix.lower() == ".der":
        path.write_bytes(ssl.PEM_cert_to_DER_cert(pem))
    else:
        path.write_text(pem)


def _raise_file_limit() -> None:
    """Let the emulator hold as many connections as its user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _ready(emulator: Any) -> str:
    lines = [
        f"MQTT     {emulator.config.bind}:{emulator.mqtt.port}  (host name {', '.join(emulator.hub.hosts)})",
        f"HTTPS    {emulator.config.bind}:{emulator.https_port}",
        f"DPS      id scope {emulator.dps.scope}",
        f"control  {emulator.control_url}",
        "ready; Ctrl-C ends it. Not a Microsoft product.",
    ]
    return "\n".join(lines)


def _client(context: click.Context) -> ControlClient:
    return ControlClient.find(context.obj)


def _json(text: str | None, what: str) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageFailed(f"{what} is not JSON: {error}") from None


def _result(tool: str, as_json: bool, name: str, text: str, **facts: Any) -> None:
    if not as_json and text.startswith(("{", "HostName=")):
        click.echo(text)  # what a script reads
        sys.exit(0)
    report = Report(f"taproot emulator {tool}", as_json)
    report.step(name, True, text, **facts)
    report.finish()


_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@command.command()
@click.argument("device")
@click.argument("text")
@click.option(
    "--property", "properties", multiple=True, metavar="NAME=VALUE", help="Application property."
)
@click.option("--ttl", type=float, help="Seconds to live [3600].")
@_as_json
@click.pass_context
def send(
    context: click.Context,
    device: str,
    text: str,
    properties: tuple[str, ...],
    ttl: float | None,
    as_json: bool,
) -> None:
    """Send a cloud-to-device message.

    Example: taproot emulator send dev1 hello --property colour=green
    """
    bag: dict[str, Any] = {}
    for entry in properties:
        name, equals, value = entry.partition("=")
        bag[name] = value if equals else None
    more = {} if ttl is None else {"ttl": ttl}
    number = _client(context).call("send_c2d", identity=device, text=text, properties=bag, **more)
    _result("send", as_json, "send", f"{device}: message {number}", message_id=number)


@command.command()
@click.argument("device")
@click.argument("name")
@click.argument("payload", required=False)
@click.option("--timeout", default=30.0, show_default=True, help="Seconds to wait for the answer.")
@_as_json
@click.pass_context
def method(
    context: click.Context,
    device: str,
    name: str,
    payload: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Call a direct method and print what the device answers.

    Example: taproot emulator method dev1 reboot '{"delay": 5}'
    """
    result = _client(context).call(
        "invoke_method",
        identity=device,
        name=name,
        payload=_json(payload, "the payload"),
        timeout_s=timeout,
    )
    report = Report("taproot emulator method", as_json)
    ok = result["hub_status"] == 200
    text = (
        f"status {result['status']}: {json.dumps(result['payload'])}"
        if ok
        else result["error"]["message"]
    )
    report.step("method", ok, text, **result)
    report.finish()


@command.command()
@click.argument("device")
@click.option("--desired", metavar="JSON", help="Merge these desired properties first.")
@click.option("--tags", metavar="JSON", help="Merge these tags first.")
@_as_json
@click.pass_context
def twin(
    context: click.Context, device: str, desired: str | None, tags: str | None, as_json: bool
) -> None:
    """Print a twin, after a change if one is given.

    Example: taproot emulator twin dev1 --desired '{"interval": 10}'
    """
    client = _client(context)
    if desired is not None:
        client.call("patch_desired", identity=device, patch=_json(desired, "--desired"))
    if tags is not None:
        client.call("patch_tags", identity=device, patch=_json(tags, "--tags"))
    found = client.call("twin", identity=device)
    _result("twin", as_json, "twin", json.dumps(found, indent=1), twin=found)


@command.command()
@click.argument(
    "action",
    type=click.Choice(["add", "remove", "enable", "disable", "drop", "connection-string"]),
)
@click.argument("device")
@click.option(
    "--auth",
    type=click.Choice(["sas", "x509_thumbprint", "x509_ca"]),
    default="sas",
    help="Of a new device.",
)
@click.option("--thumbprint", multiple=True, help="SHA-1 or SHA-256 of its certificate.")
@_as_json
@click.pass_context
def device(
    context: click.Context,
    action: str,
    device: str,
    auth: str,
    thumbprint: tuple[str, ...],
    as_json: bool,
) -> None:
    """Register a device, steer it, or print its connection string.

    Example: taproot emulator device add dev1
    """
    client = _client(context)
    if action in ("add", "connection-string"):
        if action == "add":
            found = client.call(
                "add_device", identity=device, auth=auth, thumbprints=list(thumbprint)
            )
        else:
            found = client.call("credentials", identity=device)
        text = found["connection_string"]
        _result("device", as_json, action, text, connection_string=text)
    elif action in ("enable", "disable"):
        client.call("set_enabled", identity=device, enabled=action == "enable")
    elif action == "drop":
        client.call("drop", identity=device)
    else:
        client.call("remove_device", identity=device)
    _result("device", as_json, action, f"{device}: done")


@command.command()
@click.argument("registration")
@click.option("--group", is_flag=True, help="An enrolment group of that name.")
@click.option("--key", help="Symmetric key, base64 [a new one].")
@click.option("--thumbprint", multiple=True, help="SHA-1 or SHA-256 of a device certificate.")
@click.option("--root", "roots", type=_FILE, multiple=True, help="PEM: CA of device certificates.")
@click.option("--outcome", help="assigned, failed, unassigned or disabled.")
@click.option("--polls", type=click.IntRange(0), help="Answers 'assigning' before the result [1].")
@click.option("--retry-after", type=click.IntRange(0), help="Seconds the device is to wait [0].")
@click.option("--payload", metavar="JSON", help="What the device gets as payload.")
@_as_json
@click.pass_context
def enroll(
    context: click.Context,
    registration: str,
    group: bool,
    key: str | None,
    thumbprint: tuple[str, ...],
    roots: tuple[Path, ...],
    payload: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Enrol a device or a group at DPS; prints the key it registers with.

    Example: taproot emulator enroll sensor-1
    """
    facts: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    if thumbprint or roots:
        facts.update(thumbprints=list(thumbprint), roots=[_text(path) for path in roots])
    else:
        facts["primary_key"] = key = key or new_key()
    if payload is not None:
        facts["payload"] = _json(payload, "--payload")
    _client(context).call("enroll", identity=registration, group=group, **facts)
    if key and not as_json:
        click.echo(key)  # what a script reads
        return
    _result("enroll", as_json, "enroll", f"{registration}: done", primary_key=key)


@command.command()
@click.argument("name", default="iothubowner")
@_as_json
@click.pass_context
def policy(context: click.Context, name: str, as_json: bool) -> None:
    """Print the connection string of a shared access policy, for services.

    Example: taproot emulator policy registryReadWrite
    """
    text = _client(context).call("service_connection_string", policy=name)
    _result("policy", as_json, "policy", text, connection_string=text)


@command.command()
@click.argument("specification", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--clear", is_flag=True, help="Forget the faults that still wait.")
@click.option("--list", "listed", is_flag=True, help="Print every action.")
@_as_json
@click.pass_context
def fault(
    context: click.Context,
    specification: tuple[str, ...],
    clear: bool,
    listed: bool,
    as_json: bool,
) -> None:
    """Set a fault: an action with its packet, device, count and so on.

    Example: taproot emulator fault action=withhold packet=PUBACK device=dev1 count=3
    """
    if listed:
        from taproot.emulator.faults import ACTIONS

        for name, (where, _, text) in ACTIONS.items():
            click.echo(f"{name:14} {where:6} {text}")
        return
    client = _client(context)
    if clear:
        _result("fault", as_json, "clear", f"{client.call('clear_faults')} forgotten")
    spec: dict[str, Any] = {}
    for entry in specification:
        name, equals, value = entry.partition("=")
        if not equals:
            raise UsageFailed(f"'{entry}' is not NAME=VALUE, for example action=reset")
        spec[name] = _scalar(name, value)
    found = client.call("fault", spec=spec)
    _result("fault", as_json, "fault", json.dumps(found), fault=found)


def _scalar(name: str, value: str) -> Any:
    if name in ("device", "packet", "action", "direction", "data"):
        return value
    if value in ("true", "false"):
        return value == "true"
    try:
        return float(value) if "." in value else int(value)
    except ValueError:
        raise UsageFailed(f"{name}={value}: a number, true or false is expected") from None


@command.command("switch-chain")
@click.argument("chain", type=_FILE, required=False)
@click.argument("key", type=_FILE, required=False)
@click.option(
    "--bad", metavar="KIND", help="A wrong chain instead: expired, wrong-host, …; none ends it."
)
@click.option("--keep", is_flag=True, help="Let open connections live.")
@click.option("--name", help="Only for this host name.")
@_as_json
@click.pass_context
def switch_chain(
    context: click.Context,
    chain: Path | None,
    key: Path | None,
    bad: str | None,
    keep: bool,
    name: str | None,
    as_json: bool,
) -> None:
    """Show another certificate chain from the next handshake on.

    Example: taproot emulator switch-chain --bad expired
    """
    if (bad is None) == (chain is None) or (chain is None) != (key is None):
        raise UsageFailed("give CHAIN and KEY (PEM files), or --bad KIND")
    client = _client(context)
    if chain is not None and key is not None:
        count = client.call(
            "switch_chain", chain_pem=_text(chain), key_pem=_text(key), drop=not keep, name=name
        )
    else:
        count = client.call("bad_chain", kind=bad, drop=not keep, name=name)
    _result("switch-chain", as_json, "switch", f"{count} connections dropped", dropped=count)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageFailed(
            f"{path}: {getattr(error, 'strerror', None) or 'not a PEM file'}"
        ) from None


@command.command()
@_as_json
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Print what the running emulator knows: devices, connections, faults, counts.

    Example: taproot emulator status --json
    """
    found = _client(context).status()
    _result("status", as_json, "status", json.dumps(found, indent=1), status=found)
