"""DPS as a service of the connection engine: CONNECT to handler, publishes to replies.

Responsible for: joining `dps.Provisioning` (pure) to `connection.Connection`. Not for: any rule
of DPS; those are in `dps.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from taproot.emulator import codec
from taproot.emulator.connection import Connection, Link, Refusal, Reject
from taproot.emulator.dps import Provisioning, Reply, Session, Violation
from taproot.emulator.strict import PublishFrame

SUBACK_FAILURE = 0x80


class DPSService:
    """The `dps` entry of the engine's list of services."""

    name = "dps"

    def __init__(self, provisioning: Provisioning) -> None:
        self.provisioning = provisioning

    def handles(self, username: str) -> bool:
        """Say whether the user name is one of DPS."""
        return self.provisioning.handles(username)

    def accept(self, connect: codec.Connect, chain: Sequence[bytes], link: Link) -> Any:
        """Judge a CONNECT; return a handler or a Refusal."""
        password = connect.password
        if isinstance(password, (bytes, bytearray)):
            try:
                password = bytes(password).decode()
            except UnicodeDecodeError:
                return Refusal(5, "the password is not UTF-8", connect.client_id)
        code, session, reason = self.provisioning.connect(
            connect.client_id, connect.username or "", password, chain
        )
        if session is None:
            return Refusal(code, reason, connect.client_id)
        return DPSHandler(session)


class DPSHandler:
    """One provisioning connection; never persistent, so nothing is ever present."""

    session_present = False

    def __init__(self, session: Session) -> None:
        self.session = session
        self.identity = session.registration_id
        self.expiry: float | None = session.expiry
        self._qos = 0
        self._connection: Connection | None = None

    def opened(self, connection: Connection) -> None:
        """Keep the connection that carries the replies."""
        self._connection = connection

    def subscribe(self, topic_filter: str, qos: int) -> int:
        """Grant the one documented filter, at QoS 1 at most."""
        if not self.session.subscribe(topic_filter):
            return SUBACK_FAILURE
        self._qos = min(qos, 1)
        return self._qos

    def ready(self) -> None:
        """Nothing waits for a subscription."""

    def unsubscribe(self, topic_filter: str) -> None:
        """Stop replies."""
        self.session.unsubscribe(topic_filter)

    def publish(self, frame: PublishFrame) -> float | None:
        """Answer a request; the reply follows the PUBACK."""
        if frame.qos > 1:
            raise Reject("PUBLISH with QoS 2")
        try:
            replies = self.session.publish(frame.topic, frame.payload)
        except Violation as violation:
            raise Reject(str(violation)) from None
        if replies:
            asyncio.get_running_loop().call_soon(self._deliver, replies)
        return None

    def _deliver(self, replies: list[Reply]) -> None:
        if self._connection is None or self._connection.closed:
            return
        for reply in replies:
            self._connection.deliver(reply.topic, reply.payload, self._qos)

    def closed(self, reason: str, clean: bool) -> None:
        """Forget the connection."""
        self._connection = None
