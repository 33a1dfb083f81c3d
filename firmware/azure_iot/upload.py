"""File upload and telemetry over HTTPS, beside the MQTT connection or without one.

Responsible for: the three steps of an upload, its blocks (each tried again), telemetry by POST.
Not for: HTTP (https.py), MQTT (client.py).
Source: azure-docs "Upload files with IoT Hub", Azure Storage "Put Block", "Put Block List".

    uploader = Uploader(client)
    await uploader.upload("log.txt", source)     # bytes, or size and readinto(memoryview)
    await uploader.send_message({"t": 21.5})     # one POST, for devices that sleep most of the time
"""

import asyncio
import json

from micropython import const

from . import hub, log
from .bag import quote, text
from .errors import AzureIoTError, ConnectionFailedError, CredentialError, ServiceError
from .https import BytesSink, Fetcher, is_token
from .tls.context import TLSContext

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .client import IoTHubDeviceClient
    from .https import Answer

_API = "api-version=2021-04-12"
_BLOCK = const(4096)  # one block is one try: small enough to keep in memory and send again
_TRIES = const(4)
_PAUSE_MS = const(1000)
_TOLD_MS = const(15000)  # what a failed or cancelled upload may take to tell the hub
_MAX_ANSWER = const(4096)
_LIFE_S = const(3600)
_HEADERS = (
    ("message_id", "iothub-messageid"),
    ("correlation_id", "iothub-correlationid"),
    ("user_id", "iothub-userid"),
    ("content_type", "iothub-contenttype"),
    ("content_encoding", "iothub-contentencoding"),
    ("expiry_time_utc", "iothub-expiry"),
    ("to", "iothub-to"),
    # The HTTPS interface has no header for these.
    ("creation_time_utc", ""),
    ("output_name", ""),
    ("component_name", ""),
    ("interface_id", ""),
    ("ack", ""),
)


class Uploader:
    """Requests in the name of one client; `block` is the size of a block in bytes."""

    def __init__(self, client: "IoTHubDeviceClient", *, block: int = _BLOCK) -> None:
        self._client = client
        self._link = client._link
        self._fetcher = Fetcher(self._link.deadlines)
        self._port = client.keeper.port
        self._block = block
        self.retries = 0

    async def upload(self, blob_name: str, source: object) -> str:
        """Upload a file; return the blob's name in the container (`{device}/{blob_name}`).

        POST `https://{host}/devices/{device}/files?api-version=2021-04-12` with body
        `{"blobName": "…"}` grants it; PUT
        `https://{hostName}/{containerName}/{blobName}{sasToken}&comp=block&blockid=00000000` for each
        block and `…&comp=blocklist` for their list; POST `…/files/notifications?api-version=…` with
        `{"correlationId": "…", "isSuccess": true, "statusCode": 200, "statusDescription": ""}`.

        Raises ServiceError (status of the step that was refused), the connection's errors and
        what the source raises. The hub is told of each end, of a failure or a cancelled task
        within 15 s: it counts an upload as in progress until then, and allows 10.
        Source: azure-docs "Upload files with IoT Hub", Azure Storage "Put Block".
        """
        if isinstance(source, (bytes, bytearray)):
            source = _Bytes(source)
        grant = await self._grant(blob_name)
        try:
            await self._put(grant, source)
        except (Exception, asyncio.CancelledError) as error:
            try:
                await asyncio.wait_for_ms(self._notify(grant, error), _TOLD_MS)
            except Exception as why:
                log.warning("upload: the hub could not be told of the failure: %s", why)
            raise  # the upload's own failure is what the caller must hear of
        await self._notify(grant, None)
        return grant["blobName"]

    async def _grant(self, blob_name: str) -> dict:
        sink = BytesSink()
        body = json.dumps({"blobName": blob_name}).encode()
        answer = await self._hub("POST", "files?" + _API, body, sink)
        if answer.status == 403:  # no matter of credentials (those are 401): error code 403006
            text = "the hub grants no upload: 403, as with 10 of this device in progress"
            raise ServiceError(text, 403)
        _require(answer, "the hub grants no upload")
        try:
            grant = json.loads(sink.data)
            for name in ("correlationId", "hostName", "containerName", "blobName", "sasToken"):
                if not isinstance(grant[name], str):
                    raise KeyError(name)
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceError("the hub's upload grant cannot be read", 502, None, error)
        return grant

    async def _put(self, grant: dict, source: object) -> None:
        base = "https://%s/%s/%s%s" % (
            grant["hostName"],
            grant["containerName"],
            "/".join([quote(part) for part in grant["blobName"].split("/")]),
            grant["sasToken"],
        )
        ids = []
        left = source.size
        buffer = memoryview(bytearray(min(self._block, max(left, 1))))
        while left:
            view = buffer[: min(len(buffer), left)]
            at = 0
            while at < len(view):
                n = source.readinto(view[at:])
                if not n:
                    raise ServiceError("the file ended %d bytes early" % left, 400)
                at += n
            # Equal length for all ids of a blob; the characters need no encoding.
            ids.append("%08d" % len(ids))
            await self._put_block("%s&comp=block&blockid=%s" % (base, ids[-1]), view)
            left -= len(view)
        body = "<BlockList>%s</BlockList>" % "".join(["<Latest>%s</Latest>" % i for i in ids])
        await self._put_block(base + "&comp=blocklist", body.encode())

    def _put_block(self, url: str, body: "bytes | memoryview") -> "Awaitable":
        return self._retry("the storage account refused a block", self._blob, url, body)

    async def _retry(self, what: str, request: "Callable", *args: object) -> None:
        """Make a request; network failures and what a server may get over (429, 5xx) are tried again."""
        for tries in range(_TRIES):
            try:
                _require(await request(*args), what)
                return
            except AzureIoTError as error:
                passing = not isinstance(error, ServiceError) or error.status >= 429
                if tries == _TRIES - 1 or not passing or isinstance(error, CredentialError):
                    raise
                self.retries += 1
                log.info("upload: again after %s", error)
            await asyncio.sleep_ms(_PAUSE_MS << tries)

    async def _blob(self, url: str, body: "bytes | memoryview") -> "Answer":
        headers = [("x-ms-blob-type", "BlockBlob"), ("x-ms-version", "2020-10-02")]
        link = self._link
        roots = link.roots
        if link.trust is not None:
            # The storage account is another TLS name: a bundle says which roots serve `https`.
            roots = link.trust.attempt("https", url).roots
        return await self._request("PUT", url, headers, body, None, TLSContext(roots))

    async def _notify(self, grant: dict, error: "BaseException | None") -> None:
        body = {
            "correlationId": grant["correlationId"],
            "isSuccess": error is None,
            "statusCode": 200 if error is None else getattr(error, "status", None) or 500,
            "statusDescription": "" if error is None else str(error)[:128] or "cancelled",
        }
        body = json.dumps(body).encode()
        path = "files/notifications?" + _API
        await self._retry(
            "the hub took no upload notification", self._hub, "POST", path, body, None
        )

    async def send_message(
        self, message: "hub.Message | bytes | str | dict | list", properties: "dict | None" = None
    ) -> None:
        """Send one message by POST: no session, no queue; it is delivered when this returns.

        `https://{host}/devices/{device}/messages/events?api-version=2021-04-12`, body the message;
        properties are headers `iothub-app-{name}`, others such as `iothub-messageid`.

        Raises ServiceError(413) for more than 256 KB with all properties, ValueError for what no
        header carries: names but of letters, digits and ``!#$%&'*+-.^_`|~``, outer spaces, line
        breaks, and creation_time_utc output_name component_name interface_id ack.
        Source: azure-docs REST "Device - Send Device Event".
        """
        from .client import to_message, weigh

        message = to_message(message, properties)
        weigh(message, len(message.data))
        headers = []
        for name, header in _HEADERS:
            value = getattr(message, name)
            if value is not None:
                if not header:
                    raise ValueError("HTTPS has no header for %s: send it over MQTT" % name)
                headers.append((header, str(value)))
        for name, value in message.properties.items():
            value = text(value)
            if not is_token(name) or value != value.strip() or "\r" in value or "\n" in value:
                raise ValueError("no header can carry %r: %r, send it over MQTT" % (name, value))
            headers.append(("iothub-app-" + name, value))
        answer = await self._hub("POST", "messages/events?" + _API, message.data, None, headers)
        _require(answer, "the hub took no message")

    async def _hub(
        self,
        method: str,
        path: str,
        body: "bytes | str",
        sink: "BytesSink | None",
        headers: "list | tuple" = (),
    ) -> "Answer":
        link = self._link
        identity = link.identity
        all_headers = [("Content-Type", "application/json")]
        all_headers.extend(headers)
        if link.uses_token:
            expiry = link.clock.unix_time() + _LIFE_S
            token = await link.credential.token(identity.resource, expiry)
            all_headers.append(("Authorization", token))
        base = hub.base_topic(quote(identity.device_id), identity.module_id)
        url = "https://%s:%d/%s%s" % (identity.gateway, self._port, base, path)
        if link.attempt is None and link.trust is not None:
            link.attempt = link.trust.attempt("hub", identity.gateway, False)
        context = link.context(login=True)
        return await self._request(method, url, all_headers, body, sink, context)

    async def _request(
        self,
        method: str,
        url: str,
        headers: list,
        body: "bytes | str | memoryview",
        sink: "BytesSink | None",
        context: TLSContext,
    ) -> "Answer":
        async def once() -> "Answer":
            return await self._fetcher.request(
                method, url, sink, _MAX_ANSWER, headers=headers, body=body, context=context
            )

        try:
            return await once()
        except ConnectionFailedError as error:
            if error.reason != "memory" or not self._client.connected.is_set():
                raise
        async with self._client.quiet():
            return await once()


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self.size = len(data)
        self._at = 0

    def readinto(self, view: memoryview) -> int:
        n = min(len(view), self.size - self._at)
        view[:n] = self._data[self._at : self._at + n]
        self._at += n
        return n


def _require(answer: "Answer", what: str) -> None:
    if 200 <= answer.status < 300:
        return
    if answer.status in (401, 403):
        raise CredentialError("%s: %d" % (what, answer.status))
    after = answer.headers.get("retry-after", "")
    raise ServiceError(
        "%s: %d" % (what, answer.status), answer.status, int(after) if after.isdigit() else None
    )
