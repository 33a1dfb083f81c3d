"""ARM templates as configuration: parameters, policy, read-only property."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from taproot.emulator import templates
from taproot.emulator.templates import TemplateError, TLSPolicy

pytestmark = pytest.mark.requirement("H25")

AZURE = Path(__file__).resolve().parents[2] / "tools" / "azure"
STRONG, WEAK, GREASE = 0xC02F, 0xC013, 0x0A0A


@pytest.mark.parametrize(("file", "kind"), [("hub.json", "hub"), ("dps.json", "dps")])
def test_the_shipped_templates_demand_tls_1_2_and_warn(file, kind):
    [resource] = templates.load(AZURE / file, {"name": "myhub"})
    assert (resource.kind, resource.name, resource.min_tls_version) == (kind, "myhub", "1.2")
    body = json.loads((AZURE / file).read_text())
    assert {"name", "location", "sku"} <= set(body["parameters"])
    assert "read-only" in body["metadata"]["description"]
    assert f"--template-file tools/azure/{file}" in body["metadata"]["deploy"]
    assert body["metadata"]["deploy"] in (AZURE / "README.md").read_text()


def test_policy_of_the_template_and_without_it():
    strict, legacy = TLSPolicy("1.2"), TLSPolicy(None)
    assert strict.refusal([0x0303], [STRONG, WEAK]) is None
    assert "no recommended cipher suite" in strict.refusal([0x0303], [WEAK, GREASE])
    assert "offers less" in strict.refusal([0x0301, 0x0302], [STRONG])
    assert strict.refusal([0x0304, 0x0303], [0x1301]) is None
    assert "suite" in strict.refusal([0x0303], [0x1301])
    assert legacy.refusal([0x0301], [WEAK]) is None
    assert "AES128-SHA" in legacy.ciphers.split(":")
    assert strict.ciphers.count(":") == 7


def write(folder, minimum="1.2", **entry):
    properties = {} if minimum is None else {"minTlsVersion": minimum}
    body = {
        "parameters": {"name": {"type": "string"}, "sku": {"allowedValues": ["S1"]}},
        "resources": [
            {
                "type": "Microsoft.Devices/IotHubs",
                "name": "[parameters('name')]",
                "sku": {"name": "[parameters('sku')]"},
                "properties": properties,
                **entry,
            }
        ],
    }
    path = folder / "t.json"
    path.write_text(json.dumps(body))
    return path


def test_a_changed_value_on_an_existing_state_directory_is_refused(tmp_path):
    state = tmp_path / "state"
    templates.hold(state, templates.load(write(tmp_path)))
    templates.hold(state, templates.load(write(tmp_path)))
    with pytest.raises(TemplateError, match="read-only"):
        templates.hold(state, templates.load(write(tmp_path, minimum=None)))
    templates.hold(state, templates.load(write(tmp_path, minimum=None), {"name": "second"}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n "resources": [,]}', "line 2"),
        ("[]", "resources"),
        ('{"resources": []}', "no resource"),
        ('{"resources": [{"type": "Microsoft.Devices/IotHubs", "name": "[parameters(\'x\')]"}]}',
         "not declared"),
        ('{"resources": [{"type": "Microsoft.Devices/IotHubs", "properties": 1}]}', "objects"),
        ('{"resources": [{"type": "Microsoft.Devices/IotHubs", "sku": 3}]}', "objects"),
        ('{"parameters": [1], "resources": []}', "parameters"),
    ],
)  # fmt: skip
def test_a_bad_template_is_named_with_its_place(tmp_path, text, said):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(TemplateError, match=said):
        templates.load(tmp_path / "t.json")


def test_parameters_are_checked(tmp_path):
    path = write(tmp_path)
    with pytest.raises(TemplateError, match="no parameter 'colour'"):
        templates.load(path, {"colour": "red"})
    with pytest.raises(TemplateError, match="one of S1"):
        templates.load(path, {"sku": "S9"})
    with pytest.raises(TemplateError, match=r"1\.3"):
        templates.load(write(tmp_path, minimum="1.3"))
    with pytest.raises(TemplateError, match="No such file"):
        templates.load(tmp_path / "absent.json")
