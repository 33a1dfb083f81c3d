"""The ESP32's NVS as the platform and the trust store use it, over a stand-in kept in a file.

Nothing here has run on a board: the stand-in (nvs_device.py) has the interface of `esp32.NVS`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support import trust_maker as tm
from taproot import interpreters

SCRIPT = Path(__file__).resolve().parent / "nvs_device.py"


@pytest.mark.requirement("H15")
def test_values_and_floors_survive_in_nvs(tmp_path):
    fleet = tm.Fleet(2048)
    fleet.write(tmp_path / "factory")
    (tmp_path / "package").write_bytes(
        fleet.package(2, [tm.root_der("m", "rsa2048")], min_version=2)
    )
    result = interpreters.run("unix64", SCRIPT, cwd=tmp_path)
    assert result.returncode == 0 and result.stdout == "OK\n", result.text
