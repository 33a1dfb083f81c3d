"""Who reads a probe's file: `trust build` and `publish`, `device info`, the planner.

The file is written by `taproot probe --out` against a real server each time.
"""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest
from azure_iot.tls.profile import Build, TLSProfile
from click.testing import CliRunner
from support.tls_chains import root, served
from support.tls_ignoring import serving
from support.tls_peer import Server
from taproot.cli import command as taproot
from taproot.probe.file import load


def run(line: str, code: int = 0) -> str:
    """Run `taproot LINE`, check the exit status, return all it said."""
    result = CliRunner().invoke(taproot, line.split())
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def agreeing(tmp_path) -> Path:
    """What a probe wrote about a server that agrees to fragment lengths."""
    (tmp_path / "root.pem").write_text(root().pem)
    out = tmp_path / "agreeing.json"
    with Server(served("good").leaf) as server:
        run(f"probe localhost:{server.port} --root {tmp_path}/root.pem --out {out}")
    return out


@pytest.fixture
def ignoring(tmp_path) -> Path:
    """What a probe wrote about a server that ignores them."""
    out = tmp_path / "ignoring.json"
    with serving(served("good").leaf) as port:
        run(f"probe localhost:{port} --out {out}")
    return out


BOARD = Build(
    module=True, in_len=4096, out_len=4096, variable_buffer=True, keep_peer=False, mfl=True,
    ca_callback=True, version="3.6.6",
)  # fmt: skip


def test_planner_starts_from_what_the_probe_saw(agreeing, ignoring) -> None:
    unknown = TLSProfile(build=BOARD).plan("localhost")
    assert unknown.mfl == 4096 and "unknown" in unknown.why
    for path, mfl, why in ((agreeing, 512, "smallest"), (ignoring, 0, "ignores")):
        profile = TLSProfile(build=BOARD)
        (server,) = load(path)
        server.teach(profile)
        plan = profile.plan("localhost")
        assert plan.mfl == mfl and why in plan.why
        assert (
            profile.host("localhost").certificate == served("good").leaf.certificate_message_size
        )


def test_planner_keeps_to_the_lengths_that_a_probe_saw_agreed_to(agreeing) -> None:
    seen = json.loads(agreeing.read_text())
    for size in ("512", "4096"):
        seen["targets"][0]["mfl"][size]["echoed"] = False
    agreeing.write_text(json.dumps(seen))
    profile = TLSProfile(build=BOARD)
    (server,) = load(agreeing)
    server.teach(profile)
    assert profile.plan("localhost").mfl == 1024


def test_device_info_says_how_this_firmware_would_connect(agreeing, ignoring) -> None:
    assert "fragments of 512" in run(f"device info --interpreter unix32 --probe {agreeing}")
    assert "no fragment length" in run(f"device info --interpreter unix32 --probe {ignoring}")
    large = json.loads(agreeing.read_text())
    large["targets"][0]["chains"]["ecdsa"]["certificate_message"] = 5_000
    agreeing.write_text(json.dumps(large))
    said = run(f"device info --interpreter unix32 --probe {agreeing}", 1)
    assert "CONFIG_MBEDTLS_SSL_IN_CONTENT_LEN=8192" in said
    run(f"device info --interpreter unix64 --probe {agreeing}")


def test_build_and_publish_refuse_what_would_not_reach_a_probed_server(agreeing, tmp_path) -> None:
    home = tmp_path / "fleet"
    trust = f"trust --home {home}"

    def release(version: int, more: str = "") -> None:
        run(f"{trust} build --version {version} {more}")
        for label in ("bundle-1", "bundle-2"):
            run(f"{trust} sign bundles/{version}.jws --key {home}/keys/{label}.pem")
        run(f"{trust} package")

    run(f"{trust} init --fleet contoso-esp32 --unencrypted --bits 2048")
    refused = run(f"{trust} build --probe {agreeing}", 1)
    assert "no-root-for-server" in refused and root().sha256[:16] in refused
    release(1)
    publish = f"{trust} publish --dry-run --channel twin --probe {agreeing}"
    assert "no-root-for-server" in run(publish, 1)
    run(f"{trust} add-root {tmp_path}/root.pem")
    release(2, f"--probe {agreeing}")
    # Past the guards: what stops it now is that no hub was named.
    assert "no-root-for-server" not in run(publish, 2)


def test_a_server_whose_chain_nobody_saw_is_named(tmp_path) -> None:
    newest, out = ssl.TLSVersion.TLSv1_3, tmp_path / "newest.json"
    with Server(served("good").leaf, minimum=newest, maximum=newest) as server:
        run(f"probe localhost:{server.port} --out {out}", 1)
    trust = f"trust --home {tmp_path}/fleet"
    run(f"{trust} init --fleet contoso-esp32 --unencrypted --bits 2048")
    assert "saw no chain of it" in run(f"{trust} build --probe {out}")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "cannot read"),
        ("[]", "is no file of"),
        ('{"tool": "taproot probe", "schema": 2}', "is no file of"),
        ('{"tool": "taproot probe", "schema": 1}', "lacks what a probe writes"),
        ('{"tool": "taproot probe", "schema": 1, "targets": [{"tls": true}]}', "lacks what"),
        ('{"tool": "taproot probe", "schema": 1, "targets": [{"tls": false}]}', "no server in it"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path, content, says) -> None:
    path = tmp_path / "odd.json"
    path.write_text(content)
    said = run(f"device info --interpreter unix64 --probe {path}", 2)
    assert says in said and "Traceback" not in said
