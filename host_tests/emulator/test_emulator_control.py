"""Configuration, control API and command line: what people touch, and what they are told."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support import wire
from taproot.console import PeerFailed, UsageFailed
from taproot.emulator import EmulatorConfig, config, running
from taproot.emulator.cli import _write_root, command
from taproot.emulator.client import ControlClient, write_control_file
from taproot.pki import Authority

# -- configuration ---------------------------------------------------------------------------


def write(folder, text):
    path = folder / "hub.toml"
    path.write_text(text)
    return path


def test_a_whole_configuration_file(tmp_path):
    """Every table, and flags that win."""
    path = write(tmp_path, """
mqtt_port = 0
host_names = ["localhost", "myhub.azure-devices.net"]
record_packets = true
[tls]
profile = "device"
profiles = { "localhost" = "classic" }
[limits]
twin_per_second = 5
[reactions]
unknown_filter = "close"
[[devices]]
id = "dev1"
desired = { interval = 10 }
[[devices]]
id = "dev1/mod"
[[faults]]
action = "withhold"
packet = "PUBACK"
""")  # fmt: skip
    found = config.load(path, mqtt_port=1234, https_port=None)
    assert (found.mqtt_port, found.tls.profile, found.limits.twin_per_second) == (
        1234,
        "device",
        5,
    )
    assert found.reactions.unknown_filter == "close" and found.devices[1].id == "dev1/mod"
    found.mqtt_port = 0
    with running(found) as emu:
        assert emu.twin("dev1")["properties"]["desired"]["interval"] == 10
        assert emu.status()["faults"][0]["packet"] == "PUBACK"


@pytest.mark.parametrize(
    "text,line,says",
    [
        ("mqtt_port = 1\nmqtt_prot = 2", 2, "unknown key 'mqtt_prot'"),
        ("bind = 7", 1, "'bind' is to be a string"),
        ("\n\nmqtt_port = true", 3, "whole number"),
        ("mqtt_port = 70000", 1, "0 to 65535"),
        ("host_names = [1]", 1, "a list of which each is a string"),
        ("[tls]\n\nprofile = 'future'", 3, "one of classic"),
        ("[tls]\ntickets = 'some'", 2, "off, kept or lost"),
        ("[limits]\nspeed = 3", 2, "unknown key 'speed' in \\[limits\\]"),
        ("[reactions]\nunknown_filter = 'laugh'", 2, "suback, close"),
        ("tls = 3", 1, "write \\[tls\\]"),
        (
            "[[devices]]\nid = 'a'\n[[devices]]\nid = 'b'\nkey = 'x'",
            5,
            "unknown key 'key' in \\[devices\\]",
        ),
        ("[[devices]]\nauth = 'sas'", 1, "'id' is missing"),
        ("[[faults]]\naction = 'explode'", 2, "unknown fault action"),
        ("fault_interval = 0", 1, "above 0"),
        ("mqtt_port = = 1", 1, "not TOML"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(tmp_path, text, line, says):
    """`file:line: what is wrong and what is known`."""
    path = write(tmp_path, text)
    with pytest.raises(UsageFailed, match=says) as caught:
        config.load(path)
    where = f"line {line}" if "not TOML" in says else f"{path}:{line}:"
    assert where in caught.value.message


def test_a_missing_file_is_named(tmp_path):
    """No traceback."""
    with pytest.raises(UsageFailed, match="No such file"):
        config.load(tmp_path / "none.toml")


def test_a_port_in_use_is_said():
    """With the remedy."""
    with running(EmulatorConfig(https_port=None)) as emu:
        with pytest.raises(UsageFailed, match="choose another port"):
            with running(EmulatorConfig(mqtt_port=emu.mqtt_port)):
                pass


def test_a_state_directory_keeps_root_devices_and_messages(tmp_path):
    """A second run knows the first one's devices, twins and pending messages."""
    state = str(tmp_path / "state")
    with running(EmulatorConfig(state_dir=state, https_port=None, plain_port=0)) as emu:
        first = emu.add_device("d")
        emu.add_device("d/m")
        emu.patch_desired("d", {"a": 1})
        with wire.Wire.plain(emu.plain_port) as link:
            login = wire.credentials(emu.host, "d", first.primary_key)
            link.send(wire.connect("d", clean=False, **login)).expect(wire.CONNACK)
            link.send(wire.subscribe(1, ("devices/d/messages/devicebound/#", 1))).expect(
                wire.SUBACK
            )
        emu.wait_for(lambda e: e["type"] == "disconnect")
        emu.send_c2d("d", "kept")
        root = emu.root_pem
    mode = (tmp_path / "state" / "hub.json").stat().st_mode
    assert mode & 0o077 == 0
    with running(EmulatorConfig(state_dir=state, https_port=None, plain_port=0)) as emu:
        assert emu.root_pem == root
        assert emu.twin("d")["properties"]["desired"]["a"] == 1 and emu.twin("d/m")
        context = ssl.create_default_context(cadata=root)
        with wire.Wire.tls(emu.mqtt_port, context) as link:
            login = wire.credentials(emu.host, "d", first.primary_key)
            link.send(wire.connect("d", clean=False, **login)).expect(wire.CONNACK)
            assert link.delivery()[1] == b"kept"
    (tmp_path / "state" / "hub.json").write_text("{")
    with pytest.raises(UsageFailed, match="damaged; delete it"):
        with running(EmulatorConfig(state_dir=state)):
            pass


# -- the control API -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def control(hub):
    return ControlClient(hub.control_url, hub.control_token)


def request(hub, path, body=None, token=None):
    """One raw request; return (status, JSON)."""
    headers = {"Authorization": f"Bearer {hub.control_token if token is None else token}"}
    ask = urllib.request.Request(
        hub.control_url + path, body, headers, method="POST" if body is not None else "GET"
    )
    try:
        with urllib.request.urlopen(ask, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("token", ["", "wrong", "\xe4"])
def test_the_control_api_needs_its_token(hub, token):
    """401 without it, on every path."""
    for path, body in (("/v1/status", None), ("/v1/drop", b"{}"), ("/v1/events", None)):
        status, answer = request(hub, path, body, token)
        assert status == 401 and "token" in answer["error"]


@pytest.mark.parametrize(
    "operation,body,status,says",
    [
        ("nothing", b"{}", 404, "known are"),
        ("twin", b"{}", 400, "'identity' is missing"),
        ("twin", b'{"identity": "nobody"}', 404, "not registered"),
        ("twin", b'{"identity": "x", "who": 1}', 400, "unknown member 'who'"),
        ("twin", b"[1]", 400, "not a JSON object"),
        ("twin", b"{", 400, "not JSON"),
        ("fault", b'{"spec": {"action": "x"}}', 400, "unknown fault action"),
        (
            "invoke_method",
            b'{"identity": "x", "name": "a+b"}',
            400,
            "no method can be named 'a+b'",
        ),
        ("send_c2d", b'{"identity": "x"}', 400, "either 'text' or 'base64'"),
        ("switch_chain", b'{"chain_pem": "x", "key_pem": "y"}', 400, ""),
        ("bad_chain", b'{"kind": "rusty"}', 400, "one of expired"),
        ("add_device", b'{"identity": "a b"}', 400, "letters"),
    ],
)
def test_control_errors_are_sentences(hub, operation, body, status, says):
    """The status fits, the text says what is expected."""
    found, answer = request(hub, f"/v1/{operation}", body)
    assert (found, says in answer["error"]) == (status, True), answer


def test_every_operation_works_from_outside(hub, control, device):
    """What `running()` offers, over HTTP."""
    made = control.call("add_device", identity=f"{device.id}-x")
    assert made["connection_string"].endswith(made["primary_key"])
    link = device.connect()
    link.send(wire.subscribe(1, (device.inbox, 1), ("$iothub/methods/POST/#", 0))).expect(
        wire.SUBACK
    )
    link.send(wire.publish(device.events + "a=b", b"\xff", 1, 1)).expect(wire.PUBACK)
    [message] = control.call("messages", identity=device.id)
    assert (message["base64"], message["properties"]) == ("/w==", {"a": "b"})
    control.call("send_c2d", identity=device.id, base64="AAE=", properties={"k": "v"})
    assert link.delivery()[1] == b"\0\1"
    control.call("patch_tags", identity=device.id, patch={"site": "x"})
    assert control.call("patch_desired", identity=device.id, patch={"i": 1}) == 2
    assert control.call("twin", identity=device.id)["tags"] == {"site": "x"}
    answer = threading.Thread(target=lambda: link.send(wire.publish(
        "$iothub/methods/res/200/?$rid=" + link.delivery()[0].split("$rid=")[1], b"[1]")))  # fmt: skip
    answer.start()
    assert control.call("invoke_method", identity=device.id, name="m", timeout_s=5)["payload"] == [
        1
    ]
    answer.join()
    url = control.call("publish_file", name="f.txt", text="hello")
    assert urllib.request.urlopen(url, timeout=5).read() == b"hello"
    control.call("fault", spec={"action": "withhold", "packet": "PUBACK", "device": device.id})
    assert control.status()["faults"][0]["device"] == device.id
    assert control.call("clear_faults", identity=device.id) == 1
    assert control.call("drop", identity=device.id) == 1
    control.call("set_enabled", identity=device.id, enabled=False)
    device.connect(code=5)
    leaf = Authority.root("r").leaf("localhost")
    assert control.call("switch_chain", chain_pem=leaf.chain_pem, key_pem=leaf.key_pem) == 0
    control.call("remove_device", identity=f"{device.id}-x")


def test_the_event_stream_follows(hub, control, device):
    """Past events, then new ones as they come; several readers at once."""

    def lines(since):
        ask = urllib.request.Request(f"{hub.control_url}/v1/events?follow=1&since={since}",
                                     headers={"Authorization": f"Bearer {hub.control_token}"})  # fmt: skip
        return urllib.request.urlopen(ask, timeout=10)

    start = hub.emulator.recorder.seq
    device.connect()
    with lines(start) as first, lines(start) as second:
        seen = [json.loads(first.readline()) for _ in range(2)]
        assert [event["type"] for event in seen] == ["connect", "connack"]
        hub.drop(device.id)
        assert json.loads(first.readline())["type"] == "disconnect"
        assert [json.loads(second.readline())["type"] for _ in range(3)][-1] == "disconnect"


def test_nothing_secret_is_shown(hub, control, device):
    """Neither keys nor tokens nor the control token in events, status or representations."""
    device.connect().close()
    device.connect(password="SharedAccessSignature sr=x&sig=c2VjcmV0&se=1", code=5)
    shown = json.dumps(hub.events()) + json.dumps(control.status()) + repr(device.record)
    shown += repr(hub.emulator.config) + repr(hub.emulator.hub.registry.policies)
    secrets = [device.key, device.record.secondary_key, "c2VjcmV0", "SharedAccessSignature",
               hub.control_token, hub.emulator.hub.registry.policies["iothubowner"].primary_key]  # fmt: skip
    assert [secret for secret in secrets if secret in shown] == []


# -- the command line ------------------------------------------------------------------------


@pytest.fixture
def control_path(hub, tmp_path):
    path = tmp_path / "control.json"
    write_control_file(path, hub.control_url, hub.control_token)
    assert path.stat().st_mode & 0o077 == 0
    return path


def cli(control_path, *args):
    """Run one subcommand; return (exit code, output)."""
    found = CliRunner().invoke(command, ["--control", str(control_path), *args])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.output
    return found.exit_code, found.output


def examples():
    """(subcommand, words of its example) of every subcommand."""
    found = []
    for name, sub in command.commands.items():
        text = re.search(r"Example: (taproot emulator .*)", sub.help or "")
        assert text, f"'{name}' has no example"
        import shlex

        found.append((name, shlex.split(text[1])[2:]))
    return found


@pytest.mark.parametrize("name,words", examples(), ids=[name for name, _ in examples()])
def test_the_example_of_each_command_runs(hub, control_path, name, words, tmp_path, monkeypatch):
    """As it stands in --help, against a hub with a device `dev1` that answers methods."""
    monkeypatch.chdir(tmp_path)
    registry = hub.emulator.hub.registry
    if name == "device":
        if registry.find("dev1"):
            hub.remove_device("dev1")
    elif not registry.find("dev1"):
        hub.add_device("dev1")
    if name == "method":
        login = wire.credentials(hub.host, "dev1", registry.get("dev1").primary_key)
        link = wire.Wire.plain(hub.plain_port)
        link.send(wire.connect("dev1", **login), wire.subscribe(1, ("$iothub/methods/POST/#", 0)))
        link.expect(wire.CONNACK), link.expect(wire.SUBACK)
        threading.Thread(target=lambda: link.send(wire.publish(
            "$iothub/methods/res/200/?$rid=" + link.delivery()[0].split("$rid=")[1], b"{}"))).start()  # fmt: skip
    code, output = cli(control_path, *words)
    assert code == 0, output
    hub.clear_faults()
    hub.bad_chain("none")


def test_json_output_is_one_object(hub, control_path, device):
    """With schema, tool, ok and steps."""
    for words in (
        ["status"],
        ["twin", device.id],
        ["send", device.id, "x"],
        ["device", "disable", device.id],
    ):
        found = CliRunner().invoke(command, ["--control", str(control_path), *words, "--json"])
        body = json.loads(found.stdout)
        assert found.exit_code == 0 and (body["schema"], body["ok"]) == (1, True) and body["steps"]


@pytest.mark.parametrize(
    "words,code,says",
    [
        (["twin", "nobody"], 2, "not registered"), (["twin", "d", "--desired", "{"], 2, "not JSON"),
        (["fault", "action"], 2, "NAME=VALUE"), (["fault", "action=x"], 2, "unknown fault action"),
        (["fault", "action=refuse", "code=many"], 2, "a number"), (["switch-chain"], 2, "--bad KIND"),
        (["switch-chain", "none.pem", "none.key"], 2, "No such file"), (["method", "nobody", "m"], 2, "not registered"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(control_path, words, code, says):
    """Exit status 2 and what to do."""
    found, output = cli(control_path, *words)
    assert (found, says in output) == (code, True), output
    assert "Traceback" not in output


def test_no_emulator_and_a_dead_one(tmp_path):
    """Not running: 2 with the remedy; gone: 3."""
    code, output = cli(tmp_path / "none.json", "status")
    assert code == 2 and "start one with" in output
    write_control_file(tmp_path / "dead.json", "http://127.0.0.1:9", "x")
    code, output = cli(tmp_path / "dead.json", "status")
    assert code == 3 and "does not answer" in output
    with pytest.raises(PeerFailed):
        ControlClient("http://127.0.0.1:9", "x").status()


def test_the_root_is_written_in_the_form_that_its_name_asks_for(hub, tmp_path):
    pem = hub.root_pem
    for name in ("root.der", "ROOT.DER", "root.pem"):
        _write_root(tmp_path / name, pem)
    assert (tmp_path / "root.pem").read_text() == pem
    for name in ("root.der", "ROOT.DER"):
        assert (tmp_path / name).read_bytes() == ssl.PEM_cert_to_DER_cert(pem)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_emulator_in_under_a_second(tmp_path, number):
    """With connections open, an event stream, faults and random faults running."""
    path, root = tmp_path / "control.json", tmp_path / "root.pem"
    process = subprocess.Popen(
        [sys.executable, "-m", "taproot", "emulator", "--port", "0", "--port-https", "0", "--port-control", "0",
         "--device", "dev1", "--root-file", str(root), "--control", str(path), "--events", "--state",
         str(tmp_path / "state")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert "MQTT" in process.stderr.readline()
        client = ControlClient.find(path)
        port, key = (
            client.status()["mqtt_port"],
            client.call("credentials", identity="dev1")["primary_key"],
        )
        link = wire.Wire.tls(port, ssl.create_default_context(cafile=root))
        link.send(wire.connect("dev1", **wire.credentials("localhost", "dev1", key))).expect(
            wire.CONNACK
        )
        idle = wire.Wire.plain(port)
        start = time.monotonic()
        process.send_signal(number)
        assert process.wait(5) == 0
        # of a machine that has a core to spare; on a busy one a process waits for its turn
        assert time.monotonic() - start < max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        link.close(), idle.close()
        out, err = process.communicate()
        assert key not in out + err and "Traceback" not in err
        types = [json.loads(line)["type"] for line in out.splitlines()]
        assert types[:3] == ["tls", "connect", "connack"] and "disconnect" in types[3:]
        assert not path.exists() and (tmp_path / "state" / "hub.json").exists()
    finally:
        process.kill()
        process.wait()
        process.stdout.close(), process.stderr.close()


def test_a_reader_that_goes_away_ends_the_event_stream(tmp_path):
    """`taproot emulator --events | head -1`: no traceback, status 0."""
    path = tmp_path / "control.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "taproot", "emulator", "--port", "0", "--port-https", "0",
         "--port-control", "0", "--control", str(path), "--events"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert "MQTT" in process.stderr.readline()
        process.stdout.close()
        port = ControlClient.find(path).status()["mqtt_port"]
        with wire.Wire.plain(port) as link:
            link.send(b"not TLS")  # an event, and nobody to print it to
            assert process.wait(5) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_ports_that_cannot_be_had(tmp_path):
    """In use: status 2 and the remedy in one line."""
    with running(EmulatorConfig(https_port=None)) as emu:
        found = subprocess.run(
            [sys.executable, "-m", "taproot", "emulator", "--port", str(emu.mqtt_port),
             "--control", str(tmp_path / "c.json")],
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    assert found.returncode == 2 and "choose another port" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_readmes_configuration_loads(tmp_path):
    """The TOML in README.md is a real configuration."""
    text = (Path(config.__file__).parent / "README.md").read_text()
    [toml] = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    found = config.load(write(tmp_path, toml))
    assert found.devices and found.faults and found.limits.twin_per_second


def test_start_mistakes(tmp_path, monkeypatch):
    """Each ends with status 2 and one line."""
    from taproot.emulator import cli as module

    monkeypatch.setattr(module, "_serve", None)  # none of these gets that far
    for words, says in (
        (["--chain", "a.pem"], "together"),
        (["--config", str(tmp_path / "x.toml")], "No such file"),
    ):
        found = CliRunner().invoke(command, words)
        assert found.exit_code == 2 and says in found.output


def test_help_names_every_subcommand_of_the_contract():
    """contracts.md, command line."""
    wanted = {"send", "method", "twin", "device", "fault", "switch-chain", "status"}
    assert wanted <= set(command.list_commands(click.Context(command)))
    assert "Not a Microsoft product" in " ".join(command.get_help(click.Context(command)).split())


# -- layout ----------------------------------------------------------------------------------


def test_the_codec_is_imported_in_one_module_and_nothing_of_the_device():
    """zmqtt in codec.py alone; azure_iot nowhere: a shared codec would hide a shared bug."""
    folder = Path(config.__file__).parent
    users = {
        path.name
        for path in folder.glob("*.py")
        if re.search(r"^\s*(from|import) zmqtt", path.read_text(), re.MULTILINE)
    }
    assert users == {"codec.py"}
    device = [
        p.name
        for p in folder.glob("*.py")
        if re.search(r"^\s*(from|import) azure_iot", p.read_text(), re.M)
    ]
    assert device == []


def test_the_readme_says_what_each_module_is():
    """Every file is in the table, and no other."""
    folder = Path(config.__file__).parent
    text = (folder / "README.md").read_text()
    assert "Not a Microsoft product" in text
    table = text.split("## Which module does what")[1].split("\n## ")[0]
    named = set(
        re.findall(r"`([a-z_0-9]+)`", table.replace("`zmqtt`", "").replace("`azure_iot", ""))
    )
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert modules - named == set() and named - modules == set()
