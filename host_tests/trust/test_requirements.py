"""Every rule has a test, every test names a rule there is, and no rule's function is idle."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import altered
import pytest
from stubs import RULES, by, stubbed
from support.trust_cases import Catalogue

HERE = Path(__file__).resolve().parent
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
    assert all(stubbed(name) for name in RULES)


@pytest.mark.requirement("T6", "G3")
def test_the_store_never_switches_verification_off():
    """T6, G3: neither the constant nor another verify_mode occurs anywhere in the device package."""
    for path in altered.FIRMWARE.rglob("*.py"):
        text = path.read_text()
        assert "CERT_NONE" not in text and "CERT_OPTIONAL" not in text, path
        assert not re.search(r"\.verify_mode\s*=[^=]", text), path


def test_rules_without_their_function_are_noticed_by_the_suite(catalogue):
    lines = [json.loads(line) for line in altered.run("stubs.py", str(catalogue.folder))]
    assert {name for name, _ in lines} == {name for name in RULES if by(name) == "suite"}
    unnoticed = [(name, RULES[name]["stub"]) for name, noticed in lines if noticed is None]
    assert unnoticed == []


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in RULES if by(name).startswith("pytest: ")])
def test_a_rule_without_its_function_is_noticed(name, catalogue, tmp_path):
    module, tree = stubbed(name)
    firmware = altered.copy(tmp_path)
    (firmware / "azure_iot" / f"{module}.py").write_text(ast.unparse(tree))
    node = by(name).removeprefix("pytest: ")
    assert altered.pytest_node(firmware, catalogue.folder, node), RULES[name]["stub"]


def test_few_rules_have_no_function():
    """Only what a scan of the sources shows (T6) may go without one."""
    assert [name for name in RULES if by(name).startswith("none: ")] == ["T6"]
