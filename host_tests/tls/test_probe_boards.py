"""What `taproot probe` plans for: the boards as they are shipped, and the kind of host."""

from __future__ import annotations

import json
import re
import socket

import pytest
from azure_iot.tls.profile import Build, TLSProfile
from click.testing import CliRunner
from support.checkout import ROOT
from support.tls_chains import served
from support.tls_peer import ALERT, Hello, Relay, Server, record
from taproot.cli import command as taproot
from taproot.pki import Authority
from taproot.probe.file import Server as Seen
from taproot.probe.questions import BOARDS

# What a board has that says nothing: ESP-IDF's Kconfig, with MicroPython's sdkconfig.base.
UNSAID = {
    "IN_CONTENT_LEN": 16384,
    "OUT_CONTENT_LEN": 4096,
    "VARIABLE_BUFFER_LENGTH": False,
    "KEEP_PEER_CERTIFICATE": True,
    "PROTO_TLS1_3": False,
    "TRUSTED_CERT_CALLBACK": False,
}
ATTRIBUTES = ("in_len", "out_len", "variable_buffer", "keep_peer", "tls13", "ca_callback")
SETTING = re.compile(r"^CONFIG_MBEDTLS_(?:SSL_|X509_)(\w+)=(y|n|\d+)$", re.MULTILINE)


def shipped(board: str) -> dict[str, int | bool]:
    """The TLS settings that a board's files come to; a later file wins."""
    folder = ROOT / "boards" / board
    listed = (folder / "mpconfigboard.cmake").read_text("utf-8")
    found: dict[str, int | bool] = dict(UNSAID)
    for name in re.findall(r"\$\{CMAKE_CURRENT_LIST_DIR\}/(\S*sdkconfig\.\w+)", listed):
        for setting, value in SETTING.findall((folder / name).read_text("utf-8")):
            if setting in found:
                found[setting] = int(value) if value.isdecimal() else value == "y"
    return found


@pytest.mark.parametrize(
    ("board", "plan"),
    [
        ("AZURE_IOT_ESP32", "default"),
        ("AZURE_IOT_ESP32_C3", "default"),
        ("AZURE_IOT_ESP32_S3", "psram"),
    ],
)
def test_plans_are_for_the_boards_as_they_are_shipped(board, plan) -> None:
    build = BOARDS[plan][1]
    assert [getattr(build, name) for name in ATTRIBUTES] == list(shipped(board).values())
    assert build.module and build.mfl, "boards link tlsopt; ESP-IDF always has the extension"


def probe(server: Server, name: str) -> dict[str, str]:
    """The plans for a server under a name."""
    line = ["probe", f"localhost:{server.port}", "--json", "--name", name]
    result = CliRunner().invoke(taproot, line)
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)["targets"]
    assert found["chains"]["ecdsa"] is None
    return found["plans"]


@pytest.mark.parametrize(
    ("name", "dps"),
    [
        ("global.azure-devices-provisioning.net", True),
        ("global.azure-devices-provisioning.cn", True),
        ("hub.azure-devices.net", False),
        ("azure-devices-provisioning.example", False),
    ],
)
def test_only_a_dps_host_gets_the_reason_of_dps(name, dps) -> None:
    leaf = Authority.root("Plans root", "rsa2048").leaf(name, dns=[name])
    with Server(leaf) as server:
        plan = probe(server, name)["default"]
    assert ("DPS has RSA certificates only" in plan) == dps
    assert ("RSA first" in plan) != dps
    assert "fragments of 512" in plan


def seen(*lengths: int) -> Seen:
    """A server with these fragment lengths."""
    versions = {"TLSv1.2": True}
    return Seen("hub:8883", "hub", versions, {}, 2000, lengths, ())


@pytest.mark.parametrize(
    ("lengths", "allowed"),
    [
        ((512, 1024, 2048, 4096), (512,)),
        ((1024, 2048, 4096), (1024, 0)),
        ((2048, 4096), (2048, 0)),
        ((4096,), (4096, 0)),
        ((), (0,)),
    ],
)
def test_a_length_that_was_not_agreed_to_is_not_planned(lengths, allowed) -> None:
    build = Build(
        module=True, in_len=4096, out_len=4096, variable_buffer=True, keep_peer=False, mfl=True,
        ca_callback=True, version="3.6.6",
    )  # fmt: skip
    profile = TLSProfile(build=build)
    seen(*lengths).teach(profile)
    assert profile.plan("hub").mfl in allowed, "the length, or none where it cannot be told"


def test_a_length_above_the_output_buffer_is_none_that_was_agreed_to() -> None:
    ok, why = seen(4096).plan(BOARDS["default"][1])
    assert ok and "agreed" not in why and "a record above 2048 would end it" in why


def test_a_server_that_refuses_a_length_by_alert() -> None:
    """512 is illegal to it, the others it agrees to."""
    with Server(served("good").leaf) as server:

        class Refusing(Relay):
            def serve(self, conn: socket.socket) -> None:
                head = conn.recv(65536, socket.MSG_PEEK)
                if Hello(head[5:], client=True).mfl == 512:
                    conn.recv(65536)
                    conn.sendall(record(ALERT, b"\x02\x2f"))
                    conn.recv(1)
                else:
                    super().serve(conn)

        with Refusing(server.port) as relay:
            result = CliRunner().invoke(taproot, ["probe", f"localhost:{relay.port}", "--json"])
    (found,) = json.loads(result.stdout)["targets"]
    assert result.exit_code == 0 and found["mfl"]["512"]["refused"] == "illegal_parameter"
    assert found["mfl"]["1024"]["obeyed"] and "MFL 512    refused" in result.stderr
    assert "fragments of 512" not in found["plans"]["default"]
