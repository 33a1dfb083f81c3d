"""The hub's service side by REST, as an operator's program uses it.

Responsible for: service tokens, queries with continuation, twins, configurations, direct
methods, retries of 429 and 5xx.
Not for: what is published (rollout.py) and what is read out of it (status.py).
REST reference: learn.microsoft.com/rest/api/iothub/service.

    with Service.from_connection_string(text, roots=[der]) as hub:
        for twin in hub.query("SELECT * FROM devices"):
            ...
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import quote

from taproot.console import PeerFailed, UsageFailed

API_VERSION = "2021-04-12"
TOKEN_LIFE = 3600
PAGE = 100
FEW = 20  # up to here twins are read one by one
TRIES = 4
_MAX_BODY = 64 * 1024 * 1024


class ServiceError(PeerFailed):
    """The hub's service side refused or failed."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class Service:
    """A connection to one hub's service API."""

    host: str
    policy: str
    key: str
    port: int = 443
    roots: list[bytes] = field(default_factory=list)
    timeout: float = 30
    _connection: http.client.HTTPSConnection | None = None

    @classmethod
    def from_connection_string(
        cls, text: str, *, port: int = 443, roots: Iterable[bytes] = (), timeout: float = 30
    ) -> Service:
        """Take host, policy and key from a service connection string."""
        fields = dict(
            part.split("=", 1) for part in text.strip().strip(";").split(";") if "=" in part
        )
        missing = [
            name
            for name in ("HostName", "SharedAccessKeyName", "SharedAccessKey")
            if not fields.get(name)
        ]
        if missing:
            raise UsageFailed(
                f"the service connection string has no {missing[0]}; it looks like "
                "HostName=NAME;SharedAccessKeyName=service;SharedAccessKey=KEY"
            )
        try:
            base64.b64decode(fields["SharedAccessKey"], validate=True)
        except ValueError:
            raise UsageFailed("the SharedAccessKey is not base64") from None
        return cls(
            fields["HostName"],
            fields["SharedAccessKeyName"],
            fields["SharedAccessKey"],
            port,
            list(roots),
            timeout,
        )

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- what operators do

    def query(self, text: str) -> Iterator[dict[str, Any]]:
        """Yield every row of a query, page after page."""
        token: str | None = None
        while True:
            headers = {"x-ms-max-item-count": str(PAGE)}
            if token:
                headers["x-ms-continuation"] = token
            rows, answered = self._call("POST", "/devices/query", {"query": text}, headers)
            if not isinstance(rows, list):
                raise ServiceError("the hub answered a query with something else than a list")
            yield from rows
            token = answered.get("x-ms-continuation")
            if not token:
                return

    def twin(self, device: str) -> dict[str, Any]:
        """Return a device's twin."""
        found, _ = self._call("GET", f"/twins/{quote(device, safe='')}")
        return _object(found)

    def twins(self, devices: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the twins of several devices: one by one, or by query where they are many.

        A query may lag behind by minutes; who waits for a change sees it later, not wrongly.
        """
        if len(devices) <= FEW:
            return {device: self.twin(device) for device in devices}
        found: dict[str, dict[str, Any]] = {}
        for i in range(0, len(devices), PAGE):
            listed = ", ".join("'" + d.replace("'", "\\'") + "'" for d in devices[i : i + PAGE])
            for twin in self.query(f"SELECT * FROM devices WHERE deviceId IN [{listed}]"):
                found[str(twin["deviceId"])] = twin
        return found

    def patch_desired(self, device: str, desired: dict[str, Any]) -> dict[str, Any]:
        """Merge desired properties; `None` deletes."""
        body = {"properties": {"desired": desired}}
        path = f"/twins/{quote(device, safe='')}"
        found, _ = self._call("PATCH", path, body, {"If-Match": "*"})
        return _object(found)

    def invoke(self, device: str, method: str, payload: Any, timeout: int = 60) -> dict[str, Any]:
        """Call a direct method; returns `{"status", "payload"}`."""
        body = {
            "methodName": method,
            "payload": payload,
            "responseTimeoutInSeconds": timeout,
            "connectTimeoutInSeconds": 0,
        }
        path = f"/twins/{quote(device, safe='')}/methods"
        found, _ = self._call("POST", path, body, wait=timeout + 10)
        return _object(found)

    def configuration(self, name: str) -> dict[str, Any] | None:
        """Return a configuration, or None."""
        try:
            found, _ = self._call("GET", f"/configurations/{quote(name, safe='')}")
        except ServiceError as error:
            if error.status == 404:
                return None
            raise
        return _object(found)

    def put_configuration(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create a configuration."""
        found, _ = self._call("PUT", f"/configurations/{quote(name, safe='')}", body)
        return _object(found)

    def delete_configuration(self, name: str, missing_ok: bool = False) -> None:
        """Delete a configuration; what it set stays."""
        try:
            path = f"/configurations/{quote(name, safe='')}"
            self._call("DELETE", path, None, {"If-Match": "*"})
        except ServiceError as error:
            if error.status != 404 or not missing_ok:
                raise

    # -- the wire

    def token(self, expiry: int) -> str:
        """Return a shared access signature for the whole hub."""
        resource = quote(self.host.lower(), safe="")
        signed = f"{resource}\n{expiry}".encode()
        mac = hmac.new(base64.b64decode(self.key), signed, hashlib.sha256).digest()
        signature = quote(base64.b64encode(mac).decode(), safe="")
        return (
            f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry}"
            f"&skn={quote(self.policy, safe='')}"
        )

    def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        wait: float | None = None,
    ) -> tuple[Any, dict[str, str]]:
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            try:
                status, found, answered = self._once(method, path, body, headers or {}, wait)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if isinstance(error, ssl.SSLError) or last:
                    raise PeerFailed(_network_text(self.host, self.port, error)) from None
                time.sleep(0.2 * 2**attempt)
                continue
            if (status == 429 or status >= 500) and not last and _repeatable(method, path):
                time.sleep(_pause(answered, attempt))
                continue
            if status >= 400:
                raise _refusal(status, found, method, path)
            return found, answered
        raise PeerFailed(f"{self.host} does not answer")

    def _once(
        self, method: str, path: str, body: Any, headers: dict[str, str], wait: float | None
    ) -> tuple[int, Any, dict[str, str]]:
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                self.host, self.port, timeout=self.timeout, context=self._context()
            )
        connection = self._connection
        if connection.sock is not None:
            connection.sock.settimeout(wait or self.timeout)
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        connection.request(
            method,
            f"{path}?api-version={API_VERSION}",
            data,
            {
                "Authorization": self.token(int(time.time()) + TOKEN_LIFE),
                "Content-Type": "application/json",
                **headers,
            },
        )
        answer = connection.getresponse()
        raw = answer.read(_MAX_BODY)
        answered = {k.lower(): v for k, v in answer.getheaders()}
        try:
            found = json.loads(raw) if raw else None
        except ValueError:
            found = None
        return answer.status, found, answered

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context() if not self.roots else _bare_context()
        for der in self.roots:
            context.load_verify_locations(cadata=der)
        return context


def _bare_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _repeatable(method: str, path: str) -> bool:
    return not path.endswith("/methods")


def _pause(answered: dict[str, str], attempt: int) -> float:
    text = answered.get("retry-after", "")
    return min(float(text), 60.0) if text.isdecimal() else 0.5 * 2**attempt


def _object(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ServiceError("the hub answered with something else than a JSON object")
    return found


def _refusal(status: int, found: Any, method: str, path: str) -> ServiceError:
    text = ""
    if isinstance(found, dict):
        text = str(found.get("Message") or found.get("message") or "")
    if status == 401:
        text = (
            "the policy's key is wrong or lacks a right: registry read and write for queries and "
            "configurations, service connect for twins and methods"
        )
    return ServiceError(f"{method} {path}: {status} {text}".rstrip(), status)


def _network_text(host: str, port: int, error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"{host}:{port}: its certificate is not trusted here ({error.verify_message}); "
            "name the root with --ca FILE"
        )
    return f"{host}:{port}: {error}"
