"""What every bench shares: rows with goals, the environment, comparison, the two counters.

A row is {id, value, unit, n, build, floor, goal, cmp, ok, why} (contracts.md §4). Ids never
change meaning. Instructions come from callgrind: the program calls os.putenv just before and
os.unsetenv just after its loop, whose libc functions start and end the counting.
"""

from __future__ import annotations

import bisect
import json
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click

from taproot import interpreters
from taproot.console import PeerFailed, Report, UsageFailed


def environment() -> dict[str, str]:
    """Commit and machine, for a reader who compares two files."""
    root = interpreters.project_root()
    commit = "unknown"
    if root is not None and shutil.which("git"):
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
        commit = found.stdout.strip() or commit
    model = ""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {"commit": commit, "machine": f"{platform.machine()} {model}".strip()}


class Bench:
    """Rows of one bench run, printed for people or as one JSON object."""

    def __init__(self, tool: str, as_json: bool, compare: str | None = None) -> None:
        self.report = Report(tool, as_json)
        self.report.facts["env"] = environment()
        self._old = _load(compare) if compare else {}

    def add(
        self,
        id: str,
        value: float | str | bool | None,
        unit: str,
        *,
        n: int = 1,
        build: str = "unix64",
        floor: float | None = None,
        goal: float | None = None,
        cmp: str = "<=",
        why: str = "",
        **extra: Any,
    ) -> bool:
        """Record a figure and print its line; a missed goal should say why."""
        ok = _holds(value, goal, cmp)
        row = {
            "id": id, "value": value, "unit": unit, "n": n, "build": build, "floor": floor,
            "goal": goal, "cmp": cmp if goal is not None else "report", "ok": ok,
            "why": "" if ok else why,
        }  # fmt: skip
        row.update(extra)
        self.report.row(**row)
        target = "" if goal is None else f"  goal {cmp} {goal:,}"
        mark = click.style("ok  ", fg="green") if ok else click.style("MISS", fg="red", bold=True)
        shown = f"{value:,}" if isinstance(value, (int, float)) else str(value)
        old = self._old.get((id, build, n))
        then = f"  was {old:,}" if isinstance(old, (int, float)) and old != value else ""
        self.report.say(f"{mark} {id:<34} {shown:>12} {unit}{target}{then}")
        if not ok and why:
            self.report.say(f"     because: {why}")
        return ok


def _holds(value: Any, goal: Any, cmp: str) -> bool:
    if goal is None:
        return True
    if value is None:
        return False
    return {"<=": value <= goal, ">=": value >= goal, "==": value == goal}[cmp]


def _load(path: str) -> dict[tuple[str, str, int], Any]:
    try:
        rows = json.loads(Path(path).read_text())["rows"]
        return {(row["id"], row["build"], row["n"]): row["value"] for row in rows}
    except FileNotFoundError as error:
        raise UsageFailed(f"{path}: no such file") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageFailed(f"{path}: not a file of 'taproot bench … --json'") from error


class Callgrind:
    """Counts instructions of a program's bracketed loop."""

    def __init__(self, build: str, timeout: float = 300, frozen: bool = False) -> None:
        if not shutil.which("valgrind"):
            raise UsageFailed("no valgrind here: run 'make setup', which names the package")
        self.build, self.timeout, self.frozen = build, timeout, frozen
        self.profile: dict[str, int] = {}

    def run(self, script: Path, *args: str, heap: str = "400m") -> tuple[int, interpreters.Result]:
        """Instructions between putenv and unsetenv, and how the program ended."""
        with tempfile.TemporaryDirectory(prefix="taproot-cg-") as folder:
            out = Path(folder) / "cg"
            result = interpreters.run(
                self.build,
                script,
                *args,
                heap=heap,
                timeout=self.timeout,
                frozen=self.frozen,
                wrapper=(
                    "valgrind", "--tool=callgrind", f"--callgrind-out-file={out}",
                    "--zero-before=setenv", "--dump-before=unsetenv",
                ),
            )  # fmt: skip
            part = Path(folder) / "cg.1"
            if not part.exists():
                raise PeerFailed(f"{script.name} {' '.join(args[:4])}: {_last(result.stderr)}")
            text = part.read_text()
        found = re.search(r"^summary: (\d+)", text, re.MULTILINE)
        if found is None:
            raise PeerFailed(f"{script.name}: no summary from callgrind")
        self.profile = _named(profile(text), self.build)
        return int(found.group(1)), result

    def top(self, n: int, per: int) -> str:
        """The `n` functions that cost most, as text for a `why`."""
        return most(self.profile, n, per)


def most(costs: dict[str, int], n: int, per: int, sign: str = "") -> str:
    """The `n` largest costs as text, each divided by `per`."""
    found = sorted(costs.items(), key=lambda item: -item[1])[:n]
    return ", ".join(f"{name} {cost // per:{sign},}" for name, cost in found)


def difference(costs: dict[str, int], least: dict[str, int], n: int, per: int) -> str:
    """The `n` functions that take most of what one profile has over another, as text."""
    more = {name: cost - least.get(name, 0) for name, cost in costs.items()}
    return most({name: cost for name, cost in more.items() if cost >= per}, n, per, "+")


def _named(costs: dict[str, int], build: str) -> dict[str, int]:
    """Names for the addresses that callgrind gives for a stripped interpreter, where its linker
    has left its map."""
    path = interpreters.build_folder() / "obj" / build / "micropython.map"
    if not path.exists():
        return costs
    line = r"^ \.text\.(\S+)\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)\s"
    found = re.findall(line, path.read_text(errors="replace"), re.MULTILINE)
    sections = sorted((int(at, 16), int(size, 16), name) for name, at, size in found)
    starts = [at for at, _, _ in sections]
    out: dict[str, int] = {}
    for key, cost in costs.items():
        name = key
        if key.startswith("0x"):
            i = bisect.bisect_right(starts, int(key, 16)) - 1
            if i >= 0 and int(key, 16) < starts[i] + sections[i][1]:
                name = sections[i][2]
        out[name] = out.get(name, 0) + cost
    return out


def profile(text: str) -> dict[str, int]:
    """Self cost per function of a callgrind file."""
    names: dict[str, str] = {}
    costs: dict[str, int] = {}
    current, inclusive = "", False
    for line in text.splitlines():
        found = re.match(r"(c?)fn=\((\d+)\)(?: (.*))?", line)
        if found:
            if found[3]:
                names[found[2]] = found[3].split("'")[0]
            if not found[1]:
                current = found[2]
        elif line.startswith("calls="):
            inclusive = True
        elif re.match(r"[+\-*\d]", line):
            if not inclusive:
                costs[current] = costs.get(current, 0) + int(line.split()[1])
            inclusive = False
    out: dict[str, int] = {}
    for key, cost in costs.items():
        name = names.get(key, key)
        out[name] = out.get(name, 0) + cost
    return out


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line and not line.startswith("==")]
    return lines[-1] if lines else "no output"


def result_line(result: interpreters.Result) -> tuple[int, int]:
    """The two numbers of a program's RESULT line: heap bytes, microseconds."""
    for line in result.stdout.splitlines():
        if line.startswith("RESULT"):
            _, first, second = line.split()
            return int(first), int(second)
    raise PeerFailed(f"no RESULT: {_last(result.stderr)}")
