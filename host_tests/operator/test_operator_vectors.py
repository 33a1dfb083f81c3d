"""The golden vectors: reproducible, judged alike by the tool, the device's store and openssl."""

from __future__ import annotations

import gc
import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from taproot import interpreters
from taproot.trust import signing, vectors
from taproot.trust.seeded import seeded_key
from taproot.trust.verify import Position, verify_package

HERE = Path(__file__).resolve().parent
VECTORS = HERE.parent / "vectors"
GOLDEN = VECTORS / "trust" / "golden.json"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text())


@pytest.mark.requirement("R-47")
def test_committed_vectors_are_what_the_tool_writes(operator) -> None:
    operator.ok("vectors --out golden.json")
    assert (operator.folder / "golden.json").read_bytes() == GOLDEN.read_bytes()


@pytest.mark.requirement("R-47")
def test_vectors_fit_their_schema(golden: dict[str, Any]) -> None:
    schema = json.loads((VECTORS / "schemas" / "trust_vectors.schema.json").read_text())
    jsonschema.validate(golden, schema)
    names = [case["name"] for case in golden["cases"]]
    assert len(names) == len(set(names)) >= 130


@pytest.mark.requirement("R-47", "R-03")
def test_tool_reaches_every_verdict(golden: dict[str, Any]) -> None:
    bootstrap = golden["factory"]["keyset"].encode()
    checked = 0
    gc.freeze()  # the device collects garbage between its steps; only what is new here counts
    for case in golden["cases"]:
        step, *more = case["steps"]
        if more:
            continue
        at = step.get("now", golden["now"]) if step.get("synchronised", True) else None
        position = Position(bootstrap, 1, at, "dps" in step.get("uses", ()))
        verdict = verify_package(step["package"].encode(), position, load_roots=False)
        assert (verdict.code or "OK") == step["expect"], (case["name"], verdict.text)
        checked += 1
    gc.unfreeze()
    assert checked >= 120


@pytest.mark.requirement("R-47", "R-45", "R-36")
@pytest.mark.parametrize("build", ["unix64", "unix32"])
def test_device_reaches_every_verdict_and_a_refusal_changes_nothing(
    build: str, golden: dict[str, Any], tmp_path: Path
) -> None:
    program = HERE / "golden_device.py"
    result = interpreters.run(build, program, str(GOLDEN), heap="16m", timeout=180, cwd=tmp_path)
    assert result.returncode == 0, result.text
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [name for name, _, _ in found] == [case["name"] for case in golden["cases"]]
    for case, (name, answers, changed) in zip(golden["cases"], found, strict=True):
        assert answers == [step["expect"] for step in case["steps"]], name
        assert not changed, f"{name}: refused, but something changed"


@pytest.mark.requirement("R-47")
def test_verdicts_of_every_kind_are_there(golden: dict[str, Any]) -> None:
    seen = Counter(step["expect"] for case in golden["cases"] for step in case["steps"])
    wanted = {
        "OK", "SAME", "BAD_SIGNATURE", "THRESHOLD", "ROLLBACK", "FLEET", "EXPIRED", "MALFORMED",
        "TOO_LARGE", "NOT_CA", "DUPLICATE", "KEY_CHAIN", "DISTRUSTED", "NO_ROOTS",
    }  # fmt: skip
    assert wanted == set(seen)


@pytest.mark.requirement("R-47")
def test_openssl_accepts_the_signatures_of_the_first_vector(
    golden: dict[str, Any], tmp_path: Path
) -> None:
    """A judge that shares no code with us: neither the encoder nor the verifier."""
    package = json.loads(golden["cases"][0]["steps"][0]["package"])
    envelope = signing.Envelope.from_bytes(json.dumps(package["bundle"]).encode())
    for name in ("bundle-1", "bundle-2"):
        public = seeded_key(name).public
        at = envelope.kids().index(public.kid)
        pem = tmp_path / "k.pem"
        pem.write_bytes(_pem(public))
        (tmp_path / "s").write_bytes(envelope.signatures[at][1])
        protected = envelope.signatures[at][0]
        (tmp_path / "m").write_text(f"{protected}.{package['bundle']['payload']}")
        line = ["openssl", "dgst", "-sha256", "-verify", pem, "-signature", tmp_path / "s"]
        line += ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"]
        done = subprocess.run([*line, tmp_path / "m"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def _pem(public: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = public.to_cryptography()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_seeded_keys_are_good_rsa_keys() -> None:
    key = seeded_key("bundle-1")
    assert key.modulus.bit_length() == 2048 and key.modulus % 2
    assert pow(pow(7, 65537, key.modulus), key.private_exponent, key.modulus) == 7
    assert vectors.FLEET.startswith("demo-")
