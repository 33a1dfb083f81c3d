"""Each rule's function replaced by nothing: does the suite notice?

    python stubs.py CATALOGUE      prints `[id, what noticed it or null]` a line

Runs, for every rule of requirements.toml that the suite answers for, the checks tagged with it.
"""

from __future__ import annotations

import ast
import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import altered

RULES: dict[str, dict] = tomllib.loads(
    (Path(__file__).resolve().parent / "requirements.toml").read_text()
)


def stubbed(rule: str) -> tuple[str, ast.Module]:
    """Return (module, its tree without the rule's function)."""
    module, function = RULES[rule]["stub"].split(":")
    source = (altered.FIRMWARE / "azure_iot" / f"{module}.py").read_text()
    return module, altered.stub(source, function)


def by(rule: str) -> str:
    """Return which tests answer for a rule: `suite`, `pytest: <node>` or `none: <why>`."""
    return RULES[rule].get("by", "suite")


def main() -> None:
    """Judge all."""
    bench = altered.Bench(Path(sys.argv[1]), set())

    def jobs() -> Iterator[altered.Job]:
        for rule in RULES:
            if by(rule) == "suite":
                yield rule, dict([stubbed(rule)]), bench.tagged(rule)

    for rule, noticed in bench.judge(jobs()):
        print(json.dumps([rule, noticed]), flush=True)


if __name__ == "__main__":
    main()
