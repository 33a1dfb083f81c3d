"""`taproot bench trust`: what a signature and an install cost a device.

Instructions and heap of one verification by key size and algorithm, in Python and in C. Heap of an
install: `make test` (host_tests/trust/test_memory.py), which needs hundreds of runs. Bytes of the
modules: `taproot bench size`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from taproot.bench import runner

PROGRAM = Path(__file__).with_name("device") / "trust_bench.py"
# Specification, section 5: million instructions of one verification on the 32-bit build.
GOALS = {("PS256", 2048): 17.3, ("PS256", 3072): 39.8, ("PS256", 4096): 58.5,
         ("RS256", 2048): 16.9, ("RS256", 3072): 39.1, ("RS256", 4096): 57.7}  # fmt: skip


def _verify(bench: runner.Bench, build: str) -> None:
    counter = runner.Callgrind(build)
    with tempfile.TemporaryDirectory(prefix="taproot-trust-") as folder:
        for bits in (2048, 3072, 4096):
            key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
            modulus = key.public_key().public_numbers().n.to_bytes(bits // 8, "big")
            for alg in ("PS256", "RS256"):
                scheme = (
                    padding.PSS(padding.MGF1(hashes.SHA256()), 32)
                    if alg == "PS256"
                    else padding.PKCS1v15()
                )
                path = Path(folder) / "signature"
                path.write_bytes(modulus + key.sign(b"signed", scheme, hashes.SHA256()))
                for kind in ("python", "c"):
                    cost, result = counter.run(PROGRAM, alg, str(path), kind, heap="4m")
                    if "SKIP" in result.stdout:
                        continue
                    heap, _ = runner.result_line(result)
                    name = f"trust.verify.{alg.lower()}.{bits}.{kind}"
                    goal = GOALS[alg, bits] * 1e6 * 1.1 if kind == "python" else None
                    bench.add(
                        name,
                        cost,
                        "instr",
                        build=build,
                        goal=None if goal is None else int(goal),
                        why="the big integer arithmetic of this build differs",
                        heap=heap,
                    )


@click.command("trust")
@click.option("--build", default="unix32", show_default=True, help="For the instruction counts.")
@click.option("--compare", metavar="FILE", help="Show the values of an earlier --json beside.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(build: str, compare: str | None, as_json: bool) -> None:
    """Measure what verifying a trust package costs.

    Example: taproot bench trust --build unix64
    """
    bench = runner.Bench("taproot bench trust", as_json, compare)
    _verify(bench, build)
    bench.report.finish()
