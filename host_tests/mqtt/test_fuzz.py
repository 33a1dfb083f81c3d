"""Mutated streams never get more than a ProtocolError out of a session (requirement MQTT, fuzz)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from taproot import interpreters

from mqtt import fuzz_core
from mqtt.cases import VIOLATIONS

HERE = Path(__file__).resolve().parent
CORPUS = HERE.parent / "vectors" / "mqtt_corpus.json"
PEAK = 22_000  # bytes allocated for one stream of at most 3 KB, kept or not, buffers included
# Bytes held at once; transient.py notes the names of all modules, of which CPython has many.
PEAK_CPYTHON = 8_000 + 4 * sys.getsizeof(set(sys.modules))


@pytest.mark.timeout(1200)
def test_fuzz_on_cpython(count):
    n, deep, refused, answered, peak = fuzz_core.main(
        str(CORPUS), count(20_000, 1_000_000), 20261123
    )
    assert deep >= 0.6 * n, f"only {deep} of {n} got past CONNACK and two packets"
    assert refused >= 0.2 * n, "hardly anything was refused: the mutations are too tame"
    assert answered >= 0.1 * n, "SUBACK and UNSUBACK hardly ever fit"
    assert peak <= PEAK_CPYTHON, f"{peak} B for one stream"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("interpreter", ["unix64", "unix32", "stock"])
def test_fuzz_on_micropython(count, interpreter):
    n = count(2_000, 50_000)
    result = interpreters.run(
        interpreter, HERE / "fuzz_core.py", str(CORPUS), str(n), "7", heap="256k", timeout=600
    )
    assert result.returncode == 0, result.text
    word, *counts = result.stdout.split()
    total, deep, _, answered, peak = map(int, counts)
    assert word == "FUZZ" and deep >= 0.6 * total and answered >= 0.1 * total, result.text
    assert peak <= PEAK, result.text


@pytest.mark.parametrize("interpreter", ["unix64", "unix32", "stock"])
def test_violations_on_micropython(interpreter):
    result = interpreters.run(
        interpreter, HERE / "device_cases.py", str(HERE.parent), heap="128k", timeout=60
    )
    assert result.stdout.strip() == f"OK {3 * len(VIOLATIONS)}", result.text
