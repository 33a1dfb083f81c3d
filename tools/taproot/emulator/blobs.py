"""The storage account behind file uploads: block blobs in memory, guarded by their SAS query.

Responsible for: Put Blob, Put Block, Put Block List, Get Blob, the shared access query that one
upload was given, bounds on memory. Pure. Not for: the three steps of an upload
(`device_rest.py`). REST reference: learn.microsoft.com/rest/api/storageservices/put-blob.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote
from xml.etree import ElementTree

from taproot.emulator.rest import Request, Response
from taproot.emulator.twin import stamp

CONTAINER = "uploads"
VERSION = "2021-08-06"
MAX_BLOB = 64 * 1024 * 1024
MAX_TOTAL = 256 * 1024 * 1024
MAX_BLOCKS = 50_000


class BlobError(Exception):
    """A storage request that is refused."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status, self.code = status, code

    def response(self) -> Response:
        """Return the error as storage words it."""
        xml = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{self.code}</Code>'
        body = f"{xml}<Message>{self}</Message></Error>".encode()
        headers = {"x-ms-error-code": self.code, "Content-Type": "application/xml"}
        return Response(self.status, body, headers)


@dataclass
class Blob:
    """One committed blob."""

    body: bytes
    content_type: str = "application/octet-stream"
    written: float = 0.0
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def etag(self) -> str:
        """The entity tag."""
        return f'"0x{hashlib.sha256(self.body).hexdigest()[:15].upper()}"'


class BlobStore:
    """All blobs of one emulator."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._secret = os.urandom(32)
        self.blobs: dict[str, Blob] = {}
        self._blocks: dict[str, dict[str, bytes]] = {}

    def grant(self, name: str, seconds: float = 3600.0) -> str:
        """Return the query that permits writing one blob for a while."""
        expiry = stamp(self._now() + seconds)[:19] + "Z"
        signature = quote(self._sign(name, expiry, "rw"), safe="")
        return f"?sv={VERSION}&sr=b&sig={signature}&se={quote(expiry, safe='')}&sp=rw"

    def _sign(self, name: str, expiry: str, rights: str) -> str:
        text = f"{name}\n{expiry}\n{rights}".encode()
        return base64.b64encode(hmac.digest(self._secret, text, "sha256")).decode()

    def handle(self, request: Request) -> Response:
        """Answer one storage request; the path is /{container}/{blob}."""
        try:
            response = self._dispatch(request)
        except BlobError as error:
            response = error.response()
        response.headers.setdefault("x-ms-request-id", str(uuid.uuid4()))
        response.headers.setdefault("x-ms-version", VERSION)
        return response

    def _dispatch(self, request: Request) -> Response:
        name = request.path.removeprefix(f"/{CONTAINER}/")
        self._authorize(name, request)
        if request.method in ("GET", "HEAD"):
            return self._get(name)
        if request.method != "PUT":
            raise BlobError(405, "UnsupportedHttpVerb", "The verb is not supported here")
        part = request.query.get("comp")
        if part == "block":
            return self._put_block(name, request)
        if part == "blocklist":
            return self._put_list(name, request)
        return self._put(name, request)

    def _authorize(self, name: str, request: Request) -> None:
        query = request.query
        expiry, rights = query.get("se", ""), query.get("sp", "")
        wanted = self._sign(name, expiry, rights)
        if not hmac.compare_digest(wanted.encode(), query.get("sig", "").encode()):
            raise BlobError(403, "AuthenticationFailed", "The signature does not match")
        if expiry <= stamp(self._now())[:19] + "Z":
            raise BlobError(403, "AuthenticationFailed", "The signature has expired")

    def _room(self, name: str, size: int) -> None:
        if size > MAX_BLOB:
            raise BlobError(413, "RequestBodyTooLarge", f"The emulator keeps {MAX_BLOB} bytes")
        held = sum(len(blob.body) for other, blob in self.blobs.items() if other != name)
        held += sum(len(b) for blocks in self._blocks.values() for b in blocks.values())
        if held + size > MAX_TOTAL:
            raise BlobError(507, "InsufficientStorage", f"The emulator keeps {MAX_TOTAL} bytes")

    def _put(self, name: str, request: Request) -> Response:
        kind = request.headers.get("x-ms-blob-type")
        if kind is None:
            raise BlobError(400, "MissingRequiredHeader", "x-ms-blob-type is missing")
        if kind != "BlockBlob":
            raise BlobError(400, "InvalidHeaderValue", "x-ms-blob-type must be BlockBlob")
        self._check_md5(request)
        self._room(name, len(request.body))
        return self._commit(name, request.body, request)

    def _put_block(self, name: str, request: Request) -> Response:
        number = request.query.get("blockid", "")
        try:
            if not base64.b64decode(number, validate=True):
                raise ValueError
        except (binascii.Error, ValueError):
            raise BlobError(400, "InvalidQueryParameterValue", "blockid is not base64") from None
        blocks = self._blocks.setdefault(name, {})
        if any(len(other) != len(number) for other in blocks):
            raise BlobError(400, "InvalidBlobOrBlock", "all block ids must be of one length")
        if len(blocks) >= MAX_BLOCKS:
            raise BlobError(409, "BlockCountExceedsLimit", "too many blocks")
        self._check_md5(request)
        self._room(name, len(request.body) + sum(map(len, blocks.values())))
        blocks[number] = request.body
        return Response(201)

    def _put_list(self, name: str, request: Request) -> Response:
        if re.search(rb"<!(DOCTYPE|ENTITY)", request.body, re.IGNORECASE):
            raise BlobError(400, "InvalidXmlDocument", "the block list is not plain XML")
        try:
            root = ElementTree.fromstring(request.body)
        except ElementTree.ParseError:
            raise BlobError(400, "InvalidXmlDocument", "the block list is not XML") from None
        blocks = self._blocks.get(name, {})
        body = b""
        for entry in root:
            if entry.tag not in ("Latest", "Uncommitted", "Committed"):
                raise BlobError(400, "InvalidXmlDocument", f"unknown element {entry.tag[:40]}")
            if entry.text not in blocks:
                raise BlobError(400, "InvalidBlockList", "the list names an unknown block")
            body += blocks[entry.text]
        self._blocks.pop(name, None)
        return self._commit(name, body, request)

    @staticmethod
    def _check_md5(request: Request) -> None:
        wanted = request.headers.get("content-md5")
        if wanted is not None:
            have = hashlib.md5(request.body, usedforsecurity=False).digest()
            if base64.b64encode(have).decode() != wanted:
                raise BlobError(400, "Md5Mismatch", "Content-MD5 does not match the body")

    def _commit(self, name: str, body: bytes, request: Request) -> Response:
        kind = request.headers.get("x-ms-blob-content-type") or request.headers.get("content-type")
        prefix = "x-ms-meta-"
        metadata = {
            key[len(prefix) :]: value
            for key, value in request.headers.items()
            if key.startswith(prefix)
        }
        blob = Blob(body, kind or "application/octet-stream", self._now(), metadata)
        self.blobs[name] = blob
        return Response(201, headers={"ETag": blob.etag})

    def _get(self, name: str) -> Response:
        blob = self.blobs.get(name)
        if blob is None:
            raise BlobError(404, "BlobNotFound", "The blob does not exist")
        headers = {
            "ETag": blob.etag,
            "Content-Type": blob.content_type,
            "x-ms-blob-type": "BlockBlob",
        }
        return Response(200, blob.body, headers)
