"""`taproot ca`: what it writes is what a TLS stack accepts, and refuses where it should."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from taproot.ca.cli import BAD
from taproot.cli import command as program


def ca(line: str) -> tuple[int, str]:
    result = CliRunner().invoke(program, ["ca", *line.split()])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def handshake(folder: Path) -> str:
    """Return `ok`, or why a verifying client refuses the chain."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.set_ciphers("ALL:@SECLEVEL=0")
    server.load_cert_chain(folder / "server.pem", folder / "server.key")
    client = ssl.create_default_context(cadata=(folder / "root.pem").read_text())
    left, right = socket.socketpair()
    left.settimeout(10)
    right.settimeout(10)

    def serve() -> None:
        try:
            server.wrap_socket(left, server_side=True).close()
        except OSError:
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(right, server_hostname="localhost").close()
        return "ok"
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    finally:
        right.close()
        thread.join()


@pytest.mark.parametrize("key", ["rsa2048", "p256"])
def test_chain_is_accepted_by_a_verifying_client(key: str, tmp_path: Path) -> None:
    code, said = ca(f"chain {tmp_path}/pki --key {key}")
    assert code == 0 and "Certificate message" in said
    assert handshake(tmp_path / "pki") == "ok"
    for name in ("root", "intermediate", "server"):
        assert stat.S_IMODE((tmp_path / f"pki/{name}.key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("expired", "expired"),
        ("not-yet-valid", "not yet valid"),
        ("wrong-host", "mismatch"),
        ("missing-intermediate", "unable to get"),
        ("foreign-root", "unable to get"),
        ("sha1", "too weak"),
    ],
)
def test_bad_chain_is_wrong_in_the_way_asked_for(bad: str, said: str, tmp_path: Path) -> None:
    assert ca(f"chain {tmp_path}/pki --bad {bad}")[0] == 0
    assert said in handshake(tmp_path / "pki").lower()


def test_every_kind_of_bad_chain_is_tested_above() -> None:
    (mark,) = test_bad_chain_is_wrong_in_the_way_asked_for.pytestmark
    assert {bad for bad, _ in mark.args[1]} == set(BAD)


def test_authorities_are_taken_up_again_from_their_files(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    assert ca(f"root {folder}/root --cn Contoso")[0] == 0
    assert ca(f"intermediate {folder}/ca --issuer {folder}/root.pem")[0] == 0
    line = f"leaf {folder}/server --issuer {folder}/ca --cn localhost --dns localhost"
    assert ca(line)[0] == 0
    assert handshake(folder) == "ok"
    code, said = ca(f"show {folder}/server.pem")
    assert code == 0 and "2 certificates" in said


def test_device_certificate_is_for_clients_only(tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    ca(f"root {tmp_path}/r")
    assert ca(f"leaf {tmp_path}/d --issuer {tmp_path}/r --cn device-01 --client")[0] == 0
    made = x509.load_pem_x509_certificate((tmp_path / "d.pem").read_bytes())
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("root {t}/r", "never replaced"),
        ("leaf {t}/x --issuer {t}/none --cn a", "cannot read"),
        ("leaf {t}/x --issuer {t}/odd --cn a", "do not belong together"),
        ("leaf {t}/x --issuer {t}/junk --cn a", "not an authority"),
        ("leaf {t}/x --issuer {t}/leaf --cn a", "not the certificate of an authority"),
        ("leaf {t}/x --issuer {t}/r --cn a --ip 1.2.3", "not usable"),
        ("show {t}/r.key", "no certificates"),
        ("show {t}/none", "cannot read"),
    ],
)
def test_mistake_ends_in_one_line(line: str, said: str, tmp_path: Path) -> None:
    for name in ("r", "other"):
        ca(f"root {tmp_path}/{name} --key p256")
    ca(f"leaf {tmp_path}/leaf --issuer {tmp_path}/r --cn leaf --key p256")
    (tmp_path / "odd.pem").write_bytes((tmp_path / "r.pem").read_bytes())
    (tmp_path / "odd.key").write_bytes((tmp_path / "other.key").read_bytes())
    (tmp_path / "junk.pem").write_text("junk")
    (tmp_path / "junk.key").write_text("junk")
    code, output = ca(line.format(t=tmp_path))
    assert code == 2 and said in output and output.count("Error:") == 1
