"""A build whose linker lost a hook: it says so, and connects no worse than it verifies."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.tls_chains import credential, device_authority, root, served
from support.tls_peer import Server
from taproot import interpreters

HOOKS = (
    "mbedtls_ssl_config_defaults",
    "mbedtls_ssl_set_bio",
    "mbedtls_ssl_conf_own_cert",
    "mbedtls_ssl_free",
    "m_tracked_calloc",
    "m_tracked_free",
)
PROGRAM = """
import asyncio, json, sys, tlsopt
from azure_iot import transport
from azure_iot.tls.context import TLSContext
read = lambda name: open(name, "rb").read()
class Own:
    cert, key = read("cert"), read("key")
async def main():
    try:
        link = await transport.open_tls("localhost", int(sys.argv[1]),
            TLSContext([read(sys.argv[2])], credential=Own()))
        await link.write(b"x")
        await link.read_into(memoryview(bytearray(1)))
        await link.close()
        found = "OK", ""
    except Exception as error:
        found = getattr(error, "verdict", type(error).__name__), str(error)
    print(json.dumps(found + (tlsopt.HOOKED,)))
asyncio.run(main())
"""


def relinked(folder: Path, without: str | None) -> Path | None:
    """The variant linked anew from its objects, one `--wrap` left out."""
    objects = sorted((interpreters.build_folder() / "obj" / "unix64").rglob("*.o"))
    if not objects or not shutil.which("gcc"):
        return None
    flags = [
        f"-Wl,--defsym=__real_{name}={name}" if name == without else f"-Wl,--wrap={name}"
        for name in HOOKS
    ]
    target = folder / "micropython"
    line = ["gcc", *objects, "-o", target, *flags, "-lm", "-lpthread", "-ldl"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return target


@pytest.mark.parametrize(
    ("without", "verdict", "hooked"),
    [
        (None, "OK", True),
        ("mbedtls_ssl_config_defaults", "RuntimeError", False),
        ("mbedtls_ssl_set_bio", "RuntimeError", False),
        ("mbedtls_ssl_conf_own_cert", "OK", True),  # the device's key is not given back, no more
    ],
)
def test_a_lost_hook_is_told(tmp_path, not_checked, without, verdict, hooked) -> None:
    program = relinked(tmp_path, without)
    if program is None:
        not_checked("no compiler or no objects of the build unix64: make setup")
    own = credential("good")
    files = {"cert": own.cert, "key": own.key, "good": root().der, "other": root("p384").der}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "program.py").write_text(PROGRAM)
    roots = device_authority().pem
    with Server(served("good").leaf, client="required", client_roots=roots) as server:
        # Which comes first without `set_bio`, the chain or the question for the hook, is chance.
        for held, expected in (("good", {verdict}), ("other", {"UNTRUSTED", verdict} - {"OK"})):
            line = [program, "program.py", str(server.port), held]
            done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, check=False)
            assert done.returncode == 0, done.stderr
            found, text, told = json.loads(done.stdout)
            assert found in expected and told == hooked, text
            assert found != "RuntimeError" or text == "tlsopt is not hooked"
        assert all(seen["client"] for seen in server.seen)
