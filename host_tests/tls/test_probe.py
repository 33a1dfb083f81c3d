"""`taproot probe` against the emulator in its TLS modes, and against servers that are none."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.tls_chains import served
from support.tls_ignoring import serving
from support.tls_peer import Scripted, Server
from taproot.cli import command as taproot
from taproot.emulator import EmulatorConfig, running
from taproot.emulator.tls import TLSOptions
from taproot.pki import Authority
from taproot.probe.cli import parse
from taproot.trust.roots import catalogue


def probe(*args: str) -> tuple[int, str, dict[str, Any]]:
    """Run `taproot probe … --json`: exit status, stderr, the object."""
    result = CliRunner().invoke(taproot, ["probe", *args, "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    body = json.loads(result.stdout) if result.stdout.lstrip().startswith("{") else {}
    return result.exit_code, result.stderr, body


@pytest.fixture(scope="module")
def chains():
    rsa = Authority.root("Probe RSA root", "rsa2048")
    ecc = Authority.root("Probe ECC root", "p384")
    leaves = [
        rsa.intermediate("Probe RSA issuing").leaf("localhost", dns=["localhost"]),
        ecc.intermediate("Probe ECC issuing", "p256").leaf("localhost", "p256", dns=["localhost"]),
    ]
    return rsa, ecc, leaves


@pytest.fixture
def roots(chains, tmp_path) -> Path:
    path = tmp_path / "roots.pem"
    path.write_text(chains[0].pem + chains[1].pem)
    return path


def ask(emu: Any, *args: str, ends: int = 0) -> dict[str, Any]:
    code, error, body = probe(f"localhost:{emu.mqtt_port}", *args)
    assert code == ends, error
    return body["targets"][0]


@pytest.mark.parametrize("tickets", ["off", "kept"])
def test_hub_with_both_chains(chains, roots, tickets) -> None:
    rsa, ecc, leaves = chains
    config = EmulatorConfig(chain=leaves, tls=TLSOptions(tickets=tickets), https_port=None)
    with running(config) as emu:
        found = ask(emu, "--root", str(roots))
    assert [r["sha256"] for r in found["chains"]["rsa"]["roots"]] == [rsa.sha256]
    assert [r["sha256"] for r in found["chains"]["ecdsa"]["roots"]] == [ecc.sha256]
    for leaf, kind in zip(leaves, ("rsa", "ecdsa"), strict=True):
        chain = found["chains"][kind]
        assert chain["certificate_message"] == leaf.certificate_message_size
        assert chain["certificates"][0]["sha256"] == leaf.sha256
        assert chain["name_fits"] and 80 <= chain["days_left"] <= 90
        assert not any(chain["clouds"].values())
    assert found["versions"] == {
        "TLSv1.0": False, "TLSv1.1": False, "TLSv1.2": True, "TLSv1.3": False,
    }  # fmt: skip
    assert {s["class"] for s in found["suites"]} == {"recommended"}
    assert len(found["suites"]) == 8
    assert all(answer["echoed"] and answer["obeyed"] for answer in found["mfl"].values())
    assert found["resumption"]["ticket"]["resumed"] == (tickets == "kept"), found["resumption"]
    assert found["resumption"]["id"]["resumed"]
    assert found["client_certificate_asked"] and found["clock"]["chain_valid_now"]
    assert "fragments of 512" in found["plans"]["default"]
    assert found["input_buffer"]["smallest"] >= leaves[0].certificate_message_size


@pytest.mark.parametrize(
    ("profile", "versions", "classes", "sni"),
    [
        ("classic", {"TLSv1.2"}, {"recommended"}, False),
        ("dps", {"TLSv1.2"}, {"recommended"}, False),
        ("device", {"TLSv1.2", "TLSv1.3"}, {"recommended"}, True),
        ("unrestricted", {"TLSv1.0", "TLSv1.1", "TLSv1.2"}, None, False),
        ("legacy", {"TLSv1.0", "TLSv1.1", "TLSv1.2"}, None, False),
        ("tls10", {"TLSv1.0"}, None, None),
        ("tls11", {"TLSv1.1"}, None, None),
    ],
)
def test_every_tls_mode_of_the_emulator(chains, roots, profile, versions, classes, sni) -> None:
    config = EmulatorConfig(chain=chains[2], tls=TLSOptions(profile=profile), https_port=None)
    with running(config) as emu:
        found = ask(emu, "--root", str(roots), ends=0 if "TLSv1.2" in versions else 1)
    assert {name for name, accepted in found["versions"].items() if accepted} == versions
    seen = {s["class"] for s in found["suites"]}
    if classes is not None:
        assert seen == classes
    elif "TLSv1.2" in versions:
        assert "weak" in seen
    assert found["sni"]["needed"] is sni
    if profile == "dps":
        assert found["chains"]["ecdsa"] is None and len(found["suites"]) == 4


def test_a_server_that_ignores_the_fragment_length() -> None:
    with serving(served("good").leaf) as port:
        code, _, body = probe(f"localhost:{port}")
    found = body["targets"][0]
    assert code == 0 and not any(answer["echoed"] for answer in found["mfl"].values())
    assert "the server ignores" in found["plans"]["default"]
    assert found["resumption"]["asked"] is False, "an unknown root is not shaken hands with"


def test_watch_is_an_alarm(chains, roots, tmp_path) -> None:
    rsa, _, leaves = chains
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(rsa.pem)
    with running(EmulatorConfig(chain=leaves, https_port=None)) as emu:
        target = f"localhost:{emu.mqtt_port}"
        code, _, body = probe(target, "--watch", "--bundle", str(bundle), "--root", str(roots))
        (step,) = body["steps"]
        assert code == 1 and not body["ok"]
        assert "the bundle does not hold the root of the ecdsa chain" in step["text"]
        bundle.write_text(rsa.pem + chains[1].pem)
        code, _, body = probe(target, "--watch", "--bundle", str(bundle))
        assert code == 0, body["steps"]
        assert body["targets"][0]["chains"]["rsa"]["bundle"] is True
        code, _, body = probe(target, "--watch", "--days", "100", "--bundle", str(bundle))
        assert code == 1 and "ends in" in body["steps"][0]["text"]


def test_cloud_profiles_are_known_by_their_roots(tmp_path) -> None:
    listed = catalogue()
    bundle = Path(__file__).resolve().parents[2] / "certs" / "bundle" / "public.json"
    from taproot.probe.chain import bundle_roots, known_roots

    assert len(bundle_roots(bundle)) == len(listed.cloud("public").roots)
    names = {root.name for root in known_roots(None, ()) if "public" in root.where}
    assert "DigiCert Global Root G2" in names


def test_picture_and_file(chains, roots, tmp_path) -> None:
    out = tmp_path / "probe.json"
    options = TLSOptions(tickets="kept")
    with running(EmulatorConfig(chain=chains[2], tls=options, https_port=None)) as emu:
        result = CliRunner().invoke(
            taproot,
            ["probe", f"localhost:{emu.mqtt_port}", "--picture", "--root", str(roots),
             "--out", str(out)],
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    for title in ("full, no fragment length", "full, fragments of 512", "resumed by ticket"):
        assert f"\n{title}\n" in result.stdout
    assert "ClientHello" in result.stdout and "bytes up," in result.stdout
    written = json.loads(out.read_text())
    assert written["tool"] == "taproot probe" and written["targets"][0]["tls"] is True


def _banner(conn: socket.socket) -> None:
    conn.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
    conn.recv(1000)


def test_peers_that_do_not_speak_tls_end_in_one_line(tmp_path) -> None:
    with Scripted(_banner) as server:
        code, error, body = probe(f"127.0.0.1:{server.port}")
    assert code == 3 and "speaks no TLS" in body["steps"][0]["text"], error
    assert "HTTP/" in error and body["targets"][0]["tls"] is False
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code, error, _ = probe(f"127.0.0.1:{port}")
    assert code == 3 and "refused" in error.lower() and "Traceback" not in error
    with Scripted(lambda conn: conn.recv(10_000) and conn.recv(1)) as silent:
        code, error, _ = probe(f"127.0.0.1:{silent.port}", "--timeout", "0.5")
    assert code == 3 and "did not answer" in error


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["localhost:0"], "is not HOST or HOST:PORT"),
        (["localhost:x"], "is not HOST or HOST:PORT"),
        (["localhost:\N{SUPERSCRIPT TWO}"], "is not HOST or HOST:PORT"),
        (["a..b"], "is no host name"),
        ([70 * "a"], "is no host name"),
        (["localhost", "a..b:443"], "is no host name"),
        (["localhost", "--name", "a..b"], "is no host name"),
        (["localhost", "--timeout", "-1"], "--timeout is more than 0"),
        (["localhost", "--timeout", "0"], "--timeout is more than 0"),
        (["localhost", "--timeout", "nan"], "--timeout is more than 0"),
        (["localhost", "--timeout", "inf"], "--timeout is more than 0"),
        (["localhost", "--days", "-1"], "'--days'"),
        (["localhost", "--bundle", "no-such-file"], "cannot read"),
        (["localhost", "--bundle", __file__], "neither a package"),
        (["localhost", "--root", __file__], "no PEM certificate"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(wrong, says) -> None:
    code, error, _ = probe(*wrong)
    assert code == 2 and says in error and "Traceback" not in error


def test_targets_are_read_as_people_write_them() -> None:
    assert parse("hub.example") == ("hub.example", 8883)
    assert parse("hub.example:443") == ("hub.example", 443)
    assert parse("[::1]:8883") == ("::1", 8883) and parse("[::1]") == ("::1", 8883)


def test_openssl_server_of_another_kind() -> None:
    """A plain OpenSSL server, P-256 only, found out the same way."""
    with Server(served("good").leaf) as server:
        _, _, body = probe(f"localhost:{server.port}")
    found = body["targets"][0]
    assert found["chains"]["rsa"] is None and found["chains"]["ecdsa"]["name_fits"]
    assert all(answer["echoed"] for answer in found["mfl"].values())
