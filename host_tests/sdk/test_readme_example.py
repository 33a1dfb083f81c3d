"""The README's example, taken from the README: the emulator by hand, ten lines of the SDK."""

from __future__ import annotations

import base64
import dataclasses
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from taproot.emulator.hub import Reactions

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "tools" / "taproot" / "emulator" / "README.md"
TAPROOT = Path(sys.executable).with_name("taproot")

# The SDK's port is a literal; the test must not need port 8883 to be free.
REDIRECT = """
import os, socket
_resolve, _port = socket.getaddrinfo, int(os.environ["MQTT_PORT"])
socket.getaddrinfo = lambda host, port, *a, **k: _resolve(host, _port if port == 8883 else port, *a, **k)
"""


def blocks():
    return re.findall(r"```(\w+)\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.fixture
def emulator(tmp_path):
    """The README's first command with free ports, running; stopped by Ctrl-C."""
    [line] = blocks()[0][1].strip().splitlines()
    assert line.startswith("taproot emulator --port 8883 ")
    words = line.replace("--port 8883", "--port 0 --port-https 0 --port-control 0").split()[1:]
    control = tmp_path / "control.json"
    process = subprocess.Popen(
        [TAPROOT, words[0], "--control", control, *words[1:]],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    text = ""
    while "ready" not in text:
        line = process.stdout.readline()
        assert line, text
        text += line
    port = re.search(r"MQTT +[\d.]+:(\d+)", text)[1]
    yield process, control, port
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.stdout.close()
    process.wait(5)


def taproot(tmp_path, control, *words):
    done = subprocess.run(
        [TAPROOT, "emulator", "--control", control, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_the_readme_example_runs(emulator, sdk_python, tmp_path):
    process, control, port = emulator
    script = blocks()[1][1]
    assert len(script.strip().splitlines()) <= 10
    (tmp_path / "hello.py").write_text(script)
    (tmp_path / "sitecustomize.py").write_text(REDIRECT)
    shell = blocks()[2][1].splitlines()
    words = re.search(r"\$\(taproot emulator (.*)\)", shell[0])[1].split()
    connection = taproot(tmp_path, control, *words).strip()
    environment = {
        **os.environ, "CONNECTION": connection, "PYTHONPATH": str(tmp_path), "MQTT_PORT": port
    }  # fmt: skip
    assert shell[1] == "python hello.py"
    done = subprocess.run(
        [sdk_python, "hello.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert '"greeted": true' in taproot(tmp_path, control, *shell[2].split()[2:])
    process.send_signal(signal.SIGINT)  # Ctrl-C; how fast is test_emulator_control's subject
    assert process.wait(10) == 0
    assert not control.exists()


def test_the_commands_of_the_table_run(emulator, tmp_path):
    _, control, _ = emulator
    commands = re.findall(r"^\| `taproot emulator (.*?)` \|", README.read_text(), re.MULTILINE)
    assert len(commands) >= 9
    said = {}
    for line in commands:
        words = shlex.split(line)
        if words[0] in ("method", "switch-chain"):
            continue  # they need a device and a chain; both have tests of their own
        said[words[0]] = taproot(tmp_path, control, *words)
    assert len(base64.b64decode(said["enroll"])) == 32
    assert said["policy"].startswith("HostName=localhost;SharedAccessKeyName=registryReadWrite;")
    assert '"interval": 10' in said["twin"]
    assert "dev2" in taproot(tmp_path, control, "status")


def test_the_python_example_runs():
    python = [text for kind, text in blocks() if kind == "python"][1]
    done = subprocess.run(
        [sys.executable, "-c", python], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("HostName=localhost;DeviceId=dev1;SharedAccessKey=")


def test_every_switch_and_every_module_is_in_the_readme():
    text = README.read_text()
    for field in dataclasses.fields(Reactions):
        assert f"`{field.name}`" in text, field.name
    table = text.partition("## Which module does what")[2]
    for module in README.parent.glob("*.py"):
        assert module.stem == "__init__" or f"`{module.stem}`" in table, module.stem


def test_every_page_says_whose_product_it_is_not():
    done = subprocess.run(
        [TAPROOT, "emulator", "--help"], capture_output=True, text=True, check=True
    )
    for text in (README.read_text(), done.stdout, (ROOT / "tools/azure/README.md").read_text()):
        assert "not a microsoft product" in " ".join(text.lower().split())
