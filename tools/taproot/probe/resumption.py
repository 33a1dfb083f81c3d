"""Complete, verified TLS 1.2 handshakes: resumption by ticket and by session id.

Responsible for: handshakes through OpenSSL over memory buffers, so that every record and its
direction is seen. Not for: the server's first flight (flight.py). A chain that no known root
carries is not shaken hands with: there is no unverified connection here either.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from taproot.probe.wire import Wire, connected


@dataclass
class Shake:
    """One complete handshake: outcome and every record, `>` to the server, `<` from it."""

    version: str = ""
    suite: str = ""
    resumed: bool = False
    session: ssl.SSLSession | None = None
    error: str = ""
    records: list[tuple[str, int, int]] = field(default_factory=list)

    def bytes(self, direction: str) -> int:
        """Bytes on the wire in one direction, record headers included."""
        return sum(size + 5 for way, _, size in self.records if way == direction)


def context(roots_pem: str, *, tickets: bool) -> ssl.SSLContext:
    """A verifying client context for TLS 1.2."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_2
    made.load_verify_locations(cadata=roots_pem)
    if not tickets:
        made.options |= ssl.OP_NO_TICKET
    return made


def shake(
    address: tuple[str, int],
    name: str,
    made: ssl.SSLContext,
    *,
    session: ssl.SSLSession | None = None,
    timeout: float = 10,
) -> Shake:
    """Shake hands once, verified, and close properly; a refusal is in `error`."""
    found = Shake()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = made.wrap_bio(incoming, outgoing, server_hostname=name, session=session)
    with connected(address, timeout) as wire:
        pipe = _Pipe(wire, incoming, outgoing, found)
        try:
            pipe.until(tls.do_handshake)
        except (ssl.SSLError, ConnectionError) as error:
            found.error = getattr(error, "reason", None) or str(error)
            return found
        suite = tls.cipher()
        found.version, found.suite = tls.version() or "", suite[0] if suite else ""
        found.resumed, found.session = bool(tls.session_reused), tls.session
        with contextlib.suppress(ConnectionError):
            pipe.closing(tls)
    return found


class _Pipe:
    def __init__(
        self, wire: Wire, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, found: Shake
    ) -> None:
        self.wire, self.incoming, self.outgoing, self.found = wire, incoming, outgoing, found
        self.partial = {">": bytearray(), "<": bytearray()}

    def note(self, direction: str, data: bytes) -> None:
        buffer = self.partial[direction]
        buffer += data
        while len(buffer) >= 5:
            size = int.from_bytes(buffer[3:5], "big")
            if len(buffer) < 5 + size:
                return
            self.found.records.append((direction, buffer[0], size))
            del buffer[: 5 + size]

    def flush(self) -> None:
        if self.outgoing.pending:
            data = self.outgoing.read()
            self.note(">", data)
            self.wire.send(data)

    def until(self, step: Callable[[], None]) -> None:
        while True:
            try:
                step()
                self.flush()
                return
            except ssl.SSLWantReadError:
                self.flush()
                data = self.wire.receive(65536)
                if not data:
                    raise ConnectionError("connection closed in the handshake") from None
                self.note("<", data)
                self.incoming.write(data)
            except ssl.SSLError:
                self.flush()
                raise

    def closing(self, tls: ssl.SSLObject) -> None:
        """Send close_notify: OpenSSL forgets a session that ended without."""
        try:
            tls.unwrap()
        except ssl.SSLError:
            pass  # the peer's own close_notify is not waited for
        self.flush()
