"""The control API from outside: what the subcommands and other programs talk through.

Responsible for: finding a running emulator (its control file), one request, errors in words.
Not for: what the operations do.
"""

from __future__ import annotations

import http.client
import json
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from taproot.console import PeerFailed, UsageFailed


def control_file() -> Path:
    """Where a running emulator leaves its address and token for its user."""
    folder = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(folder) / f"taproot-emulator-{os.getuid()}.json"


def write_control_file(path: Path, url: str, token: str) -> None:
    """Leave address and token, readable by the user alone."""
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with open(os.open(path, flags, 0o600), "w") as file:
        json.dump({"url": url, "token": token}, file)


def remove_control_file(path: Path) -> None:
    """Say that the emulator is gone."""
    path.unlink(missing_ok=True)


class ControlClient:
    """Talks to one running emulator."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self._token = url, token

    @classmethod
    def find(cls, path: Path | None = None) -> ControlClient:
        """Use the control file of a running emulator."""
        path = path or control_file()
        try:
            body = json.loads(path.read_text())
            return cls(body["url"], body["token"])
        except FileNotFoundError:
            raise UsageFailed(
                f"no emulator is running here ({path} is not there); start one with "
                "'taproot emulator' or name its file with --control"
            ) from None
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageFailed(f"{path}: not a control file of the emulator") from None

    def call(self, operation: str, **body: Any) -> Any:
        """Do one operation and return its result."""
        limit = 60 + body.get("timeout_s", 0) + body.get("connect_timeout_s", 0)
        return self._request("POST", f"/v1/{operation}", body, limit)["result"]

    def status(self) -> dict[str, Any]:
        """Return the emulator's status."""
        return self._request("GET", "/v1/status", None, 30)

    def events(self, since: int = 0) -> list[dict[str, Any]]:
        """Return recorded events."""
        return self._request("GET", f"/v1/events?since={since}", None, 60)["events"]

    def _request(self, method: str, path: str, body: Any, limit: float) -> dict[str, Any]:
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=limit)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            connection.request(
                method, path, json.dumps(body) if body is not None else None, headers
            )
            response = connection.getresponse()
            data = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PeerFailed(f"the emulator at {self.url} does not answer: {error}") from None
        finally:
            connection.close()
        if response.status != 200:
            raise UsageFailed(str(data.get("error", f"HTTP {response.status}")))
        return data
