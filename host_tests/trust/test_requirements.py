"""Every rule has a test, every test names a rule there is, and no rule's function is idle."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import altered
import pytest
from support.trust_cases import Catalogue

HERE = Path(__file__).resolve().parent
RULES: dict[str, dict] = tomllib.loads((HERE / "requirements.toml").read_text())
WANTED = (
    [f"R-{n:02}" for n in range(1, 51)]
    + [f"H{n}" for n in range(1, 18)]
    + [f"G{n}" for n in range(1, 11)]
    + [f"T{n}" for n in range(1, 11)]
)
OTHERS = re.compile(r"^(D[1-9]|L[0-5]|TUF)$")


def markers() -> dict[str, list[str]]:
    """Ids that pytest markers in this folder name, with the tests that carry them."""
    found: dict[str, list[str]] = {}
    for path in HERE.glob("test_*.py"):
        tree = ast.parse(path.read_text())
        names = {}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                names[node.targets[0].id] = node.value
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            for call in node.decorator_list:
                if (
                    isinstance(call, ast.Call)
                    and ast.unparse(call.func) == "pytest.mark.requirement"
                ):
                    for arg in call.args:
                        if isinstance(arg, ast.Starred):
                            values = ast.literal_eval(names[arg.value.id])
                        else:
                            values = [ast.literal_eval(arg)]
                        for value in values:
                            found.setdefault(value, []).append(f"{path.name}::{node.name}")
    return found


def tags(catalogue: Catalogue) -> dict[str, list[str]]:
    """Every id with all that is tagged with it."""
    found = markers()
    for case in catalogue.cases:
        for name in case.ids:
            found.setdefault(name, []).append(f"case {case.name}")
    for vector in catalogue.vectors:
        for name in vector["ids"]:
            found.setdefault(name, []).append(f"vector {vector['name']}")
    tree = ast.parse((HERE / "scenarios.py").read_text())
    helpers = {"names", "run_one"}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SKIP":
            helpers |= set(ast.literal_eval(node.value))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name not in helpers:
            for name in (ast.get_docstring(node) or "").split(":")[0].split():
                found.setdefault(name, []).append(f"scenario {node.name}")
    return found


def test_every_rule_is_listed_in_words():
    assert sorted(RULES) == sorted(WANTED)
    assert all(rule["text"].endswith(".") for rule in RULES.values())


def test_every_rule_has_a_test(catalogue):
    found = tags(catalogue)
    assert [name for name in WANTED if not found.get(name)] == []


def test_every_tag_is_a_rule(catalogue):
    unknown = [name for name in tags(catalogue) if name not in RULES and not OTHERS.match(name)]
    assert unknown == []


def test_every_stub_exists():
    for name, rule in RULES.items():
        module, function = rule["stub"].split(":")
        source = (altered.FIRMWARE / "azure_iot" / f"{module}.py").read_text()
        assert altered.stub(source, function), name


@pytest.mark.requirement("T6", "G3")
def test_the_store_never_switches_verification_off():
    """T6, G3: neither the constant nor another verify_mode occurs anywhere in the device package."""
    for path in altered.FIRMWARE.rglob("*.py"):
        text = path.read_text()
        assert "CERT_NONE" not in text and "CERT_OPTIONAL" not in text, path
        assert not re.search(r"\.verify_mode\s*=[^=]", text), path


def _idle(name: str) -> bool:
    return RULES[name].get("by", "suite").startswith("none")


SHORT = ("R-11", "R-14", "R-19", "R-38", "R-48", "H13", "T3")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in SHORT else pytest.mark.long)
        for name in WANTED
        if not _idle(name)
    ],
)
def test_a_rule_without_its_function_is_noticed(name, catalogue, tmp_path):
    rule = RULES[name]
    module, function = rule["stub"].split(":")
    firmware = altered.copy(tmp_path)
    path = firmware / "azure_iot" / f"{module}.py"
    path.write_text(altered.stub(path.read_text(), function))
    by = rule.get("by", "suite")
    if by == "suite":
        assert altered.suite(firmware, catalogue.folder, [name]), (
            f"{name}: nobody misses {function}"
        )
    else:
        assert altered.pytest_node(firmware, by.removeprefix("pytest: ")), f"{name}: {function}"


assert sys.version_info >= (3, 11)
