"""`taproot bench size`: what the package takes, by module and by job, and the page that tells it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner
from taproot.bench import cli, size

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "host_tests" / "vectors" / "schemas" / "bench.schema.json"
JOBS = ["import", "connect", "telemetry", "twin", "method", "trust"]


@pytest.fixture(scope="module")
def rows():
    result = CliRunner().invoke(cli.command, ["size", "--json"])
    assert result.exit_code in (0, 1), result.output
    body = json.loads(result.stdout)
    jsonschema.validate(body, json.loads(SCHEMA.read_text()))
    return {row["id"]: row for row in body["rows"]}


def test_every_module_has_its_bytes_and_each_loaded_one_its_heap(rows):
    files = sorted((ROOT / "firmware" / "azure_iot").rglob("*.py"))
    modules = {f"size.mpy.{name.removeprefix('azure_iot.')}" for name in size._sources()}
    assert len(modules) == len(files) and modules <= rows.keys()
    assert sum(rows[name]["value"] for name in modules) == rows["size.mpy.all"]["value"]
    loaded = {name for name in modules if rows[name]["job"]}
    assert len(loaded) == rows["size.mpy.subset"]["n"]
    assert all(rows[name.replace(".mpy.", ".heap.")]["value"] > 0 for name in loaded)
    for kind, whole in (("part", "all"), ("subset", "subset")):
        parts = [row["value"] for name, row in rows.items() if name.startswith(f"size.{kind}.")]
        assert sum(parts) == rows[f"size.mpy.{whole}"]["value"]


def test_what_a_job_does_not_need_is_not_loaded(rows):
    assert {row["job"] for name, row in rows.items() if row.get("job")} <= set(JOBS)
    for name in ("dps", "provisioning", "upload", "websocket", "x509", "agent", "c2d", "guard"):
        assert rows[f"size.mpy.{name}"]["job"] is None, name
    for name in ("trust.update", "trust.jws", "updater", "tls.planner", "sas"):
        assert rows[f"size.heap.{name}"]["kept"] is False, name
    assert rows["size.heap.methods"]["job"] == "method"


def test_the_heap_of_the_whole_program_does_not_grow(rows):
    worst = {"import": 22_000, "connect": 51_000, "telemetry": 52_000, "twin": 54_000,
             "method": 56_000, "trust": 57_000}  # fmt: skip
    for job in JOBS:
        row = rows[f"size.heap.after.{job}"]
        assert row["value"] <= worst[job], row
        assert (row["tls"] > 0) == (job != "import"), row


def test_the_page_tells_what_is_measured(rows):
    page = (ROOT / "firmware" / "docs" / "size.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| (?:everything|loaded by).*?\| ([\d.]+) KB \| ([\d.]+) KB", page, re.M)
    for name, (whole, bytecode) in zip(("all", "subset"), told, strict=True):
        row = rows[f"size.mpy.{name}"]
        for text, value in ((whole, row["value"]), (bytecode, row["bytecode"])):
            assert float(text) == pytest.approx(value / 1024, rel=0.02), row
    parts = re.findall(r"^\| (\w+) \| ([\d,]+) \| ([\d,]*) ?\|", page, re.M)
    assert {name for name, _, _ in parts} == {*size.PARTS, "client"}
    for name, *figures in parts:
        for kind, text in zip(("part", "subset"), figures, strict=True):
            row = rows.get(f"size.{kind}.{name}", {"value": 0})
            assert int(text.replace(",", "") or 0) == pytest.approx(row["value"], rel=0.05), row
