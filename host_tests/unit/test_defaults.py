"""firmware/docs/defaults.md, and the docstrings of what an application calls, against the code."""

import ast
import inspect
import re
from pathlib import Path

import pytest
from azure_iot.deadlines import Deadlines

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "firmware" / "azure_iot"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "firmware/docs/defaults.md").read_text().splitlines()
    if line.startswith("| ")
][1:]


def tree(module):
    return ast.parse((PACKAGE / f"{module}.py").read_text())


def constant(module, name):
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            value = node.value.args[0] if isinstance(node.value, ast.Call) else node.value
            return ast.literal_eval(value)
    raise AssertionError(f"{module} has no {name}")


def options(module, function="__init__"):
    """Keyword options with a default that is a number."""
    found = {}
    for node in ast.walk(tree(module)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == function:
            for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
                if isinstance(default, ast.Constant) and type(default.value) is int:
                    found[argument.arg] = default.value
    return found


def row(first):
    (found,) = [cells for cells in ROWS if first in cells[0]]
    return found


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", text)]


def test_no_row_leaves_a_question_open():
    """A default without a reason, or a reason without the cost of another value, is half told."""
    assert len(ROWS) > 40
    for cells in ROWS:
        assert len(cells) == 4 and all(cells), cells[0]


@pytest.mark.parametrize("module", ["core", "link", "mqtt/connection", "provisioning"])
def test_every_option_is_on_the_page_with_its_value(module):
    for name, value in options(module).items():
        if not value:
            continue
        shown = [cells for cells in ROWS if re.search(rf"\b{name}\b", " ".join(cells))]
        assert shown, name
        if name == "https_port":  # its row is about the port, not the option
            shown = [row("HTTPS port")]
        assert any(value in numbers(" ".join(cells[1:])) for cells in shown), (name, value)


@pytest.mark.parametrize(
    ("first", "values"),
    [
        ("new start", [("agent", "_MOST_SHORT")]),
        ("method calls at once", [("methods", "_MOST_AT_ONCE")]),
        ("clock tolerance", [("clock", "_TOLERANCE")]),
        ("upload block", [("upload", "_BLOCK"), ("upload", "_TRIES")]),
        ("DPS poll", [("dps", "_MAX_WAIT_S"), ("dps", "_DEFAULT_WAIT_S")]),
        ("re-provisioning", [("ladder", "_UNAVAILABLE_LIMIT")]),
    ],
)
def test_a_constant_is_what_its_row_says(first, values):
    for module, name in values:
        assert constant(module, name) in numbers(row(first)[1]), name


def test_the_ladder_is_what_its_row_says():
    said = row("re-provisioning")[1]
    outage, pause, longest = (
        constant("ladder", name) // 60 for name in ("_OUTAGE_S", "_PAUSE_S", "_LONGEST_PAUSE_S")
    )
    assert f"{outage} to {2 * outage} min without" in said
    assert f"every {pause} min doubling to {longest // 60} h" in said


def test_redirects_are_what_their_row_says():
    said = {
        module: set(re.findall(r"redirects=(\d)", (PACKAGE / f"{module}.py").read_text()))
        for module in ("updater", "trust/recovery")
    }
    assert said == {"updater": {"2"}, "trust/recovery": {"0"}}
    assert options("https", "fetch")["redirects"] == 0
    assert numbers(row("redirects")[1]) == [2, 0]


def test_deadlines_are_what_their_rows_say():
    text = " ".join(cells[0] + " " + cells[1] for cells in ROWS if cells[0].startswith("deadline"))
    values = {name: value for name, value in inspect.getmembers(Deadlines) if name.endswith("_ms")}
    for name, value in values.items():
        assert f"{value // 1000} s" in text, name


CALLS = {
    "client": ("from_symmetric_key", "from_x509", "from_credential", "c2d_messages", "method_requests"),
    "module": ("send_message_to_output", "input_messages"),
    "methods": ("respond",),
    "provisioning": ("from_symmetric_key", "from_x509", "register"),
    "upload": ("upload", "send_message"),
}  # fmt: skip


@pytest.mark.parametrize(("module", "name"), [(m, name) for m in CALLS for name in CALLS[m]])
def test_a_call_says_what_goes_over_the_wire_what_it_raises_and_where_that_stands(module, name):
    (text,) = [
        ast.get_docstring(node)
        for node in ast.walk(tree(module))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name
    ]
    assert re.search(r"`[^`]*[{$/][^`]*`", text), "a topic, a URL or a user name in its shape"
    assert re.search(r"[Rr]aises?\s", text)
    assert re.search(r'Source: [^"]+"[^"]+"', text)
