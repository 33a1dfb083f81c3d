"""The rules that `make check` enforces: they hold here, and each would notice a violation."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from taproot.checks import constructs, imports, package_file, sizes

ROOT = Path(__file__).resolve().parents[2]


def test_import_directions_hold() -> None:
    assert imports.findings(ROOT) == []


def test_no_forbidden_construct_or_text() -> None:
    assert constructs.findings(ROOT) == []


def test_the_file_list_for_mip_is_the_tree() -> None:
    assert package_file.findings(ROOT) == []
    listed = json.loads((ROOT / package_file.PATH).read_text("utf-8"))
    for target, source in listed["urls"]:
        assert (ROOT / "firmware" / source).is_file()
        assert target == source, "a relative URL, the same path on the device"


def test_every_file_compiles_and_the_package_is_within_its_budget() -> None:
    lines, findings = sizes.report(ROOT)
    assert findings == []
    assert any("the package" in line for line in lines)


PLANTED_IMPORTS = [
    ("sas.py", "import os", "sas must not import os"),
    ("sas.py", "import ssl", "nobody imports ssl"),
    ("mqtt/session.py", "import asyncio", "mqtt.session must not import asyncio"),
    ("mqtt/client.py", "from azure_iot.hub import topic", "mqtt/ knows nothing of Azure"),
    ("tls/context.py", "from ..client import X", "tls/ knows nothing of Azure"),
    ("trust/store.py", "from .. import hub", "trust/ knows nothing of Azure"),
    ("client.py", "from azure_iot.unix import platform", "client must not import unix"),
    ("client.py", "from azure_iot.esp32.nvs import x", "client must not import esp32"),
    ("agent.py", "from .esp32 import wlan", "agent must not import esp32"),
    ("nowhere.py", "import os", "no row in taproot/checks/imports.py names this module"),
    ("hub.py", "def f():\n    from azure_iot import client\n", "hub must not import client"),
]


@pytest.mark.parametrize(("name", "source", "said"), PLANTED_IMPORTS)
def test_a_planted_import_is_found(tmp_path: Path, name: str, source: str, said: str) -> None:
    package = tmp_path / "firmware" / "azure_iot"
    for module in (
        *("sas.py", "hub.py", "client.py", "mqtt/session.py", "unix/platform.py"),
        *("esp32/nvs.py", "esp32/wlan.py", "trust/store.py", name),
    ):
        path = package / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        (path.parent / "__init__.py").write_text("")
    assert imports.device_findings(tmp_path / "firmware") == [] or name == "nowhere.py"
    (package / name).write_text(source + "\n")
    found = imports.device_findings(tmp_path / "firmware")
    assert any(said in line for line in found), found


def test_an_import_for_the_checker_alone_does_not_count(tmp_path: Path) -> None:
    package = tmp_path / "firmware" / "azure_iot"
    package.mkdir(parents=True)
    (package / "sas.py").write_text("if TYPE_CHECKING:\n    from typing import Any\n")
    assert imports.device_findings(tmp_path / "firmware") == []


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        ("tools/taproot/x.py", "from azure_iot.client import X", "client is no pure module"),
        ("tools/taproot/simulate/x.py", "import azure_iot.client", "client is no pure module"),
        ("host_tests/test_x.py", "import azure_iot.transport", "transport is no pure module"),
        (
            "tools/taproot/emulator/x.py",
            "from azure_iot.mqtt import packet",
            "the emulator must not share mqtt.packet",
        ),
        (
            "tools/taproot/emulator/x.py",
            "from azure_iot.sas import token",
            "the emulator must not share sas",
        ),
    ],
)
def test_a_planted_host_import_is_found(tmp_path: Path, path: str, source: str, said: str) -> None:
    package = tmp_path / "firmware" / "azure_iot"
    for name in ("client.py", "transport.py", "sas.py", "mqtt/packet.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("")
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(source + "\n")
    found = imports.host_findings(tmp_path)
    assert any(said in line for line in found), found


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("assert x", "assert:"),
        ("try:\n    x\nexcept:\n    y\n", "bare except:"),
        ("try:\n    x\nexcept E as e:\n    raise F() from e\n", "raise-from:"),
        ("context.verify_mode = tls.CERT_NONE", "CERT_NONE:"),
        ("context.verify_mode = 0", "verify_mode:"),
        ("from tls import CERT_NONE\nmode = CERT_NONE", "CERT_NONE:"),
        ('log.info("got %s", token)', "token: a secret"),
        ('log.debug("key %r" % self.shared_access_key)', "shared_access_key: a secret"),
        ("print(connection_string)", "connection_string: a secret"),
    ],
)
def test_a_planted_construct_is_found(tmp_path: Path, source: str, said: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(source + "\n")
    assert any(said in line for line in constructs.device_findings(path, "module.py"))


def test_a_file_that_micropython_cannot_compile_is_found(tmp_path: Path) -> None:
    package = tmp_path / "firmware" / "azure_iot"
    package.mkdir(parents=True)
    (package / "good.py").write_text("x = 1\n")
    (package / "bad.py").write_text("x = [*a]\n")
    measured, problems = sizes.measure(tmp_path)
    assert list(measured) == ["azure_iot/good.py"]
    assert len(problems) == 1
    assert "bad.py: mpy-cross refuses it" in problems[0]


def test_a_module_over_its_budget_is_found(tmp_path: Path) -> None:
    package = tmp_path / "firmware" / "azure_iot"
    package.mkdir(parents=True)
    (package / "large.py").write_text("\n".join(f"name_{n} = '{n:040d}'" for n in range(200)))
    (tmp_path / sizes.BUDGET).write_text('{"package": 100000, "module": 4000, "modules": {}}')
    _, findings = sizes.report(tmp_path)
    assert len(findings) == 1
    assert findings[0].startswith("azure_iot/large.py: ")


def test_the_lock_file_serves_every_dependency_of_the_project() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lock = (ROOT / "tools" / "setup" / "requirements.lock").read_text("utf-8")
    locked = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += extra
    for line in wanted:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert name in locked, f"{name} is not in the lock file; tools/README.md says how to lock"
        assert locked[name] in requirement.specifier, line


def test_no_lock_file_names_a_registry() -> None:
    for path in (ROOT / "tools" / "setup").glob("*.lock"):
        assert "://" not in path.read_text("utf-8"), path.name


def test_each_top_folder_says_what_lives_there() -> None:
    for name in ("firmware", "host_tests", "boards", "certs", "tools"):
        text = (ROOT / name / "README.md").read_text("utf-8")
        assert len(text.splitlines()) > 5, name


def test_the_top_level_holds_what_it_should_and_nothing_else(not_checked) -> None:
    if not (ROOT / ".git").exists():
        not_checked("what the top level holds: this is no git checkout")
    assert {name.split("/")[0] for name in constructs.committed(ROOT)} == {
        *("firmware", "host_tests", "boards", "certs", "tools", ".ci", ".gitignore"),
        *("README.md", "Makefile", "pyproject.toml", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"),
    }
