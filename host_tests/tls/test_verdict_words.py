"""What a verdict says: the facts around it, and the roots that stock firmware tries."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from support.tls_chains import Served, leaf, root, served
from support.tls_device import connect
from support.tls_peer import Relay, Scripted, Server, alert_at
from taproot import interpreters

BUILDS = ("unix64", "stock")


def failed(build: str, chain: Served, **options: Any) -> dict[str, Any]:
    """Connect to a server with `chain`; what the device says."""
    with Server(chain.leaf, chain_pem=chain.chain_pem) as server:
        return connect(build, server.port, options.pop("roots", chain.roots), **options)


@pytest.mark.parametrize("build", BUILDS)
def test_untrusted_names_the_issuer_presented_and_counts_the_roots_held(build) -> None:
    roots = [root("p384").der, root("rsa2048").der]
    found = failed(build, served("good"), roots=roots)
    assert found["verdict"] == "UNTRUSTED"
    assert "; signed by Matrix root p256; roots held: 2" in found["text"]


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(
    ("chain", "verdict"), [("expired-leaf", "EXPIRED"), ("future-leaf", "FUTURE")]
)
def test_dates_come_with_the_clock_and_what_the_chain_says(chain, verdict, build) -> None:
    found = failed(build, served(chain))
    assert found["verdict"] == verdict
    says = re.search(
        r"the clock says (\S+ \S+) UTC; valid from (\d+) to (\d+) \(Unix time\)", found["text"]
    )
    assert says, found["text"]
    clock = time.mktime(time.strptime(says[1], "%Y-%m-%d %H:%M")) - time.timezone
    assert abs(clock - time.time()) < 120
    cert = served(chain).leaf.cert
    if verdict == "EXPIRED":
        assert int(says[3]) == int(cert.not_valid_after_utc.timestamp())
    else:
        assert int(says[2]) == int(cert.not_valid_before_utc.timestamp())


@pytest.mark.parametrize("build", BUILDS)
def test_expired_is_the_servers_fault_only_by_a_confirmed_clock(build) -> None:
    sure = failed(build, served("expired-leaf"))
    assert sure["class"] == "TrustError" and "repair the time" not in sure["text"]
    found = failed(build, served("expired-leaf"), clock_trusted=False)
    assert found["verdict"] == "EXPIRED" and found["class"] == "ClockError"
    assert "the clock is not confirmed, so repair the time first" in found["text"]


@pytest.mark.parametrize(
    ("step", "number", "says"),
    [
        (0, 40, "(alert handshake_failure)"),
        (0, 80, "(alert internal_error)"),
        (3, 48, "(alert unknown_ca)"),
        (0, 200, "(alert 200)"),
    ],
)
def test_an_alert_is_called_by_its_name(step, number, says) -> None:
    with (
        Server(served("good").leaf) as server,
        Relay(server.port, alert_at(step, number)) as relay,
    ):
        found = connect("unix64", relay.port, served("good").roots)
        assert found["text"].endswith(says), found
        stock = connect("stock", relay.port, served("good").roots)
        assert "this firmware cannot name it" in stock["text"], stock


def test_a_captive_portal_is_said_to_answer_with_http() -> None:
    def portal(conn) -> None:
        conn.recv(4096)
        conn.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n")

    def mail(conn) -> None:
        conn.recv(4096)
        conn.sendall(b"220 mail.example ESMTP ready\r\n")

    for script, says in ((portal, True), (mail, False)):
        with Scripted(script) as server:
            found = connect("unix64", server.port, served("good").roots)
        assert found["verdict"] == "NOT_TLS", found
        assert ("it answered with HTTP" in found["text"]) == says


@pytest.mark.parametrize("build", BUILDS)
def test_a_chain_that_is_too_long_is_said_to_be(build) -> None:
    found = failed(build, served("too-many"))
    assert found["verdict"] == "CHAIN" and found["class"] == "ProtocolError"
    assert "too long" in found["text"] and "must shorten it" in found["text"]


def under(kind: str) -> Served:
    """A chain under the root of `kind`; P-256 leaf and intermediate, so stock speaks TLS 1.2."""
    middle = root(kind).intermediate(f"Matrix below {kind}", "p256")
    return Served(leaf(middle), [root(kind).der])


def test_stock_tries_the_root_of_last_time_first_then_the_one_the_chain_names() -> None:
    """The host moves from one root to another and back."""
    kinds = ("rsa2048", "p256", "p384")
    roots = [root(kind).der for kind in kinds]
    with Server(under("p256").leaf) as old, Server(under("p384").leaf) as new:
        with Relay(old.port) as first, Relay(new.port) as second:
            ports = [first.port, first.port, second.port, second.port, first.port]
            tries, found = [], []
            found = connect("stock", 0, roots, ports=ports, times=len(ports))["all"]
            tries = [len(first.wires), len(second.wires)]
    assert [one["verdict"] for one in found] == ["OK"] * 5, found
    assert [one["loaded"] for one in found] == [1] * 5, "of all roots only the one that is needed"
    # Unknown: the first root held, then the one named; known: at once; moved: named again.
    assert tries == [2 + 1 + 2, 2 + 1]


def test_stock_does_not_try_again_when_the_root_that_the_chain_names_was_tried() -> None:
    roots = [root("p256", 1).der, root("p384").der]  # the same name, another key
    with Server(served("good").leaf) as server, Relay(server.port) as relay:
        found = connect("stock", relay.port, roots)
        assert found["verdict"] == "UNTRUSTED" and len(relay.wires) == 1
        found = connect("stock", relay.port, roots[::-1])
        assert found["verdict"] == "UNTRUSTED" and len(relay.wires) == 3, "the named one was tried"


def test_stock_tries_every_root_when_none_has_the_name() -> None:
    with Server(served("good").leaf) as server, Relay(server.port) as relay:
        found = connect("stock", relay.port, [root("p384").der, root("rsa2048").der])
        assert found["verdict"] == "UNTRUSTED" and len(relay.wires) == 2, found


CALLBACK = """
import asyncio, json, socket, sys
import azure_iot.tls.context as module
from azure_iot import transport
port = int(sys.argv[1])
context = module.TLSContext([open("root.der", "rb").read()])
context.presented = []
found = []
for wrong in (b"", b"0", b"0\\x03\\x30\\x01\\x00", b"\\xff" * 40):
    context.callback_error = None
    found.append([context.seen(memoryview(wrong), 0), context.callback_error is not None])
def broken(data):
    raise KeyError("no digest")
module.sha256 = broken
async def main():
    link = await transport.open_tls("localhost", port, context)
    await link.write(b"x")
    await link.read_into(memoryview(bytearray(1)))
    found.append([context.via, repr(context.callback_error)])
    await link.close()
asyncio.run(main())
print(json.dumps(found))
"""


@pytest.mark.parametrize("build", BUILDS)
def test_the_verification_callback_never_raises(build, tmp_path) -> None:
    """An exception would unwind through C and leave the handshake's memory behind."""
    (tmp_path / "root.der").write_bytes(served("good").roots[0])
    (tmp_path / "program.py").write_text(CALLBACK)
    with Server(served("good").leaf) as server:
        result = interpreters.run(build, tmp_path / "program.py", str(server.port), cwd=tmp_path)
    assert result.returncode == 0, result.text
    *garbage, last = json.loads(result.stdout)
    assert garbage == [[0, True]] * 4
    assert last[0] is None and "no digest" in last[1], "nothing was noted, and the link works"


FAILING = """
import asyncio, json, sys
from azure_iot import transport
from azure_iot.errors import AzureIoTError
from azure_iot.tls.context import TLSContext
class Store:
    def __len__(self):
        return 1
    def __call__(self, issuer):
        raise OSError(5)
async def main():
    try:
        await transport.open_tls("localhost", int(sys.argv[1]), TLSContext(Store()))
    except AzureIoTError as error:
        print(json.dumps([error.verdict, type(error).__name__, str(error)]))
asyncio.run(main())
"""


def test_a_store_that_fails_in_the_handshake_is_no_fault_of_the_server(tmp_path) -> None:
    """mbedTLS has one code for it and for a chain that is too long."""
    (tmp_path / "program.py").write_text(FAILING)
    with Server(served("good").leaf) as server:
        result = interpreters.run("unix64", tmp_path / "program.py", str(server.port))
    verdict, kind, text = json.loads(result.stdout)
    assert (verdict, kind) == ("INTERNAL", "ConnectionFailedError")
    assert "the stored roots could not be read" in text
