"""Renewal of a device's certificate over MQTT (preview, hub api 2025-08-01-preview).

Responsible for: judging a request, one active request per device, the 202 and the result, the
documented errors, every body shape that the sources show. Not for: topics' subscriptions
(`hub.py`), signing (`issuance.py`). Sources disagree on topic root, body and order of the chain,
so each is a switch and a client has to take all of them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from taproot.emulator.issuance import BadRequest, Issuer
from taproot.emulator.twin import stamp

if TYPE_CHECKING:
    from taproot.emulator.session import Session

# 4 to 36 ASCII letters, digits or dashes, no dash at either end.
_RID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{2,34}[A-Za-z0-9]")
SHAPES = ("array", "certificates", "pem")
ORDERS = ("leaf_first", "root_first")
ROOTS = ("", "credentials", "credential")
TAILS = ("rid", "version")


@dataclass
class Pending:
    """One request between its 202 and its result."""

    device: str
    rid: str
    correlation: str
    expires: float
    csr: object
    timer: asyncio.TimerHandle | None = None


@dataclass
class Renewal:
    """Answers certificate requests; `hub.renewal` is an instance of this."""

    issuer: Issuer
    now: Callable[[], float]
    log: Callable[..., None]
    shape: str = "certificates"
    order: str = "leaf_first"
    topic_root: str = ""  # "": the one the device has subscribed to
    topic_tail: str = "rid"  # "version" appends &$version=1, as one public sample shows
    accept_after: float = 0.0  # seconds until the 202
    result_after: float = 0.0  # seconds from the 202 to the result
    lifetime: float = 12 * 3600.0  # until operationExpires
    failures: list[dict[str, Any]] = field(default_factory=list)  # errors on demand, used up
    active: dict[str, Pending] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("shape", self.shape, SHAPES),
            ("order", self.order, ORDERS),
            ("topic_root", self.topic_root, ROOTS),
            ("topic_tail", self.topic_tail, TAILS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}")

    def __call__(self, session: Session, rid: str, payload: bytes) -> None:
        """Take a request; the replies follow its PUBACK."""
        asyncio.get_running_loop().call_soon(self._take, session, rid, payload)

    def _take(self, session: Session, rid: str, payload: bytes) -> None:
        device = session.identity
        body = _object(payload)
        self.log("renewal", identity=device, rid=rid, replace=(body or {}).get("replace"))
        if self.failures:
            self._error(session, rid, **self.failures.pop(0))
            return
        if not _RID.fullmatch(rid):
            self._error(session, rid, 400, 400003, "The request id is malformed")
            return
        if body is None or body.get("id") != device:
            self._error(session, rid, 400, 400004, "The body is not that of this device")
            return
        if not self._replace(session, rid, body.get("replace")):
            return
        pending = Pending(
            device, rid, str(uuid.uuid4()), self.now() + self.lifetime, body.get("csr")
        )
        self.active[device] = pending
        self._later(self.accept_after, pending, lambda: self._accept(session, pending))

    def _replace(self, session: Session, rid: str, replace: object) -> bool:
        """Deal with an active request; False when the new one is refused."""
        device = session.identity
        old = self.active.get(device)
        if old is not None and old.expires <= self.now():
            self._forget(old)
            old = None
        if old is None:
            if replace not in (None, "*"):
                self._error(session, rid, 412, 412001, "There is no such request to replace")
                return False
            return True
        if replace is None:
            info = {
                "requestId": old.rid,
                "correlationId": old.correlation,
                "operationExpires": _millis(old.expires),
            }
            text = "A Certificate signing request operation is already active"
            self._error(session, rid, 409, 409005, text, info=info)
            return False
        if replace not in ("*", old.rid):
            self._error(session, rid, 412, 412001, "The active request is another one")
            return False
        self._forget(old)
        return True

    def _forget(self, pending: Pending) -> None:
        if pending.timer is not None:
            pending.timer.cancel()
        self.active.pop(pending.device, None)

    @staticmethod
    def _later(seconds: float, pending: Pending, what: Callable[[], None]) -> None:
        pending.timer = asyncio.get_running_loop().call_later(seconds, what)

    def _accept(self, session: Session, pending: Pending) -> None:
        body = {
            "correlationId": pending.correlation,
            "operationExpires": _millis(pending.expires),
        }
        self._later(self.result_after, pending, lambda: self._finish(session, pending))
        self._send(session, 202, pending.rid, body)

    def _finish(self, session: Session, pending: Pending) -> None:
        """Send the result to whatever connection the device has now."""
        live = session.record.session
        if live is None:
            if self.now() < pending.expires:
                self._later(1.0, pending, lambda: self._finish(session, pending))
            else:
                self._forget(pending)
            return
        self.active.pop(pending.device, None)
        try:
            chain = self.issuer.issue(pending.csr, pending.device, self.now())
        except BadRequest as bad:
            info = {
                "correlationId": pending.correlation,
                "credentialError": bad.error,
                "credentialMessage": str(bad),
            }
            text = "A Certificate signing request operation failed"
            self._error(live, pending.rid, 400, 400040, text, info=info)
            return
        self.log("renewed", identity=pending.device, rid=pending.rid)
        self._send(live, 200, pending.rid, self._body(chain, pending))

    def _body(self, chain: list[bytes], pending: Pending) -> Any:
        ordered = chain if self.order == "leaf_first" else chain[::-1]
        encoded = [base64.b64encode(der).decode() for der in ordered]
        if self.shape == "array":
            return encoded
        if self.shape == "pem":
            return {
                "certificates": [
                    load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
                    for der in ordered
                ]
            }
        return {"certificates": encoded, "correlationId": pending.correlation}

    def _error(
        self,
        session: Session,
        rid: str,
        status: int,
        code: int | None = None,
        message: str = "Error",
        retry_after: int | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        body: dict[str, Any] = {
            "errorCode": code if code is not None else status * 1000 + 1,
            "message": message,
            "trackingId": str(uuid.uuid4()),
            "timestampUtc": stamp(self.now()),
        }
        if retry_after is not None:
            body["retryAfter"] = retry_after
        if info is not None:
            body["info"] = info
        self._send(session, status, rid, body)

    def _send(self, session: Session, status: int, rid: str, body: Any) -> None:
        tail = "&$version=1" if self.topic_tail == "version" else ""
        plural = "$iothub/credentials/res/#" in session.filters
        root = self.topic_root or ("credentials" if plural else "credential")
        topic = f"$iothub/{root}/res/{status}/?$rid={rid}{tail}"
        session.send_credentials(topic, json.dumps(body, separators=(",", ":")).encode())


def _millis(moment: float) -> str:
    return stamp(moment)[:23] + "Z"


def _object(payload: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None
