"""The C module `tlsopt` (contracts, section 6): per context, read from the wire, fail closed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from support.tls_chains import credential, device_authority, key, leaf, root, served
from support.tls_ignoring import serving
from support.tls_peer import Relay, Server, merged, records_of, segments
from taproot import interpreters

PRELUDE = """
import gc, json, socket, sys, tls, tlsopt
asked = json.loads(sys.argv[1])
roots = [open("root%d.der" % n, "rb").read() for n in range(asked["roots"])]

def raw(port=None):
    sock = socket.socket()
    sock.connect(socket.getaddrinfo("127.0.0.1", port or asked["port"])[0][-1])
    return sock

def context(mfl=0, tickets=True):
    made = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    tlsopt.configure(made, mfl=mfl, tickets=tickets)
    made.load_verify_locations(roots[0])
    return made

def open_tls(made, port=None, host="localhost"):
    return made.wrap_socket(raw(port), server_hostname=host, do_handshake_on_connect=False)

def error(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as found:
        return "%s(%s)" % (type(found).__name__, found.errno if isinstance(found, OSError) else "")
    return "nothing"

def say(**facts):
    print(json.dumps(facts))
"""


def run(tmp_path: Path, program: str, build: str = "unix64", **facts: Any) -> list[dict[str, Any]]:
    """Run PRELUDE + `program`; return the JSON lines it prints."""
    held = facts.pop("held", [root().der])
    for number, der in enumerate(held):
        (tmp_path / f"root{number}.der").write_bytes(der)
    script = tmp_path / "program.py"
    script.write_text(PRELUDE + program)
    asked = json.dumps({"roots": len(held), **facts})
    result = interpreters.run(build, script, asked, cwd=tmp_path, timeout=60)
    assert result.returncode == 0, result.text
    assert "runtime error" not in result.stderr and "Sanitizer" not in result.stderr, result.text
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def server():
    with Server(served("rsa2048-leaf").leaf) as made:
        yield made


def test_hooks_are_linked_and_constants_true(tmp_path, server, build) -> None:
    (found,) = run(
        tmp_path,
        """
before = tlsopt.HOOKED
link = open_tls(context(4096))
link.write(b"x")
say(before=before, after=tlsopt.HOOKED, sizes=[tlsopt.IN_CONTENT_LEN, tlsopt.OUT_CONTENT_LEN],
    vb=tlsopt.VARIABLE_BUFFER, keep=tlsopt.KEEP_PEER_CERTIFICATE, version=tlsopt.MBEDTLS_VERSION)
""",
        port=server.port,
    )
    assert found["before"] is False and found["after"] is True
    assert found["sizes"] == [16384, 4096]
    assert found["vb"] is False and found["keep"] is False
    assert tuple(int(part) for part in found["version"].split(".")) >= (3, 6, 3)


@pytest.mark.parametrize("mfl", [0, 512, 1024, 2048, 4096])
@pytest.mark.parametrize(
    "shape",
    ["whole", "segments 1", "segments 3", "segments 7", "records 7", "records 40", "records 63",
     "merged 2"],
)  # fmt: skip
def test_acknowledgement_is_read_from_the_wire_however_it_is_cut(
    tmp_path, server, shape, mfl
) -> None:
    kind, _, size = shape.partition(" ")
    make = {"segments": segments, "records": records_of, "merged": merged}
    meddle = make[kind](int(size)) if kind in make else None
    with Relay(server.port, meddle) as relay:
        before, after = run(
            tmp_path,
            """
link = open_tls(context(asked["mfl"]))
say(ack=tlsopt.info(link).mfl_acknowledged, over=tlsopt.established(link))
link.write(b"x")
info = tlsopt.info(link)
say(ack=info.mfl_acknowledged, asked=info.mfl_asked, resumed=info.resumed, out=info.out_limit,
    over=tlsopt.established(link), echo=link.read(1).decode())
""",
            port=relay.port,
            mfl=mfl,
        )
        wire = relay.wires[0]
    assert before == {"ack": None, "over": False}
    assert after["ack"] == (mfl or False)
    assert after["asked"] == mfl and after["out"] == (mfl or 4096)
    assert after["resumed"] is False and after["over"] and after["echo"] == "x"
    if shape == "whole":
        assert wire.hello("up").mfl == mfl and wire.hello("down").mfl == mfl
        assert max(size for kind, size in wire.records("down") if kind == 22) <= (mfl or 16384)


def test_a_server_that_ignores_the_length_is_found_out(tmp_path) -> None:
    with serving(served("good").leaf) as port, Relay(port, segments(1)) as relay:
        found = run(
            tmp_path,
            """
for port in asked["ports"]:
    link = open_tls(context(512), port)
    link.write(b"x")
    say(ack=tlsopt.info(link).mfl_acknowledged)
    link.close()
""",
            ports=[port, relay.port],
        )
    assert found == [{"ack": False}, {"ack": False}]


@pytest.mark.parametrize("tickets", [True, False])
def test_sessions_resume_by_ticket_and_by_id(tmp_path, server, tickets) -> None:
    full, again = run(
        tmp_path,
        """
session = None
links = []  # OpenSSL forgets a session id whose connection ended without close_notify
for _ in range(2):
    made = context(1024, asked["tickets"])
    tlsopt.offer(made, session)
    link = open_tls(made)
    link.write(b"x")
    link.read(1)
    session = tlsopt.session(link)
    info = tlsopt.info(link)
    say(resumed=info.resumed, ack=info.mfl_acknowledged, size=len(session),
        again=error(tlsopt.session, link), chain=tlsopt.seen(made).certificate)
    links.append(link)
""",
        port=server.port,
        tickets=tickets,
    )
    assert not full["resumed"] and full["chain"] > 500 and full["again"] == "ValueError()"
    assert again["resumed"] and again["ack"] == 1024 and again["chain"] == 0
    assert full["size"] <= 512 - 69


def test_a_session_that_does_not_load_gives_a_full_verified_handshake(tmp_path, server) -> None:
    (found,) = run(
        tmp_path,
        """
made = context()
tlsopt.offer(made, b"garbage" * 40)
link = open_tls(made)
link.write(b"x")
say(resumed=tlsopt.info(link).resumed, chain=tlsopt.seen(made).certificate > 0)
""",
        port=server.port,
    )
    assert found == {"resumed": False, "chain": True}


def test_settings_belong_to_a_context_even_interleaved(tmp_path, server) -> None:
    (found,) = run(
        tmp_path,
        """
wanted = [4096, 1024, 0, 2048, 512]
contexts = [context(n) for n in wanted]
links = [open_tls(made) for made in contexts]
for link in links:
    link.setblocking(False)
left = list(links)
while left:
    for link in list(left):
        if link.write(b"x"):
            left.remove(link)
    gc.collect()
say(got=[tlsopt.info(link).mfl_acknowledged or 0 for link in links], wanted=wanted)
""",
        port=server.port,
    )
    assert found["got"] == found["wanted"]


def test_nothing_is_carried_over_to_a_reused_address(tmp_path, server) -> None:
    (found,) = run(
        tmp_path,
        """
seen = set()
wrong = 0
for _ in range(200):
    made = context(512)
    seen.add(hex(id(made)))
    made = None
    gc.collect()
    plain = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    plain.load_verify_locations(roots[0])
    seen.add(hex(id(plain)))
link = open_tls(plain)
link.write(b"x")
say(addresses=len(seen), ack=tlsopt.info(link).mfl_acknowledged, asked=tlsopt.info(link).mfl_asked)
""",
        port=server.port,
    )
    assert found["addresses"] < 200, "addresses were reused, so the test means something"
    assert found["ack"] is False and found["asked"] == 0


def test_wrong_objects_and_wrong_moments_are_refused(tmp_path, server) -> None:
    (found,) = run(
        tmp_path,
        """
class SSLContext:
    pass
class SSLSocket:
    pass
class Sub(tls.SSLContext):
    pass
made = context()
link = open_tls(made)
link.write(b"x")
strange = [None, 1, [], tls.SSLContext, SSLContext(), SSLSocket(), Sub(tls.PROTOCOL_TLS_CLIENT)]
result = {"contexts": [error(tlsopt.configure, thing, mfl=512) for thing in strange + [link]],
    "sockets": [error(tlsopt.info, thing) for thing in strange + [made]],
    "late": error(tlsopt.configure, made, mfl=512),
    "roots late": error(tlsopt.roots, made, list),
    "odd": [error(tlsopt.configure, context(), mfl=n) for n in (1, 513, 8192, -1)],
    "not callable": error(tlsopt.roots, context(), 7),
    "offer text": error(tlsopt.offer, context(), "text"),
    "server": error(tlsopt.configure, tls.SSLContext(tls.PROTOCOL_TLS_SERVER), mfl=512)}
link.close()
result["closed"] = [error(call, link) for call in (tlsopt.info, tlsopt.session, tlsopt.established)]
gone = context()
gone.__del__()
result["deleted"] = error(tlsopt.configure, gone, mfl=512)
say(**result)
""",
        port=server.port,
    )
    assert set(found["contexts"]) == {"TypeError()"}
    assert set(found["sockets"]) == {"TypeError()"}
    assert found["late"] == found["roots late"] == "ValueError()"
    assert set(found["odd"]) == {"ValueError()"}
    assert found["not callable"] == found["offer text"] == "TypeError()"
    assert found["server"] == found["deleted"] == "ValueError()"
    assert set(found["closed"]) == {"OSError(9)"}


def test_key_and_certificates_are_given_back_after_the_handshake(tmp_path) -> None:
    held = credential("rsa")
    (tmp_path / "cert").write_bytes(held.cert)
    (tmp_path / "key").write_bytes(held.key)
    chain = served("good")
    with Server(
        chain.leaf, client="optional", client_roots=device_authority().pem, tickets=False
    ) as server:
        (found,) = run(
            tmp_path,
            """
made = context()
made.load_cert_chain(open("cert", "rb").read(), open("key", "rb").read())
early = open_tls(made)
one, two = open_tls(made), open_tls(made)
result = {"early": error(tlsopt.forget_key, early)}
one.write(b"x")
one.read(1)
before = tlsopt.mem()[0]
tlsopt.forget_key(one)
result["freed"] = before - tlsopt.mem()[0]
tlsopt.forget_key(one)
one.write(b"y")
result["echo"] = one.read(1).decode()
two.write(b"z")
result["later"] = two.read(1).decode()
plain = open_tls(context())
plain.write(b"x")
tlsopt.forget_key(plain)
one.close()
result["closed"] = error(tlsopt.forget_key, one)
result["strange"] = [error(tlsopt.forget_key, thing) for thing in (None, 1, made)]
made.__del__()
gc.collect()
say(**result)
""",
            held=chain.roots,
            port=server.port,
        )
        certificates = [one["client"] is not None for one in server.seen]
    assert found["early"] == "ValueError()"
    assert found["freed"] > 2_000 and found["echo"] == "y"
    assert found["later"] == "z" and certificates == [True, False, False]
    assert found["closed"] == "OSError(9)" and set(found["strange"]) == {"TypeError()"}


def test_a_length_above_the_buffers_is_refused(tmp_path, not_checked) -> None:
    if not (interpreters.build_folder() / "bin" / "micropython-unix32-out2048").exists():
        not_checked("the build unix32-out2048 is missing: make setup")
    (found,) = run(
        tmp_path,
        "say(big=error(context, 4096), fits=error(context, 2048))",
        "unix32-out2048",
    )
    assert found == {"big": "ValueError()", "fits": "nothing"}


FINDER = """
asks = []
def finder(issuer):
    asks.append(len(issuer))
    return answer(issuer)
made = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
tlsopt.configure(made)
tlsopt.roots(made, finder)
before = tlsopt.failed_allocs()
tlsopt.mem(True)
held = tlsopt.mem()[0]
try:
    link = open_tls(made)
    link.write(b"x")
    outcome = "connected"
    during = tlsopt.mem()[0]
    link.close()
except (OSError, ValueError) as found:
    outcome = str(found.errno if isinstance(found, OSError) else found).strip()
say(outcome=outcome, asks=len(asks), moved=tlsopt.failed_allocs() - before,
    left=tlsopt.mem()[0] - held)
"""


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("lambda issuer: roots", "connected"),
        ("lambda issuer: tuple(roots)", "connected"),
        ("lambda issuer: [bytearray(roots[0])]", "connected"),
        ("lambda issuer: []", "The certificate is not correctly signed by the trusted CA"),
        ("lambda issuer: [roots[0][:-1]]", "-12288"),
        ("lambda issuer: [7]", "-12288"),
        ("lambda issuer: 7", "-12288"),
        ("lambda issuer: None", "-12288"),
        ("lambda issuer: {}['no']", "-12288"),
    ],
)
def test_roots_on_demand_fail_closed_and_leak_nothing(tmp_path, server, answer, outcome) -> None:
    (found,) = run(tmp_path, f"answer = {answer}\n" + FINDER, port=server.port)
    assert found["outcome"] == outcome
    assert found["asks"] >= 1 and found["moved"] == 0 and found["left"] == 0


def test_loading_roots_afterwards_switches_the_finder_off(tmp_path, server) -> None:
    """Why context.py never does both: the last setter wins, silently."""
    (found,) = run(
        tmp_path,
        """
asks = []
made = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
tlsopt.roots(made, lambda issuer: asks.append(1) or roots)
made.load_verify_locations(roots[0])
link = open_tls(made)
link.write(b"x")
say(asks=len(asks))
""",
        port=server.port,
    )
    assert found["asks"] == 0


@pytest.mark.parametrize("alg", ["PS256", "RS256"])
@pytest.mark.parametrize("size", ["rsa2048", "rsa3072"])
def test_native_verification_agrees_with_another_implementation(tmp_path, alg, size) -> None:
    private = key(size, 50)
    digest = hashlib.sha256(b"package").digest()
    scheme: Any = padding.PKCS1v15()
    if alg == "PS256":
        scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    good = private.sign(digest, scheme, Prehashed(hashes.SHA256()))
    other_salt = private.sign(
        digest,
        padding.PSS(padding.MGF1(hashes.SHA256()), 20),
        Prehashed(hashes.SHA256()),
    )
    numbers = private.public_key().public_numbers()
    n = numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")
    files = {
        "n": n,
        "good": good,
        "flipped": good[:-1] + bytes((good[-1] ^ 1,)),
        "short": good[:-1],
        "zero": bytes(len(good)),
        "modulus": n,
        "salt": other_salt,
    }
    for name, content in files.items():
        (tmp_path / f"{name}.bin").write_bytes(content)
    (found,) = run(
        tmp_path,
        """
import binascii
n = open("n.bin", "rb").read()
digest = binascii.unhexlify(asked["digest"])
def check(name, alg=asked["alg"], digest=digest, e=b"\\x01\\x00\\x01"):
    return tlsopt.verify(alg, n, e, digest, open(name + ".bin", "rb").read())
other = "RS256" if asked["alg"] == "PS256" else "PS256"
say(results={name: check(name) for name in asked["names"]}, other=check("good", other),
    digest=check("good", digest=bytes(32)),
    errors=[error(check, "good", "HS256"), error(check, "good", digest=b"x"),
        error(tlsopt.verify, "PS256", b"", b"", digest, n)], fails=tlsopt.failed_allocs())
""",
        held=[],
        alg=alg,
        digest=digest.hex(),
        names=list(files),
    )
    assert found["results"].pop("good") is True
    assert not any(found["results"].values())
    assert found["other"] is False and found["digest"] is False
    assert set(found["errors"]) == {"ValueError()"} and found["fails"] == 0


def test_many_connections_leave_nothing_behind(tmp_path, count) -> None:
    """Connections, failures and resumptions, closed explicitly: Mbed TLS ends where it began."""
    with Server(leaf(root()), tickets=True) as server:
        (found,) = run(
            tmp_path,
            """
def one(n):
    made = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    tlsopt.configure(made, mfl=(0, 512, 4096)[n % 3])
    tlsopt.roots(made, (lambda issuer: roots) if n % 4 else (lambda issuer: []))
    link = open_tls(made)
    try:
        link.write(b"x")
        tlsopt.session(link)
    except ValueError:
        pass
    link.close()
    made.__del__()
one(1)
gc.collect()
before = tlsopt.mem()[0]
for n in range(asked["count"]):
    one(n)
gc.collect()
say(left=tlsopt.mem()[0] - before)
""",
            port=server.port,
            count=count(24, 500),
        )
    assert found["left"] == 0
