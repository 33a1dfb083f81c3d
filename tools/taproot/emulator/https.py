"""The one HTTPS listener: MQTT over WebSocket, service and device REST, uploads, downloads.

Responsible for: HTTP/1.1 by aiohttp on top of `tls.TlsTransport`, choosing who answers a path,
WebSocket connections as carriers of MQTT, the Date header by the emulator's clock. Not for:
what the answers say (`service.py`, `device_rest.py`, `blobs.py`, `downloads.py`), TLS (`tls.py`).

    front = HTTPSFront(engine, hub)
    await front.start()
    listener = Listener("https", front.factory, chains, options, recorder, faults)
"""

from __future__ import annotations

import asyncio
import contextlib
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote

from aiohttp import WSCloseCode, WSMsgType, web

from taproot.emulator.blobs import CONTAINER, MAX_BLOB, BlobStore
from taproot.emulator.connection import Connection, Engine
from taproot.emulator.device_rest import DeviceAPI
from taproot.emulator.downloads import Download
from taproot.emulator.hub import Hub
from taproot.emulator.rest import Problem, Request, Response
from taproot.emulator.service import ServiceAPI

WEBSOCKET = "/$iothub/websocket"
MAX_BODY = 1024 * 1024  # REST bodies; a blob may be larger
MAX_FRAME = 400_000
_KEEPALIVE = 75.0


class WebSocketLink:
    """Carries one MQTT connection in binary WebSocket messages."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        self._socket, self._transport = socket, transport
        facts = transport.get_extra_info("tls_facts") or {}
        self.facts: dict[str, Any] = {**facts, "transport": "websocket"}
        self._pending: list[bytes] = []
        self._size = 0
        self._wake = asyncio.Event()
        self._reading = asyncio.Event()
        self._reading.set()
        self.closing = False

    def write(self, data: bytes) -> None:
        """Queue bytes; they go out in their order."""
        if not self.closing:
            self._pending.append(data)
            self._size += len(data)
            self._wake.set()

    def close(self) -> None:
        """Close in good order, after what is queued."""
        self.closing = True
        self._reading.set()
        self._wake.set()

    def abort(self) -> None:
        """Close at once."""
        self.closing = True
        reset = getattr(self._transport, "reset", self._transport.abort)
        reset()
        self._reading.set()
        self._wake.set()

    def pause(self) -> None:
        """Take no more messages."""
        self._reading.clear()

    def resume(self) -> None:
        """Take messages again."""
        self._reading.set()

    def backlog(self) -> int:
        """Bytes that the client has not taken."""
        return self._size + self._transport.get_write_buffer_size()

    def chain(self) -> list[bytes]:
        """The client's certificates."""
        return list(self._transport.get_extra_info("tls_chain") or [])

    async def read_into(self, connection: Connection) -> None:
        """Feed the connection until the client ends or breaks the rules of RFC 6455."""
        reason = "closed by the client"
        while not self.closing:
            await self._reading.wait()
            message = await self._socket.receive()
            if message.type is WSMsgType.BINARY:
                connection.feed(message.data)
            elif message.type is WSMsgType.TEXT:
                reason = "a text message on a WebSocket that carries MQTT"
                await self._socket.close(code=WSCloseCode.UNSUPPORTED_DATA)
                break
            else:
                if message.type is WSMsgType.ERROR:
                    reason = f"WebSocket: {self._socket.exception()}"
                break
        connection.lost(reason)
        self.closing = True
        self._wake.set()

    async def write_out(self) -> None:
        """Send what is queued until the connection closes."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._pending:
                    data = b"".join(self._pending)
                    self._pending.clear()
                    await self._socket.send_bytes(data)
                    self._size -= len(data)
                if self.closing:
                    await self._socket.close()
                    return


class HTTPSFront:
    """Everything behind the HTTPS port."""

    def __init__(self, engine: Engine, hub: Hub, blob_host: str | None = None) -> None:
        self.engine, self.hub = engine, hub
        self.port = 0  # set by the owner once the listener has one
        self.blobs = BlobStore(engine.now)
        self.service = ServiceAPI(hub)
        self.devices = DeviceAPI(
            hub, self.blobs, lambda: f"{blob_host or hub.hosts[0]}:{self.port}"
        )
        self.downloads: dict[str, Download] = {}
        self.date_offset = 0.0  # a wrong clock on demand: seconds added to every Date
        self._server: web.Server | None = None

    async def start(self) -> None:
        """Make the HTTP server; it listens nowhere by itself."""
        self._server = web.Server(
            self._answer, keepalive_timeout=_KEEPALIVE, access_log=None, handler_cancellation=True
        )

    def factory(self) -> asyncio.Protocol:
        """Make the protocol of one connection."""
        assert self._server is not None
        return self._server()

    async def stop(self) -> None:
        """End every connection."""
        server, self._server = self._server, None
        if server is not None:
            await server.shutdown(0.2)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = unquote(request.rel_url.raw_path)
        if path == WEBSOCKET:
            return await self._websocket(request)
        try:
            taken = await self._take(request, path)
            response = await self._route(taken)
        except Problem as problem:
            response = problem.response(self.hub.hosts[0])
        return self._finish(request, response)

    async def _take(self, request: web.BaseRequest, path: str) -> Request:
        limit = MAX_BLOB if path.startswith(f"/{CONTAINER}/") else MAX_BODY
        body = bytearray()
        async for part in request.content.iter_any():
            body += part
            if len(body) > limit:
                raise Problem(413, f"The body is above {limit} bytes", "RequestEntityTooLarge")
        transport = request.transport
        chain = transport.get_extra_info("tls_chain") if transport is not None else None
        return Request(
            request.method,
            path,
            dict(request.query),
            {name.lower(): value for name, value in request.headers.items()},
            bytes(body),
            tuple(chain or ()),
            request.rel_url.raw_query_string,
        )

    async def _route(self, request: Request) -> Response:
        download = self.downloads.get(request.path)
        if download is not None:
            moment = self.engine.now() + self.date_offset
            answer = download.answer(request.method, request.headers, moment)
            self.engine.recorder.emit(
                "download", path=request.path, status=answer.status, size=len(answer.body),
                range=request.headers.get("range"), headers=sorted(request.headers),
            )  # fmt: skip
            return Response(answer.status, answer.body, answer.headers)
        if self.devices.handles(request.path):
            return self.devices.handle(request)
        if request.path.startswith(f"/{CONTAINER}/"):
            return self.blobs.handle(request)
        if self.service.handles(request.path):
            return await self.service.handle(request)
        raise Problem(404, "No such resource in the emulator", "ResourceNotFound")

    def _finish(self, request: web.BaseRequest, response: Response) -> web.StreamResponse:
        data = response.data
        headers = dict(response.headers)
        headers.setdefault("Date", self._date())
        headers["Server"] = "taproot-emulator"
        if data and "Content-Type" not in headers and not isinstance(response.body, bytes):
            headers["Content-Type"] = "application/json; charset=utf-8"
        if request.method == "HEAD":
            headers["Content-Length"] = str(len(data))
            return web.Response(status=response.status, headers=headers)
        return web.Response(status=response.status, body=data or None, headers=headers)

    def _date(self) -> str:
        return formatdate(self.engine.now() + self.date_offset, usegmt=True)

    async def _websocket(self, request: web.BaseRequest) -> web.StreamResponse:
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        wanted = "mqtt" in [name.strip() for name in offered.split(",")]
        upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
        transport = request.transport
        if not (upgrade and wanted) or transport is None:
            problem = Problem(400, "The path takes WebSocket with subprotocol mqtt", "BadRequest")
            return self._finish(request, problem.response(self.hub.hosts[0]))
        socket = web.WebSocketResponse(
            protocols=("mqtt",), compress=False, max_msg_size=MAX_FRAME, timeout=2.0
        )
        socket.headers["Date"] = self._date()
        try:
            await socket.prepare(request)
        except web.HTTPException as error:
            problem = Problem(error.status, "Malformed WebSocket handshake", "BadRequest")
            return self._finish(request, problem.response(self.hub.hosts[0]))
        link = WebSocketLink(socket, transport)
        connection = Connection(self.engine, link)
        writer = asyncio.create_task(link.write_out())
        try:
            await link.read_into(connection)
            await writer
        finally:
            ended = self._server is None
            connection.lost("the listener ended" if ended else "closed by the client")
            writer.cancel()
        return socket
