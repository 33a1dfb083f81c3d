"""MQTT over a byte transport: joins asyncio's transports to `connection.Connection`.

Responsible for: the protocol object of the MQTT ports and the `Link` over an asyncio transport.
Not for: TLS (`tls.py`), WebSocket (`https.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any

from taproot.emulator.connection import Connection, Engine


class TransportLink:
    """A `Link` over an asyncio transport, TLS or plain."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        facts = transport.get_extra_info("tls_facts")
        if facts is None:
            peer = transport.get_extra_info("peername") or ("?", 0)
            facts = {"listener": "plain", "peer": f"{peer[0]}:{peer[1]}"}
        self.facts: dict[str, Any] = facts
        self.write: Callable[[bytes], None] = transport.write
        self.close: Callable[[], None] = transport.close
        self.pause: Callable[[], None] = transport.pause_reading
        self.resume: Callable[[], None] = transport.resume_reading
        self.backlog: Callable[[], int] = transport.get_write_buffer_size

    def abort(self) -> None:
        """Close with a TCP reset."""
        reset = getattr(self._transport, "reset", None)
        if reset is not None:
            reset()
            return
        sock = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def chain(self) -> list[bytes]:
        """Return what the client presented, leaf first, in DER."""
        return self._transport.get_extra_info("tls_chain") or []


class MqttProtocol(asyncio.Protocol):
    """One client on an MQTT port."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        self._link: TransportLink | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The carrier is there."""
        assert isinstance(transport, asyncio.Transport)
        self._link = TransportLink(transport)
        self._connection = Connection(self._engine, self._link)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._connection is not None:
            self._connection.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The carrier is gone."""
        connection, self._connection = self._connection, None
        if connection is None or self._link is None:
            return
        ended = self._link.facts.get("ended")
        if exc is not None:
            reason = f"lost: {exc}"
        elif ended in (None, "close_notify"):
            reason = "closed by the client"
        else:
            reason = f"TLS ended: {ended}"
        connection.lost(reason)
