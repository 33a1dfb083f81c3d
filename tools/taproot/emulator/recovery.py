"""A plain HTTP server for the credential-free recovery fetch, honest or hostile on demand.

Responsible for: serving packages over a bare socket, recording every request byte for byte,
and misbehaving as told: redirects, chunked and endless bodies, endless headers, short bodies,
silence. With an `ssl` context it is the HTTPS server beside it that must never be used.
Not for: the hub's own HTTPS listener (`https.py`), rules about packages.

    server = RecoveryServer()
    await server.start()
    server.serve("/trust.bundle", package)
    server.serve("/loop", mode="redirect", location="/loop")
    ... server.requests[-1].only_host
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from taproot.emulator.downloads import Answer, Download

MODES = (
    "plain",
    "chunked",
    "endless",
    "endless_chunked",
    "endless_headers",
    "redirect",
    "truncated",
    "slow",
    "silent",
    "reset",
)
MAX_REQUEST = 16 * 1024
MAX_RECORDED = 1000
ENDLESS_LIMIT = 256 * 1024 * 1024  # a client that takes this much has no limit at all
_BLOCK = b"\x00" * 4096


@dataclass
class Request:
    """One request as it arrived."""

    time: float
    peer: str
    raw: bytes
    sent: int = 0  # body bytes written in answer

    @property
    def line(self) -> str:
        """The request line."""
        return self.raw.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def path(self) -> str:
        """The path asked for."""
        parts = self.line.split(" ")
        return parts[1] if len(parts) > 1 else ""

    @property
    def headers(self) -> dict[str, str]:
        """Header names and values as sent."""
        lines = self.raw.split(b"\r\n\r\n", 1)[0].split(b"\r\n")[1:]
        pairs = [line.decode("latin-1").partition(":") for line in lines if line]
        return {name: value.strip() for name, _, value in pairs}

    @property
    def only_host(self) -> bool:
        """True when nothing but a GET line and `Host` was sent: no header, no body, no query."""
        head, _, rest = self.raw.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        return (
            len(lines) == 2
            and lines[0].startswith(b"GET ")
            and b"?" not in lines[0]
            and lines[1].lower().startswith(b"host:")
            and not rest
        )


@dataclass
class Route:
    """What one path answers."""

    download: Download
    mode: str = "plain"
    location: str = "/"
    status: int = 302
    seconds: float = 0.05  # between the blocks of a slow body
    block: int = 64
    length: int | None = None  # claimed Content-Length of a truncated body

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}")


@dataclass
class RecoveryServer:
    """One listener on loopback."""

    host: str = "127.0.0.1"
    context: ssl.SSLContext | None = None
    now: Callable[[], float] = time.time
    date_offset: float = 0.0  # a wrong clock on demand: seconds added to every Date
    routes: dict[str, Route] = field(default_factory=dict)
    requests: deque[Request] = field(default_factory=lambda: deque(maxlen=MAX_RECORDED))
    connections: int = 0
    port: int = 0

    def __post_init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, port: int = 0) -> None:
        """Listen; `port` 0 takes a free one."""
        self._server = await asyncio.start_server(
            self._client, self.host, port, ssl=self.context, limit=MAX_REQUEST
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def url(self, path: str = "/") -> str:
        """Return the URL of a path."""
        scheme = "https" if self.context else "http"
        return f"{scheme}://{self.host}:{self.port}{path}"

    def serve(self, path: str, body: bytes | Download = b"", **options: Any) -> Download:
        """Answer `path` with a body, in one of MODES."""
        download = body if isinstance(body, Download) else Download(body)
        self.routes[path] = Route(download, **options)
        return download

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await self._one(reader, writer)
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass  # the client went away, which is its right
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return
        except asyncio.IncompleteReadError as error:
            raw = error.partial
            if not raw:
                return
        # Whatever follows the head in the same breath is part of what the client said.
        raw += await self._rest(reader)
        peer = writer.get_extra_info("peername") or ("?", 0)
        request = Request(self.now(), f"{peer[0]}:{peer[1]}", raw)
        self.requests.append(request)
        route = self.routes.get(request.path)
        if route is None:
            await self._send(writer, request, Answer(404, {"Content-Length": "0"}))
            return
        await self._answer(writer, request, route)

    @staticmethod
    async def _rest(reader: asyncio.StreamReader) -> bytes:
        try:
            return await asyncio.wait_for(reader.read(MAX_REQUEST), 0.02)
        except TimeoutError:
            return b""

    async def _answer(self, writer: asyncio.StreamWriter, request: Request, route: Route) -> None:
        mode = route.mode
        method = request.line.split(" ")[0]
        answer = route.download.answer(method, request.headers, self.now() + self.date_offset)
        if mode == "silent":
            await asyncio.sleep(3600)
        elif mode == "reset":
            writer.transport.abort()
        elif mode == "redirect":
            answer = Answer(route.status, {"Location": route.location, "Content-Length": "0"})
            await self._send(writer, request, answer)
        elif mode == "endless_headers":
            await self._endless(writer, request, b"HTTP/1.1 200 OK\r\n", b"X-Filler: x\r\n" * 200)
        elif mode == "endless":
            await self._endless(writer, request, b"HTTP/1.1 200 OK\r\n\r\n", _BLOCK)
        elif mode == "endless_chunked":
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            await self._endless(writer, request, head, b"1000\r\n" + _BLOCK + b"\r\n")
        elif mode == "chunked":
            await self._chunked(writer, request, answer, route.block)
        else:
            await self._body(writer, request, answer, route)

    async def _send(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> None:
        writer.write(_head(answer))
        if answer.body:
            writer.write(answer.body)
            request.sent += len(answer.body)
        await writer.drain()

    async def _body(
        self, writer: asyncio.StreamWriter, request: Request, answer: Answer, route: Route
    ) -> None:
        body = answer.body
        claimed = len(body)
        if route.mode == "truncated":
            claimed = route.length or len(body)
            body = body[: max(0, len(body) // 2)]
        answer.headers["Content-Length"] = str(claimed)
        writer.write(_head(answer))
        step = route.block if route.mode == "slow" else 65536
        for start in range(0, len(body), step):
            writer.write(body[start : start + step])
            await writer.drain()
            request.sent = min(start + step, len(body))
            if route.mode == "slow":
                await asyncio.sleep(route.seconds)

    async def _chunked(
        self, writer: asyncio.StreamWriter, request: Request, answer: Answer, block: int
    ) -> None:
        answer.headers["Transfer-Encoding"] = "chunked"
        writer.write(_head(answer))
        for start in range(0, len(answer.body), block):
            part = answer.body[start : start + block]
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            request.sent += len(part)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _endless(
        self, writer: asyncio.StreamWriter, request: Request, head: bytes, block: bytes
    ) -> None:
        writer.write(head)
        while request.sent < ENDLESS_LIMIT:
            writer.write(block)
            request.sent += len(block)
            await writer.drain()


def _head(answer: Answer) -> bytes:
    try:
        phrase = HTTPStatus(answer.status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {answer.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
