"""Every command of `taproot` starts as a program of its own, where nothing was imported before."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click
import pytest
from taproot.cli import command as program
from taproot.interpreters import project_root

TAPROOT = str((project_root() or Path()) / ".venv" / "bin" / "taproot")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all commands below `group`, the groups themselves left out."""
    found = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
        else:
            found.append((*path, name))
    return found


@pytest.mark.parametrize("path", commands(program), ids=" ".join)
def test_help_comes_with_an_example(path: tuple[str, ...]) -> None:
    shown = subprocess.run(
        [TAPROOT, *path, "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert "Example" in shown.stdout and f"taproot {' '.join(path)}" in shown.stdout


def test_a_simulation_and_a_device_key_need_nothing_loaded_before(tmp_path: Path) -> None:
    key = tmp_path / "group.key"
    key.write_text("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
    for line in (
        ["simulate", "reconnect", "--devices", "5000", "--rate", "100"],
        ["dps-key", "--registration-id", "dev1", "--group-key-file", str(key)],
    ):
        ran = subprocess.run(
            [TAPROOT, *line], capture_output=True, text=True, timeout=60, check=False
        )
        assert ran.returncode == 0 and ran.stdout, ran.stderr
