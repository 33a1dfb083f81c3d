"""What REST handlers share: request, response, error bodies as the service writes them.

Not for: routes (`service.py`, `uploads.py`), sockets (`https.py`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_NAMES = {
    400: "ArgumentInvalid",
    401: "IotHubUnauthorizedAccess",
    403: "IotHubQuotaExceeded",
    404: "DeviceNotFound",
    405: "MethodNotAllowed",
    409: "DeviceAlreadyExists",
    412: "PreconditionFailed",
    413: "MessageTooLarge",
    429: "ThrottlingException",
    501: "NotSupported",
}


@dataclass(frozen=True)
class Request:
    """One HTTP request, taken off the wire. Header names are lower case."""

    method: str
    path: str  # decoded, without the query
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    chain: tuple[bytes, ...] = ()  # the client's certificates, DER
    raw_query: str = ""

    def json(self) -> Any:
        """Return the body as JSON; an empty one is None."""
        if not self.body.strip():
            return None
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise Problem(400, "The body is not JSON") from None

    def object(self) -> dict[str, Any]:
        """Return the body as a JSON object."""
        body = self.json()
        if not isinstance(body, dict):
            raise Problem(400, "The body is not a JSON object")
        return body


@dataclass
class Response:
    """One HTTP response. `body` None is no body; anything but bytes becomes JSON."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        """The body in bytes."""
        if self.body is None:
            return b""
        if isinstance(self.body, bytes):
            return self.body
        return json.dumps(self.body, separators=(",", ":"), default=str).encode()


def object_of(body: Any, name: str) -> dict[str, Any]:
    """Return an object that is a member of an object; absent and null are empty."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Problem(400, f"{name} is not an object")
    return value


def string_of(body: Any, name: str) -> str | None:
    """Return a string that is a member of an object; absent, null and empty are None."""
    value = body.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Problem(400, f"{name} is not a string")
    return value


def integer_of(body: Any, name: str, default: int) -> int:
    """Return a whole number, also one written as text (headers, queries)."""
    value = body.get(name)
    if value is None or value == "":
        return default
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return int(value)
        except ValueError:
            pass
    raise Problem(400, f"{name} is not a whole number")


class Problem(Exception):
    """A request that is refused."""

    def __init__(self, status: int, text: str, name: str | None = None) -> None:
        super().__init__(text)
        self.status, self.name = status, name or _NAMES.get(status, "Error")

    def response(self, host: str = "") -> Response:
        """Return the error as the service words it."""
        number = str(uuid.uuid4())
        body = {
            "Message": f"ErrorCode:{self.name};{self}",
            "ExceptionMessage": f"Tracking ID:{number}-{host}",
        }
        return Response(self.status, body, {"iothub-errorcode": self.name})
