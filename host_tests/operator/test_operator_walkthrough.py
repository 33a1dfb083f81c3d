"""The walk-through of certs/README.md and the example of every command run as they are printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
from click.testing import CliRunner
from taproot.ca.cli import command as ca_command
from taproot.cli import command as program
from taproot.emulator import EmulatorConfig, Running, running
from taproot.trust import roots
from taproot.trust.cli import command as trust_command
from test_operator_publish import Follower, write_access

README = roots.CERTS / "README.md"
SCHEMAS = Path(__file__).resolve().parents[1] / "vectors" / "schemas"


@pytest.fixture(scope="module")
def hub() -> Iterator[Running]:
    with running(EmulatorConfig(plain_port=0)) as emu:
        yield emu


def blocks() -> list[tuple[bool, list[tuple[str, list[str]]]]]:
    """Return (needs a hub, [(command, output lines)]) of every console block."""
    found = []
    for kind, body in re.findall(
        r"^```console( hub)?\n(.*?)^```$", README.read_text(), re.S | re.M
    ):
        steps: list[tuple[str, list[str]]] = []
        for line in body.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            else:
                steps[-1][1].append(line)
        found.append((bool(kind), steps))
    return found


def matches(wanted: list[str], said: list[str]) -> bool:
    """Compare printed lines with real ones: `…` in a line is any text, alone any lines."""
    text = "\n".join(re.escape(line) for line in wanted)
    pattern = "(?:^|\n)" + text.replace("…\n", "(?:.*\n)*?").replace("…", ".*")
    return re.search(pattern, "\n".join(said)) is not None


def run_line(line: str, environment: dict[str, str], in_process: bool) -> list[str]:
    """Run a line of the walk-through, which must succeed; return what it said.

    The first ones go through a shell and the installed program; later ones call the same program
    in this process where no shell is needed, because starting Python is most of the time.
    """
    words = shlex.split(line)
    if in_process and words[0] == "taproot" and not set("|>&$") & set(line):
        result = CliRunner().invoke(program, words[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
        return result.output.splitlines()
    done = subprocess.run(
        ["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return (done.stderr + done.stdout).splitlines()


def test_walkthrough_of_the_readme_runs_as_printed(
    tmp_path: Path, hub: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    write_access(tmp_path, hub)
    bin_folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    followers: list[Follower] = []
    count = 0
    try:
        for needs_hub, steps in blocks():
            if needs_hub and not followers:
                bootstrap = (tmp_path / "trust/keysets/1.jws").read_bytes()
                followers += [Follower(hub, f"device-{i}", bootstrap).start() for i in range(4)]
            for line, wanted in steps:
                if "--connection-file" in line:
                    line += f" --port {hub.https_port} --ca ca.pem"
                    line += " --poll 0.1" if " publish " in line else ""
                if "trust build" in line:  # days pass between two bundles, here more than a second
                    time.sleep(1.1)
                said = run_line(line, environment, in_process=count > 3)
                said = [text.rstrip() for text in said]
                assert matches(wanted, said), f"{line}\nwanted {wanted}\nsaid {said}"
                count += 1
    finally:
        for follower in followers:
            follower.stop()
    assert count >= 25, "the walk-through has lost its commands"


def commands(
    group: click.Command, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, group
    if isinstance(group, click.Group):
        for name in group.list_commands(click.Context(group)):
            yield from commands(group.commands[name], (*path, name))


ALL = [
    *commands(trust_command, ("taproot", "trust")),
    *commands(ca_command, ("taproot", "ca")),
]


def example_of(command: click.Command) -> str:
    text = command.help or ""
    match = re.search(r"Example: (.*)", text, re.S)
    return " ".join(match[1].split()) if match else ""


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(p) for p, _ in ALL])
def test_help_of_every_command_has_an_example(
    path: tuple[str, ...], command: click.Command
) -> None:
    shown = CliRunner().invoke(program, [*path[1:], "--help"])
    assert shown.exit_code == 0 and "Example: taproot" in shown.output
    example = example_of(command)
    if not isinstance(command, click.Group):
        assert example.startswith(" ".join(path)), example


def run_examples(listed: Any, extra: dict[str, str], after: dict[str, Any]) -> None:
    schema = json.loads((SCHEMAS / "cli.schema.json").read_text())
    for path, command in listed:
        if isinstance(command, click.Group):
            continue
        words = shlex.split(example_of(command) + extra.get(path[-1], ""))
        result = CliRunner().invoke(program, [*words[1:], "--json"])
        assert result.exit_code == 0, f"{' '.join(words)}\n{result.output}\n{result.exception!r}"
        body = json.loads(result.stdout)
        jsonschema.validate(body, schema)
        assert body["tool"] == " ".join(path) and body["ok"]
        after.get(path[-1], lambda: None)()


def test_example_of_every_trust_command_runs(
    operator, hub: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = operator.folder
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    (folder / "pass.txt").write_text("secret\n")
    write_access(folder, hub)
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    (folder / "twins.json").write_text(json.dumps([{"deviceId": "a", "lastActivityTime": stamp}]))
    hub.add_device("example")
    access = f" --port {hub.https_port} --ca ca.pem"

    def second_signature() -> None:
        operator.ok("sign bundles/1.jws --key keys/bundle-2.pem --passphrase-file pass.txt")

    def second_package() -> None:
        shutil.copy(folder / "trust/packages/1.json", folder / "trust/packages/2.json")

    def only_one() -> None:
        (folder / "trust/packages/2.json").unlink()

    try:
        run_examples(
            commands(trust_command, ("taproot", "trust")),
            {"publish": access, "probe": access},
            {"sign": second_signature, "inspect": second_package, "diff": only_one},
        )
    finally:
        hub.remove_device("example")


def test_example_of_every_ca_command_runs(operator) -> None:
    run_examples(commands(ca_command, ("taproot", "ca")), {}, {})
