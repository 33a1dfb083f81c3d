"""TLS as the hub speaks it: profiles, chains and their switch, client certificates, records."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time

import pytest
from emulator.conftest import make_device
from support import wire
from support.wire import publish
from taproot.emulator import EmulatorConfig, anycert, badchains, running
from taproot.emulator.chains import PROFILES, SUITES, TLSOptions
from taproot.emulator.hello import Collector, NotTLS
from taproot.pki import Authority

_numbers = itertools.count(1)
requirement = pytest.mark.requirement


@pytest.fixture(scope="module")
def roots():
    """Two roots, each with an issuing CA; RSA and ECC."""
    old, new = Authority.root("old"), Authority.root("new")
    ecc = Authority.root("ecc", "p384")
    return {
        "old": old.intermediate("old CA"),
        "new": new.intermediate("new CA"),
        "ecc": ecc.intermediate("ecc CA", "p384"),
    }


def leaf(issuing, key="rsa2048", *names):
    """A server certificate for the local host."""
    return issuing.leaf("localhost", key, dns=["localhost", *names], ips=["127.0.0.1"])


def client(*issuing, **how):
    """A verifying client context."""
    context = ssl.create_default_context(cadata="".join(one.top.pem for one in issuing))
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    for name, value in how.items():
        if name == "suites":
            context.set_ciphers(value)
        elif name == "cert":
            load(context, value)
        else:
            setattr(context, name, value)
    return context


def load(context, chain):
    """Give a context a client certificate."""
    from taproot.emulator import chains

    chains.load(context, chain)


def handshake(port, context, name="localhost"):
    """Do a handshake; return (version, suite, DER of the leaf)."""
    with wire.Wire.tls(port, context, name) as link:
        return link.sock.version(), link.sock.cipher()[0], link.sock.getpeercert(True)


@pytest.fixture(scope="module")
def tls(roots):
    """An emulator with the old RSA chain."""
    with running(EmulatorConfig(chain=leaf(roots["old"]), https_port=None)) as emu:
        yield emu


@requirement("T1")
def test_classic_speaks_tls_1_2_and_the_eight_suites(tls, roots):
    """Each RSA suite works; another suite, TLS 1.1 and TLS 1.3 alone are refused."""
    for suite in SUITES.split(":"):
        if "ECDSA" in suite:
            continue
        assert handshake(tls.mqtt_port, client(roots["old"], suites=suite))[:2] == (
            "TLSv1.2",
            suite,
        )
    for how in (
        {"suites": "ECDHE-RSA-CHACHA20-POLY1305", "maximum_version": ssl.TLSVersion.TLSv1_2},
        {"suites": "ECDHE-RSA-AES128-SHA", "maximum_version": ssl.TLSVersion.TLSv1_2},
        {"minimum_version": ssl.TLSVersion.TLSv1_3},
    ):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(tls.mqtt_port, client(roots["old"], **how))
    reasons = [e["reason"] for e in tls.events() if e["type"] == "tls_failed"]
    assert "no shared cipher" in reasons


@requirement("T8")
def test_the_clients_order_decides(tls, roots):
    """The first suite of the client that the server knows."""
    suites = SUITES.split(":")[:4]
    for order in (suites, suites[::-1]):
        assert (
            handshake(tls.mqtt_port, client(roots["old"], suites=":".join(order)))[1] == order[0]
        )


@requirement("T1")
def test_the_device_profile(roots):
    """TLS 1.3 and 1.2; a server name is required; per host name beside a classic one."""
    options = TLSOptions(profiles={"h.device.test": "device", "h.dps.test": "dps"})
    chain = leaf(roots["old"], "rsa2048", "h.device.test", "h.dps.test")
    with running(EmulatorConfig(chain=chain, tls=options, https_port=None)) as emu:
        context = client(roots["old"])
        assert handshake(emu.mqtt_port, context, "h.device.test")[0] == "TLSv1.3"
        assert handshake(emu.mqtt_port, context)[0] == "TLSv1.2"
        ecdsa = client(roots["old"], suites="ECDHE-ECDSA-AES128-GCM-SHA256")
        ecdsa.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            handshake(emu.mqtt_port, ecdsa, "h.dps.test")
    with running(EmulatorConfig(chain=chain, tls=TLSOptions("device"), https_port=None)) as emu:
        context.check_hostname = False
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            handshake(emu.mqtt_port, context, None)


@requirement("T3")
def test_rsa_and_ecc_by_what_the_client_offers(tls, roots):
    """ECC only to a client that offers nothing RSA can do, in TLS 1.2 and 1.3."""
    rsa, ecc = leaf(roots["old"]), leaf(roots["ecc"], "p256")
    tls.switch_chain(rsa, ecc)
    both = client(roots["old"], roots["ecc"], suites=":".join(SUITES.split(":")[::-1]))
    assert handshake(tls.mqtt_port, both)[2] == rsa.der
    only = client(roots["ecc"], suites="ECDHE-ECDSA-AES128-GCM-SHA256")
    assert handshake(tls.mqtt_port, only)[1:] == ("ECDHE-ECDSA-AES128-GCM-SHA256", ecc.der)
    tls.switch_chain(ecc)
    assert handshake(tls.mqtt_port, both)[2] == ecc.der  # an ECC-only hub serves whoever can
    tls.switch_chain(rsa)
    with pytest.raises(ssl.SSLError):
        handshake(tls.mqtt_port, only)


@requirement("T3", "F8")
def test_chains_switch_both_ways_at_run_time(tls, roots):
    """RSA to ECC and back, and another root: what one swapped context could not do."""
    everyone = client(*roots.values())
    kinds = [
        ("old", "rsa2048"),
        ("ecc", "p256"),
        ("new", "rsa2048"),
        ("ecc", "p384"),
        ("old", "rsa2048"),
    ]
    for name, key in kinds:
        chain = leaf(roots[name], key)
        tls.switch_chain(chain)
        assert handshake(tls.mqtt_port, everyone)[2] == chain.der
    tls.switch_chain(leaf(roots["new"]))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tls.mqtt_port, client(roots["old"]))
    assert handshake(tls.mqtt_port, client(roots["new"]))
    tls.switch_chain(leaf(roots["old"]))


@requirement("T3")
def test_a_switch_drops_connections_when_told(tls, roots):
    """Open connections outlive a switch, or are dropped."""
    maker = make_device(tls, "switched")
    device = next(maker)
    link = device.connect(tls=client(roots["old"]))
    assert tls.switch_chain(leaf(roots["old"]), drop=False) == 0
    link.ping()
    assert tls.switch_chain(leaf(roots["old"]), drop=True) == 1
    assert link.closed() == []
    next(maker, None)


@requirement("T3")
def test_a_chain_for_one_name(tls, roots):
    """By server name; the others keep the default."""
    other = leaf(roots["new"], "rsa2048", "other.test")
    tls.switch_chain(other, name="Other.test", drop=False)
    everyone = client(*roots.values())
    assert handshake(tls.mqtt_port, everyone, "other.test")[2] == other.der
    assert handshake(tls.mqtt_port, everyone)[2] != other.der


@requirement("T4")
@pytest.mark.parametrize("kind", sorted(badchains.KINDS))
def test_bad_chains(tls, roots, kind):
    """Each wrong chain is refused by a careful client, for the reason it stands for."""
    expected = {
        "expired": "expired", "future": "not yet valid", "wrong-host": "mismatch|Hostname",
        "untrusted": "unable to get", "missing-intermediate": "unable to get",
        "impostor": "signature failure|unable to get|mismatch", "wrong-chain": "unable to get",
        "self-signed": "self-signed|self signed", "sha1": "too weak",
        "rsa1024": "too weak|too small", "client-only": "purpose|unsuitable",
    }[kind]  # fmt: skip
    context = client(roots["old"], suites=SUITES + ":@SECLEVEL=2")
    tls.bad_chain(kind)
    try:
        with pytest.raises(ssl.SSLError, match=f"(?i){expected}"):
            handshake(tls.mqtt_port, context)
    finally:
        tls.bad_chain("none")
    assert handshake(tls.mqtt_port, context)


# -- session tickets -------------------------------------------------------------------------


def resumes(emu, context, version):
    """Connect twice with the session of the first time; say whether it was resumed."""
    context.minimum_version = context.maximum_version = version
    maker = make_device(emu, f"t{next(_numbers)}")
    device = next(maker)
    link = device.connect(tls=context)
    link.ping()
    session = link.sock.session
    link.close()
    with wire.Wire.tls(emu.mqtt_port, context, session=session) as again:
        login = wire.credentials(emu.host, device.id, device.key)
        again.send(wire.connect(device.id, **login)).expect(wire.CONNACK)
        reused = again.sock.session_reused
    [*_, event] = [e for e in emu.events() if e["type"] == "connect"]
    assert event["resumed"] == reused
    next(maker, None)
    return reused, context, device, session


@requirement("T6")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "tickets,resumed,after_switch",
    [("off", False, False), ("kept", True, True), ("lost", True, False)],
)
def test_tickets(roots, version, tickets, resumed, after_switch):
    """Off by default; kept or lost over a switch: a kept one outlives the switch of the root."""
    options = TLSOptions(profile="device", tickets=tickets)
    with running(EmulatorConfig(chain=leaf(roots["old"]), tls=options, https_port=None)) as emu:
        reused, context, _, session = resumes(emu, client(roots["old"]), version)
        assert reused is resumed
        emu.switch_chain(leaf(roots["new"]))
        try:
            with wire.Wire.tls(emu.mqtt_port, context, session=session) as link:
                assert link.sock.session_reused is after_switch and after_switch
        except ssl.SSLCertVerificationError:
            assert not after_switch


@requirement("T6")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tickets_rotated(roots, version):
    """New ticket keys on demand: the full handshake again, the same chain."""
    options = TLSOptions(profile="device", tickets="kept")
    with running(EmulatorConfig(chain=leaf(roots["old"]), tls=options, https_port=None)) as emu:
        reused, context, _, session = resumes(emu, client(roots["old"]), version)
        assert reused
        emu.rotate_tickets()
        with wire.Wire.tls(emu.mqtt_port, context, session=session) as link:
            assert not link.sock.session_reused


# -- client certificates ---------------------------------------------------------------------


def x509_hub(roots, **settings):
    return running(
        EmulatorConfig(chain=leaf(roots["old"]), https_port=None, plain_port=0, **settings)
    )


def try_certificate(emu, roots, chain, identity, version=ssl.TLSVersion.TLSv1_2):
    """CONNECT with a client certificate and no password; return the CONNACK code."""
    context = client(roots["old"], maximum_version=version)
    if chain is not None:
        load(context, chain)
    with wire.Wire.tls(emu.mqtt_port, context) as link:
        link.send(wire.connect(identity, f"{emu.host}/{identity}/?api-version=2021-04-12"))
        return link.expect(wire.CONNACK)[1][1]


@requirement("T2", "H5")
@pytest.mark.parametrize("profile", ["classic", "device"])
def test_any_certificate_completes_the_handshake(roots, profile):
    """Unknown self-signed, none, CA-signed: the hub decides at CONNECT, by CONNACK."""
    assert anycert.usable()
    version = PROFILES[profile].maximum
    ca = Authority.root("device root", "p256")
    issuing = ca.intermediate("device CA", "p256")
    with x509_hub(roots, tls=TLSOptions(profile)) as emu:

        def code(chain, identity):
            return try_certificate(emu, roots, chain, identity, version)

        emu.call(emu.emulator.trust_client_root, ca.pem)
        good = issuing.leaf("cam", "p256", client=True)
        emu.add_device("cam", auth="x509_ca")
        assert code(good, "cam") == 0
        direct = ca.leaf("cam", "p256", client=True)
        assert code(direct, "cam") == 0  # a leaf right under the root sends only itself
        assert code(None, "cam") == 5
        assert code(Authority.root("cam", "p256").leaf("cam", "p256", client=True), "cam") == 5
        assert code(issuing.leaf("other", "p256", client=True), "cam") == 5
        bare = issuing.leaf("cam", "p256", client=True)
        bare.presented = []
        assert code(bare, "cam") == 5
        emu.call(emu.emulator.revoke, hashlib.sha256(good.der).hexdigest())
        assert code(good, "cam") == 5
        reasons = {e["reason"] for e in emu.events() if e["type"] == "connack" and e["code"]}
        assert any("common name" in r for r in reasons) and any("revoked" in r for r in reasons)


@requirement("H5")
def test_thumbprints_and_dates(roots):
    """SHA-1 and SHA-256, primary and secondary; dates count for thumbprints too."""
    import datetime as dt

    maker = Authority.root("self", "p256")
    good = maker.leaf("t", "p256", client=True)
    now = dt.datetime.now(dt.timezone.utc)
    old = maker.leaf(
        "t", "p256", client=True, not_before=now - dt.timedelta(9), not_after=now - dt.timedelta(1)
    )
    with x509_hub(roots) as emu:
        sha1, sha256 = (hashlib.new(h, good.der).hexdigest() for h in ("sha1", "sha256"))
        spaced = ":".join(re.findall("..", sha256.upper()))
        for number, prints in enumerate(([sha1], ["0" * 40, sha1], [spaced], ["0" * 64, sha256])):
            emu.add_device(f"t{number}", auth="x509_thumbprint", thumbprints=prints)
            assert try_certificate(emu, roots, good, f"t{number}") == 0
        emu.add_device("wrong", auth="x509_thumbprint", thumbprints=["0" * 40])
        assert try_certificate(emu, roots, good, "wrong") == 5
        emu.add_device(
            "old", auth="x509_thumbprint", thumbprints=[hashlib.sha256(old.der).hexdigest()]
        )
        assert try_certificate(emu, roots, old, "old") == 5
        emu.add_device("sas")
        assert try_certificate(emu, roots, good, "sas") == 5


@requirement("T6", "H5")
def test_a_resumed_handshake_keeps_the_chain_verdict(roots):
    """On resumption only the leaf is there: the intermediate seen before still counts."""
    ca = Authority.root("device root", "p256")
    with x509_hub(roots, tls=TLSOptions(tickets="kept")) as emu:
        emu.call(emu.emulator.trust_client_root, ca.pem)
        emu.add_device("cam", auth="x509_ca")
        context = client(roots["old"], maximum_version=ssl.TLSVersion.TLSv1_2)
        load(context, ca.intermediate("CA", "p256").leaf("cam", "p256", client=True))
        session = None
        for resumed in (False, True):
            with wire.Wire.tls(emu.mqtt_port, context, session=session) as link:
                assert link.sock.session_reused is resumed
                link.send(wire.connect("cam", f"{emu.host}/cam/?api-version=2021-04-12"))
                assert link.expect(wire.CONNACK)[1] == b"\0\0"
                session = link.sock.session


# -- records ---------------------------------------------------------------------------------


class Relay:
    """Copies bytes between a client and the emulator and measures the server's records."""

    def __init__(self, port):
        self.largest = {}
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._run, daemon=True)]
        self._threads[0].start()

    def _run(self):
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._port))
        up = threading.Thread(target=self._copy, args=(near, far, None), daemon=True)
        up.start()
        self._copy(far, near, bytearray())
        up.join(5)
        near.close(), far.close()

    def _copy(self, source, target, kept):
        try:
            while data := source.recv(65536):
                target.sendall(data)
                if kept is not None:
                    kept += data
                    while len(kept) >= 5 and len(kept) >= 5 + (kept[3] << 8 | kept[4]):
                        size = kept[3] << 8 | kept[4]
                        self.largest[kept[0]] = max(size, self.largest.get(kept[0], 0))
                        del kept[: 5 + size]
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        self._listener.close()
        self._threads[0].join(5)


def s_client(port, mfl, data, wanted=0):
    """Run openssl s_client with a max_fragment_length through a relay.

    Ends when `wanted` bytes x have come, or the handshake is done; returns (records, output).
    """
    relay = Relay(port)
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{relay.port}", "-tls1_2", "-quiet",
               "-servername", "localhost", *(["-maxfraglen", str(mfl)] if mfl else [])]  # fmt: skip
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, end = b"", time.monotonic() + 15
    try:
        process.stdin.write(data)
        process.stdin.flush()
        os.set_blocking(process.stdout.fileno(), False)
        while time.monotonic() < end:
            output += process.stdout.read() or b""
            if output.count(b"x") >= wanted and 20 in relay.largest:  # ChangeCipherSpec
                break
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate(timeout=10)
        relay.close()
    return relay.largest, output


def big_twin(emu, identity):
    """A device whose twin is 3,000 bytes long, and the packets that fetch it."""
    record = emu.add_device(identity)
    emu.patch_desired(identity, {"big": "x" * 3000})
    login = wire.credentials(emu.host, identity, record.primary_key)
    return (
        wire.connect(identity, **login)
        + wire.subscribe(1, ("$iothub/twin/res/#", 0))
        + publish("$iothub/twin/GET/?$rid=1", b" ")
    )


@requirement("T5")
@pytest.mark.parametrize("mfl", [None, 512, 1024, 4096])
def test_mfl_is_honoured(tls, mfl):
    """Records shrink to what was asked; the event says what was asked."""
    data = big_twin(tls, f"mfl{mfl}")
    largest, output = s_client(tls.mqtt_port, mfl, data, 3000)
    assert output.count(b"x") >= 3000
    limit = (mfl or 16_384) + 24
    assert largest[22] <= limit and largest[23] <= limit
    assert largest[23] > (500 if mfl == 512 else 1000)
    [event] = [
        e for e in tls.events() if e["type"] == "connect" and e.get("identity") == f"mfl{mfl}"
    ]
    assert event.get("mfl_asked") == mfl
    assert event["largest_record_out"] <= limit
    tls.drop(f"mfl{mfl}")
    end = tls.wait_for(lambda e: e["type"] == "disconnect" and e.get("identity") == f"mfl{mfl}")
    assert end["largest_record_out"] == max(largest.values())
    assert 100 < end["largest_record_in"] <= limit


@requirement("T5")
def test_mfl_is_violated_on_demand(roots):
    """The whole flight of the server in one handshake record, though 512 was agreed."""
    options = TLSOptions(violate_mfl=True)
    with running(EmulatorConfig(chain=leaf(roots["old"]), tls=options, https_port=None)) as emu:
        largest, _ = s_client(emu.mqtt_port, 512, b"")
        assert largest[22] > 1200
        assert handshake(emu.mqtt_port, client(roots["old"]))[0] == "TLSv1.2"  # without MFL: fine


@requirement("T5")
def test_record_sizes_can_be_chosen(roots):
    """Small records without any extension."""
    options = TLSOptions(record_size=512)
    with running(EmulatorConfig(chain=leaf(roots["old"]), tls=options, https_port=None)) as emu:
        largest, output = s_client(emu.mqtt_port, None, big_twin(emu, "small"), 3000)
        assert output.count(b"x") >= 3000 and largest[22] <= 512 and largest[23] <= 536


@requirement("T1")
@pytest.mark.parametrize(
    "profile,version", [("tls10", "TLSv1"), ("tls11", "TLSv1.1"), ("legacy", "TLSv1.2")]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_legacy_modes(roots, profile, version):
    """For negative tests: an old server meets a client that still agrees, and none other."""
    with running(
        EmulatorConfig(chain=leaf(roots["old"]), tls=TLSOptions(profile), https_port=None)
    ) as emu:
        old = client(roots["old"], suites="ALL:@SECLEVEL=0", minimum_version=ssl.TLSVersion.TLSv1)
        assert handshake(emu.mqtt_port, old)[0] == version
        if profile != "legacy":
            with pytest.raises(ssl.SSLError):
                handshake(
                    emu.mqtt_port, client(roots["old"], minimum_version=ssl.TLSVersion.TLSv1_2)
                )


# -- what is not TLS, and slow ----------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x10\x0c\0\4MQTT\4\2\0\x3c\0\0", b"\x16\x03\x01\0\0", b"\x16\x03\x01\0\4\2\0\0\0",
     b"\x16\x03\x01\x00\x09\x01\0\0\5\3\3abc", b"\x15\x03\x01\0\2\2\0"],
)  # fmt: skip
def test_what_is_not_a_clienthello_is_closed(tls, data):
    """No answer, an event, and the emulator lives."""
    start = tls.emulator.recorder.seq
    with wire.Wire.plain(tls.mqtt_port) as link:
        link.send(data)
        assert link.closed() == []
    assert [e["type"] for e in tls.events(start)] == ["tls_failed"]


def test_a_clienthello_in_single_bytes(tls, roots):
    """Collected until it is whole; the client waits no longer than the bytes do."""
    i, o = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = client(roots["old"]).wrap_bio(i, o, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        side.do_handshake()
    hello = o.read()
    with socket.create_connection(("127.0.0.1", tls.mqtt_port)) as sock:
        sock.settimeout(5)
        for byte in hello:
            sock.send(bytes([byte]))
        assert sock.recv(5)[0] == 22


def test_the_collector_joins_records():
    """A ClientHello may be spread over several records."""
    i, o = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = ssl.create_default_context().wrap_bio(i, o, server_hostname="name.test")
    with pytest.raises(ssl.SSLWantReadError):
        side.do_handshake()
    body = o.read()[5:]
    pieces = b"".join(
        b"\x16\x03\x01" + len(body[a : a + 50]).to_bytes(2, "big") + body[a : a + 50]
        for a in range(0, len(body), 50)
    )
    found = Collector().feed(pieces)
    assert found.server_name == "name.test" and found.has_rsa()
    with pytest.raises(NotTLS):
        Collector().feed(b"\x16\x03\x01\xff\xff" + b"\x01\xff\xff\xff" + b"\0" * 65535)


@requirement("T5")
def test_a_hub_that_ignores_mfl(roots):
    """512 was asked: records come as large as before, and the whole of MQTT works through it."""
    from taproot.emulator.ignoring import ignoring_front

    chain = leaf(roots["old"])
    with running(EmulatorConfig(chain=chain, https_port=None, plain_port=0)) as emu:
        data = big_twin(emu, "ignored")
        with ignoring_front(chain, emu.plain_port) as port:
            largest, output = s_client(port, 512, data, 3000)
            assert output.count(b"x") >= 3000
            assert largest[22] > 1200 and largest[23] > 3000
            with wire.Wire.tls(port, client(roots["old"])) as link:
                link.send(data)
                link.expect(wire.CONNACK), link.expect(wire.SUBACK)
                assert len(link.delivery()[1]) > 3000


# -- resource templates ----------------------------------------------------------------------


@requirement("H25")
def test_a_template_is_enforced(tmp_path):
    """minTlsVersion 1.2: only recommended suites; without it the legacy list; read-only."""
    from pathlib import Path

    from taproot.console import UsageFailed

    template = Path(__file__).resolve().parents[2] / "tools/azure/hub.json"
    state = str(tmp_path / "state")
    weak = {"suites": "AES128-SHA:@SECLEVEL=0", "maximum_version": ssl.TLSVersion.TLSv1_2}

    def trusting(emu, **how):
        context = ssl.create_default_context(cadata=emu.root_pem)
        for name, value in how.items():
            context.set_ciphers(value) if name == "suites" else setattr(context, name, value)
        return context

    with running(EmulatorConfig(templates=[str(template)], state_dir=state)) as emu:
        assert any(name.endswith(".azure-devices.net") for name in emu.emulator.hub.hosts)
        for port in (emu.mqtt_port, emu.https_port):
            assert handshake(port, trusting(emu))[0] == "TLSv1.2"
            with pytest.raises(ssl.SSLError):
                handshake(port, trusting(emu, **weak))
        reasons = [e["reason"] for e in emu.events() if e["type"] == "tls_failed"]
        assert reasons and all("recommended cipher suite" in reason for reason in reasons)
    body = json.loads(template.read_text())
    for resource in body["resources"]:
        resource["properties"].pop("minTlsVersion", None)
    other = tmp_path / "open.json"
    other.write_text(json.dumps(body))
    with pytest.raises(UsageFailed, match="read-only"):
        with running(EmulatorConfig(templates=[str(other)], state_dir=state)):
            pass
    with running(EmulatorConfig(templates=[str(other)])) as emu:
        assert handshake(emu.mqtt_port, trusting(emu, **weak))[1] == "AES128-SHA"


@requirement("T9")
def test_a_second_listener_with_its_own_chain(tls, roots):
    """A port that already shows the new root, in front of the same hub."""
    port = tls.add_listener(leaf(roots["new"]))
    maker = make_device(tls, "early")
    device = next(maker)
    with pytest.raises(ssl.SSLCertVerificationError):
        wire.Wire.tls(port, client(roots["old"]))
    with wire.Wire.tls(port, client(roots["new"])) as link:
        login = wire.credentials(tls.host, "early", device.key)
        link.send(wire.connect("early", **login)).expect(wire.CONNACK)
        link.send(publish(device.events, b"x", 1, 1)).expect(wire.PUBACK)
    assert [m.body for m in tls.messages("early")] == [b"x"]
    tls.remove_listener(port)
    with pytest.raises(OSError):
        wire.Wire.tls(port, client(roots["new"]))
    next(maker, None)


def test_a_python_without_the_callback_says_so(roots, monkeypatch):
    """Any-cert mode rests on CPython's layout: without it tokens work, and a warning is recorded."""
    monkeypatch.setattr(anycert, "usable", lambda: False)
    with x509_hub(roots) as emu:
        assert [e["type"] for e in emu.events() if "certificates" in e.get("text", "")] == [
            "warning"
        ]
        maker = make_device(emu, "d")
        next(maker).connect(tls=client(roots["old"])).ping()
        stranger = Authority.root("x", "p256").leaf("d", "p256", client=True)
        with pytest.raises((OSError, ssl.SSLError, wire.Closed)):
            try_certificate(emu, roots, stranger, "d")
        next(maker, None)


@requirement("T5")
@pytest.mark.parametrize("step", [1, 4, 7, 5000])
def test_the_clients_records_are_measured_however_tcp_cuts_them(step):
    """The recorder of record lengths, on a stream in pieces."""
    from taproot.emulator.tls import TlsTransport

    class Owner:
        name, options = "x", TLSOptions()

    transport = TlsTransport(Owner())
    stream = b"".join(bytes((23, 3, 3)) + n.to_bytes(2, "big") + bytes(n) for n in (5, 0, 900, 17))
    for at in range(0, len(stream), step):
        transport._measure_in(stream[at : at + step])
    assert transport.facts["largest_record_in"] == 900
