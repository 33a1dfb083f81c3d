"""What every subcommand prints and how it ends: steps, rows, JSON, exit codes.

Exit status (contracts.md, command line): 0 all held; 1 a promise failed; 2 set-up or usage;
3 a peer or the network failed. With `--json` exactly one object goes to stdout; progress
always goes to stderr.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, NoReturn

import click

SCHEMA = 1


class PromiseFailed(click.ClickException):
    """Something the command promises did not hold."""

    exit_code = 1


class UsageFailed(click.ClickException):
    """Set-up or usage is wrong; the message says what to do."""

    exit_code = 2


class PeerFailed(click.ClickException):
    """A peer or the network failed."""

    exit_code = 3


class Report:
    """Collect steps or rows, print them for people or as one JSON object.

    `steps` for sequences that hold or fail (drill, trust), `rows` for figures (bench).
    """

    def __init__(self, tool: str, as_json: bool = False) -> None:
        self.tool = tool
        self.as_json = as_json
        self.steps: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}
        self.started = time.monotonic()

    @property
    def ok(self) -> bool:
        """True while every step and every row held."""
        return all(entry["ok"] for entry in self.steps + self.rows)

    def say(self, text: str) -> None:
        """Print progress, never on stdout when stdout carries JSON."""
        click.echo(text, err=self.as_json)

    def step(self, name: str, ok: bool, text: str = "", **facts: Any) -> bool:
        """Record one step and print its line: `ok   3   text`."""
        self.steps.append({"name": name, "ok": bool(ok), "text": text, **facts})
        mark = click.style("ok  ", fg="green") if ok else click.style("FAIL", fg="red", bold=True)
        self.say(f"{mark} {name:<4} {text}")
        return bool(ok)

    def row(self, **row: Any) -> None:
        """Record one figure (contracts.md, bench rows)."""
        self.rows.append(row)

    def finish(self) -> NoReturn:
        """Print the JSON object if asked for and end with the exit status."""
        if self.as_json:
            body: dict[str, Any] = {"schema": SCHEMA, "tool": self.tool, "ok": self.ok}
            body.update(self.facts)
            if self.rows:
                body["rows"] = self.rows
            if self.steps or not self.rows:
                body["steps"] = self.steps
            click.echo(json.dumps(body, indent=1, sort_keys=False))
        sys.exit(0 if self.ok else 1)


def guard(command: click.Command) -> NoReturn:
    """Run `command` standalone; turn what a user or a peer can cause into one line, no traceback."""
    try:
        command.main(standalone_mode=True)
    except OSError as error:
        if error.filename is not None:
            click.echo(f"Error: {error.filename}: {error.strerror}", err=True)
            sys.exit(2)
        click.echo(f"Error: {error.strerror or error}", err=True)
        sys.exit(3)
    sys.exit(0)
