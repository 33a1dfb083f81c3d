"""What devices do over plain HTTPS: telemetry and the three steps of a file upload.

Responsible for: device authentication by header or client certificate, HTTPS telemetry with its
`iothub-app-` headers, upload grants and notifications. Not for: the blobs (`blobs.py`), sockets
(`https.py`). Documentation: learn.microsoft.com/azure/iot-hub/iot-hub-devguide-file-upload.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from taproot.emulator.blobs import CONTAINER, BlobStore
from taproot.emulator.credentials import Refused
from taproot.emulator.hub import Hub
from taproot.emulator.registry import Identity
from taproot.emulator.rest import Problem, Request, Response

_FILES = re.compile(r"/devices/([^/]+)/files", re.IGNORECASE)
_NOTIFY = re.compile(r"/devices/([^/]+)/files/notifications/?", re.IGNORECASE)
_EVENTS = re.compile(r"/devices/([^/]+)(?:/modules/([^/]+))?/messages/events", re.IGNORECASE)
_VERSION = re.compile(r"20\d\d-\d\d-\d\d(-preview)?")

MAX_UPLOADS = 10
GRANT_SECONDS = 3600.0

# request header -> system property of the bag
_SYSTEM = {
    "iothub-messageid": "$.mid",
    "iothub-correlationid": "$.cid",
    "iothub-userid": "$.uid",
    "iothub-contenttype": "$.ct",
    "iothub-contentencoding": "$.ce",
    "iothub-expiry": "$.exp",
    "iothub-to": "$.to",
}


@dataclass
class Upload:
    """One upload between its grant and its notification."""

    id: str
    device: str
    blob: str
    begun: float


class DeviceAPI:
    """Answers devices for one hub."""

    def __init__(
        self,
        hub: Hub,
        blobs: BlobStore,
        blob_host: Callable[[], str],
        grant: float = GRANT_SECONDS,
    ) -> None:
        self.hub, self.blobs, self.blob_host, self.grant = hub, blobs, blob_host, grant
        self.uploads: dict[str, Upload] = {}

    def handles(self, path: str) -> bool:
        """Say whether a path is one of the device's."""
        return any(pattern.fullmatch(path) for pattern in (_FILES, _NOTIFY, _EVENTS))

    def handle(self, request: Request) -> Response:
        """Answer one request."""
        try:
            return self._dispatch(request)
        except Problem as problem:
            return problem.response(self.hub.hosts[0])

    def _dispatch(self, request: Request) -> Response:
        if request.method != "POST":
            raise Problem(405, f"{request.method} is not possible here")
        if not _VERSION.fullmatch(request.query.get("api-version", "")):
            raise Problem(400, "api-version is missing or malformed")
        events = _EVENTS.fullmatch(request.path)
        if events is not None:
            name = unquote(events[1]) + (f"/{unquote(events[2])}" if events[2] else "")
            return self._telemetry(self._authenticate(name, request), request)
        notify = _NOTIFY.fullmatch(request.path)
        match = notify or _FILES.fullmatch(request.path)
        assert match is not None
        found = self._authenticate(unquote(match[1]), request)
        return self._notify(found, request) if notify else self._begin(found, request)

    def _authenticate(self, name: str, request: Request) -> Identity:
        found = self.hub.registry.find(name)
        text = request.headers.get("authorization")
        try:
            if found is None:
                raise Refused("the device is not registered")
            if not (found.enabled and self.hub.registry.devices[found.device_id].enabled):
                raise Refused("the device is disabled")
            if text:
                self._check_any_host(found, text)
            else:
                self.hub.authenticate(found, self.hub.hosts[0], None, request.chain)
        except Refused as refused:
            self.hub.log("https_refused", identity=name, path=request.path, reason=str(refused))
            raise Problem(401, "Unauthorized") from None
        return found

    def _check_any_host(self, found: Identity, text: str) -> None:
        for host in self.hub.hosts[1:]:
            try:
                self.hub.check_token(found, host, text)
            except Refused:
                continue
            return
        self.hub.check_token(found, self.hub.hosts[0], text)

    def _telemetry(self, found: Identity, request: Request) -> Response:
        bag: dict[str, Any] = {}
        for name, value in request.headers.items():
            if name in _SYSTEM:
                bag[_SYSTEM[name]] = value
            elif name.startswith("iothub-app-"):
                bag[name.removeprefix("iothub-app-")] = value
        size = len(request.body) + sum(len(key) + len(value) for key, value in bag.items())
        if size > self.hub.limits.d2c_bytes:
            raise Problem(413, f"The message has {size} bytes")
        if self.hub.take_d2c():
            raise Problem(429, "Throttled")
        message = self.hub.record(found, bag, request.body, qos=1, dup=False, transport="https")
        self.hub.log(
            "publish", identity=found.id, transport="https", size=len(request.body),
            message=message.seq,
        )  # fmt: skip
        return Response(204)

    def _begin(self, found: Identity, request: Request) -> Response:
        name = request.object().get("blobName")
        if not isinstance(name, str) or not 1 <= len(name) <= 1024 or "?" in name:
            raise Problem(400, "blobName is missing or malformed")
        now = self.hub.now()
        active = [u for u in self.uploads.values() if u.device == found.id]
        for upload in [u for u in active if u.begun + self.grant <= now]:
            del self.uploads[upload.id]
            active.remove(upload)
        if len(active) >= MAX_UPLOADS:
            raise Problem(
                403, f"{MAX_UPLOADS} uploads are active", "TooManyActiveFileUploadSessions"
            )
        upload = Upload(str(uuid.uuid4()), found.id, f"{found.id}/{name}", now)
        self.uploads[upload.id] = upload
        self.hub.log("upload", identity=found.id, blob=upload.blob, correlation_id=upload.id)
        return Response(
            200,
            {
                "correlationId": upload.id,
                "hostName": self.blob_host(),
                "containerName": CONTAINER,
                "blobName": upload.blob,
                "sasToken": self.blobs.grant(upload.blob, self.grant),
            },
        )

    def _notify(self, found: Identity, request: Request) -> Response:
        body = request.object()
        upload = self.uploads.get(str(body.get("correlationId")))
        if upload is None or upload.device != found.id:
            raise Problem(404, "No upload of this correlationId", "BlobUploadNotFound")
        del self.uploads[upload.id]
        blob = self.blobs.blobs.get(upload.blob)
        self.hub.log(
            "upload_done", identity=found.id, blob=upload.blob, correlation_id=upload.id,
            success=body.get("isSuccess"), status=body.get("statusCode"),
            description=body.get("statusDescription"), size=len(blob.body) if blob else None,
        )  # fmt: skip
        return Response(204)
