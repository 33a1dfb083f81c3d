"""Listeners that speak TLS, and the carrier of bytes that MQTT and HTTP both run on.

Responsible for: one TCP port with its chains, reading the ClientHello before OpenSSL does,
refusals by name and by policy, faults during the handshake, facts for the event list, record
sizes, and `TlsTransport`, an asyncio transport over one connection. Not for: what runs on it,
chains and contexts (`chains.py`).

Open connections outlive a switch of chains: drop them explicitly.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from taproot.emulator import hello
from taproot.emulator.chains import PROFILES, Chains, Contexts, Profile, TLSOptions
from taproot.emulator.events import Recorder
from taproot.emulator.faults import Faults
from taproot.emulator.hello import ClientHello, NotTLS

__all__ = ["PROFILES", "Chains", "Listener", "Policy", "Profile", "TLSOptions", "TlsTransport"]

HANDSHAKE_WITHIN = 30.0
LINGER = 5.0
_ALERT_UNRECOGNIZED_NAME, _ALERT_INSUFFICIENT, _ALERT_HANDSHAKE = 112, 71, 40
_READ = 65_536


class Policy(Protocol):
    """What an ARM template demands of a ClientHello (`templates.TLSPolicy`)."""

    def refusal(self, versions: Any, suites: Any) -> str | None: ...


class Listener:
    """One TCP port that speaks TLS. `factory` makes the protocol of each connection."""

    def __init__(
        self,
        name: str,
        factory: Callable[[], asyncio.Protocol],
        chains: Chains,
        options: TLSOptions,
        recorder: Recorder,
        faults: Faults,
        policy: Policy | None = None,
    ) -> None:
        self.name, self.factory = name, factory
        self.chains, self.options = chains, options
        self.recorder, self.faults, self.policy = recorder, faults, policy
        self.contexts = Contexts(options)
        self.transports: set[TlsTransport] = set()
        self.dark_until = 0.0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._seen_chains: OrderedDict[str, list[bytes]] = OrderedDict()

    async def start(self, host: str, port: int = 0) -> None:
        """Listen; port 0 takes a free one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: TlsTransport(self), host, port, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and abort what is connected."""
        if self._server is not None:
            self._server.close()
        for transport in list(self.transports):
            transport.abort()

    def blackout(self, seconds: float) -> None:
        """Answer nobody for a while; reset what is connected."""
        self.dark_until = asyncio.get_running_loop().time() + seconds
        for transport in list(self.transports):
            transport.reset()

    def profile_for(self, client: ClientHello) -> Profile:
        """Return the profile of the name the client asks for."""
        name = (client.server_name or "").lower()
        return PROFILES[self.options.profiles.get(name, self.options.profile)]

    def remember_chain(self, chain: list[bytes]) -> None:
        """Keep a presented chain: on a resumed handshake only the leaf is there."""
        self._seen_chains[hashlib.sha256(chain[0]).hexdigest()] = chain
        while len(self._seen_chains) > 4096:
            self._seen_chains.popitem(last=False)

    def chain_of(self, leaf: bytes) -> list[bytes]:
        """Return the chain once presented with a leaf, else the leaf alone."""
        return self._seen_chains.get(hashlib.sha256(leaf).hexdigest(), [leaf])


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """One connection: TCP below, an asyncio protocol (MQTT or HTTP) above."""

    def __init__(self, listener: Listener) -> None:
        asyncio.Transport.__init__(self)
        self.listener = listener
        self.facts: dict[str, Any] = {"listener": listener.name}
        self._collector: hello.Collector | None = hello.Collector()
        self._tls: ssl.SSLObject | None = None
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._raw: asyncio.Transport | None = None
        self._protocol: asyncio.Protocol | None = None
        self._open = False  # handshake done, protocol told
        self._closing = False
        self._mute = False
        self._cut_after: int | None = None
        self._joined_until_ccs = listener.options.violate_mfl
        self._chain: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self.bytes_out = self.largest_out = self.largest_in = 0
        self._header, self._left = b"", 0  # of the record that is arriving
        self._end_reason = ""

    # -- from TCP ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        assert isinstance(transport, asyncio.Transport)
        self._raw = transport
        loop = asyncio.get_running_loop()
        if loop.time() < self.listener.dark_until:
            self.reset()
            return
        self.listener.transports.add(self)
        peer = transport.get_extra_info("peername") or ("?", 0)
        self.facts["peer"] = f"{peer[0]}:{peer[1]}"
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._timer = loop.call_later(HANDSHAKE_WITHIN, self._too_late)
        faults = self.listener.faults
        if faults.active:
            self._handshake_fault(faults.take(None, "tls", None))

    def _handshake_fault(self, fault: Any) -> None:
        if fault is None:
            return
        self.listener.recorder.emit("fault", fault=fault.text, **self.facts)
        if fault.action == "mute":
            self._mute = True
        elif fault.action == "cut":
            self._cut_after = fault.bytes
        elif fault.action == "plain":
            self._mute = True
            assert self._raw is not None
            self._raw.write(fault.data)

    def data_received(self, data: bytes) -> None:
        """Take ciphertext."""
        if self._mute or self._closing:
            return
        self._measure_in(data)
        if self._collector is not None:
            self._collect(data)
            return
        self._in.write(data)
        if self._open:
            self._pump()
        else:
            self._handshake()

    def eof_received(self) -> bool:
        """The client has ended its side."""
        self._in.write_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """TCP is gone."""
        self._cancel_timer()
        self.listener.transports.discard(self)
        protocol, self._protocol = self._protocol, None
        self._closing = True
        if self._open and protocol is not None:
            self._open = False
            protocol.connection_lost(exc)
        elif not self._end_reason and self._raw is not None and "peer" in self.facts:
            self._fail("the client left before the handshake was done")

    def pause_writing(self) -> None:
        """TCP cannot take more."""
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """TCP takes more again."""
        if self._protocol is not None:
            self._protocol.resume_writing()

    # -- handshake --------------------------------------------------------------------------

    def _collect(self, data: bytes) -> None:
        assert self._collector is not None
        try:
            client = self._collector.feed(data)
        except NotTLS as error:
            self._fail(str(error))
            self.abort()
            return
        if client is None:
            return
        self._note(client)
        profile = self.listener.profile_for(client)
        tls13 = profile.maximum is ssl.TLSVersion.TLSv1_3
        chain = self.listener.chains.choose(client, tls13)
        refused = self._refusal(client, profile)
        if refused is not None:
            self._refuse(*refused)
            return
        if chain is None:
            self._refuse(_ALERT_HANDSHAKE, "no certificate chain fits what the client offers")
            return
        self._in.write(bytes(self._collector.seen))
        self._collector = None
        try:
            self._tls = self.listener.contexts.wrap(
                chain, profile, self.listener.chains.generation, self._in, self._out
            )
        except (ssl.SSLError, OSError) as error:
            self._fail(f"the chain cannot be used: {error}")
            self.abort()
            return
        self._handshake()

    def _note(self, client: ClientHello) -> None:
        self.facts.update(
            sni=client.server_name,
            mfl_asked=client.mfl,
            suites_offered=[f"{suite:04X}" for suite in client.suites],
            versions_offered=[hello.NAMES.get(v, f"{v:04X}") for v in client.versions],
            session_offered=client.offers_session,
        )

    def _refusal(self, client: ClientHello, profile: Profile) -> tuple[int, str] | None:
        name = (client.server_name or "").lower()
        if profile.sni_required and not name:
            return _ALERT_UNRECOGNIZED_NAME, "the profile demands a server name"
        if name in self.listener.options.refuse_sni:
            return _ALERT_UNRECOGNIZED_NAME, f"the name '{name}' is refused"
        if self.listener.policy is not None:
            reason = self.listener.policy.refusal(client.versions, client.suites)
            if reason is not None:
                return _ALERT_INSUFFICIENT, reason
        return None

    def _refuse(self, alert: int, reason: str) -> None:
        assert self._raw is not None
        self._fail(reason)
        self._raw.write(bytes((21, 3, 3, 0, 2, 2, alert)))
        self._closing = True
        self._raw.close()

    def _handshake(self) -> None:
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except (ssl.SSLError, OSError) as error:
            self._flush()
            self._fail(_sentence(error))
            self._closing = True
            if self._raw is not None:
                self._raw.close()
            return
        self._flush()
        if self._closing:
            return
        self._joined_until_ccs = False
        self._cut_after = None
        self._cancel_timer()
        self._describe()
        self._open = True
        self._protocol = self.listener.factory()
        self._protocol.connection_made(self)
        if self._open:
            self._pump()

    def _describe(self) -> None:
        assert self._tls is not None
        suite = self._tls.cipher()
        leaf = self._tls.getpeercert(True)
        resumed = bool(self._tls.session_reused)
        if leaf is not None:
            presented = None
            if not resumed:
                presented = self._tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
            if presented:
                self._chain = [cert.public_bytes(2) for cert in presented]
                self.listener.remember_chain(self._chain)
            else:
                self._chain = self.listener.chain_of(leaf)
        self.facts.update(
            tls=self._tls.version(),
            suite=suite[0] if suite else None,
            resumed=resumed,
            client_certificate=hashlib.sha256(leaf).hexdigest() if leaf else None,
        )
        self.listener.recorder.emit("tls", **self.facts)

    def _too_late(self) -> None:
        self._fail("no handshake in time")
        self.abort()

    def _fail(self, reason: str) -> None:
        if not self._end_reason:
            self._end_reason = reason
            self.listener.recorder.emit("tls_failed", reason=reason, **self.facts)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- data -------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Hand plaintext up; the client's close_notify ends the connection."""
        assert self._tls is not None
        chunks = []
        ended: str | None = None
        try:
            while True:
                chunk = self._tls.read(_READ)
                if not chunk:
                    ended = "close_notify"
                    break
                chunks.append(chunk)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = "close_notify"
        except (ssl.SSLError, OSError) as error:
            ended = _sentence(error)
        self._flush()
        if chunks and self._protocol is not None:
            self._protocol.data_received(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        if ended is not None and not self._closing:
            self.facts["ended"] = ended
            self.close()

    def _flush(self) -> None:
        """Send what OpenSSL has made."""
        if not self._out.pending or self._raw is None:
            return
        data = self._out.read()
        if self._joined_until_ccs:
            data = self._join_records(data)
        self._measure(data)
        if self._cut_after is not None:
            left = self._cut_after - self.bytes_out
            if len(data) >= left:
                self._raw.write(data[: max(left, 0)])
                self._fail(f"fault: cut after {self._cut_after} bytes")
                self._closing = True
                self._raw.close()
                return
        self.bytes_out += len(data)
        self._raw.write(data)

    def _measure(self, data: bytes) -> None:
        at = 0
        while at + 5 <= len(data):
            length = data[at + 3] << 8 | data[at + 4]
            if length > self.largest_out:
                self.largest_out = length
                self.facts["largest_record_out"] = length
            at += 5 + length

    def _measure_in(self, data: bytes) -> None:
        """Note the largest record of the client, however TCP has cut it."""
        at, size = 0, len(data)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
                continue
            missing = 5 - len(self._header)
            self._header += data[at : at + missing]
            at += missing
            if len(self._header) == 5:
                self._left = self._header[3] << 8 | self._header[4]
                self._header = b""
                if self._left > self.largest_in:
                    self.largest_in = self._left
                    self.facts["largest_record_in"] = self._left

    def _join_records(self, data: bytes) -> bytes:
        """Join plaintext handshake records into large ones: what a violating server sends."""
        joined, body, at = bytearray(), bytearray(), 0
        while at + 5 <= len(data):
            kind, length = data[at], data[at + 3] << 8 | data[at + 4]
            record = data[at + 5 : at + 5 + length]
            at += 5 + length
            if kind == hello.HANDSHAKE and self._joined_until_ccs:
                body += record
                continue
            self._joined_until_ccs = False  # ChangeCipherSpec: all is encrypted from here on
            joined += _records(body) + data[at - 5 - length : at]
            body.clear()
        return bytes(joined + _records(body))

    # -- asyncio.Transport ------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What HTTP and MQTT ask their transport for."""
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return self._tls.context if self._tls is not None else default
        if name == "tls_facts":
            return self.facts
        if name == "tls_chain":
            return self._chain
        return self._raw.get_extra_info(name, default) if self._raw is not None else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Change what runs on top."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return what runs on top."""
        return self._protocol  # type: ignore[return-value]

    def write(self, data: Any) -> None:
        """Encrypt and send."""
        if self._closing or self._tls is None or not data:
            return
        try:
            self._tls.write(data)
        except (ssl.SSLError, OSError) as error:
            self.facts["ended"] = _sentence(error)
            self.abort()
            return
        self._flush()

    def writelines(self, list_of_data: Any) -> None:
        """Encrypt and send several pieces."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """TLS has no half close here."""
        return False

    def is_closing(self) -> bool:
        """True once closing has begun."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Bytes that TCP has not taken yet."""
        return self._raw.get_write_buffer_size() if self._raw is not None else 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The limits of the TCP transport."""
        return self._raw.get_write_buffer_limits() if self._raw is not None else (0, 0)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the limits of the TCP transport."""
        if self._raw is not None:
            self._raw.set_write_buffer_limits(high, low)

    def pause_reading(self) -> None:
        """Stop reading from TCP."""
        if self._raw is not None and not self._closing:
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Read from TCP again."""
        if self._raw is not None and not self._closing:
            self._raw.resume_reading()

    def is_reading(self) -> bool:
        """True while reading."""
        return self._raw is not None and self._raw.is_reading()

    def close(self) -> None:
        """Send close_notify, then close; a peer that takes nothing is cut off after a while."""
        if self._closing or self._raw is None:
            return
        if self._tls is not None and self._open:
            with contextlib.suppress(ssl.SSLError, OSError):
                self._tls.unwrap()
            self._flush()
        self._closing = True
        self._raw.close()
        if self._raw.get_write_buffer_size():
            self._timer = asyncio.get_running_loop().call_later(LINGER, self._raw.abort)

    def abort(self) -> None:
        """Close at once, without close_notify."""
        self._closing = True
        if self._raw is not None:
            self._raw.abort()

    def reset(self) -> None:
        """Close with a TCP reset."""
        if self._raw is not None:
            sock = self._raw.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()


def _records(body: bytes | bytearray) -> bytes:
    """Cut handshake bytes into records as large as TLS allows."""
    out = bytearray()
    for at in range(0, len(body), 16_384):
        piece = body[at : at + 16_384]
        out += struct.pack("!BHH", hello.HANDSHAKE, 0x0303, len(piece)) + piece
    return bytes(out)


def _sentence(error: Exception) -> str:
    """Say in words what OpenSSL reports, without file names and line numbers."""
    reason = getattr(error, "reason", None)
    return (
        str(reason).lower().replace("_", " ") if reason else (str(error) or type(error).__name__)
    )
