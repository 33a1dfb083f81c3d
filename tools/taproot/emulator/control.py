"""The control API: the operations over HTTP on loopback, with a token.

Responsible for: `POST /v1/<operation>` with a JSON body, `GET /v1/status`, `GET /v1/events` as a
list or as an endless stream of lines, the token. Not for: what an operation does (`server.py`).
Errors are `{"error": "…"}` with 400 (usage), 401 (token), 404 (no such operation or device).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hmac
import json
from typing import Any

from aiohttp import web

from taproot.console import UsageFailed
from taproot.emulator.c2d import QueueFull, TooLarge
from taproot.emulator.chains import PemChain
from taproot.emulator.downloads import Download
from taproot.emulator.enrollments import Enrollment
from taproot.emulator.events import Event
from taproot.emulator.faults import FaultError
from taproot.emulator.recovery import Route
from taproot.emulator.registry import Identity, RegistryError
from taproot.emulator.server import Emulator
from taproot.emulator.telemetry import Message
from taproot.emulator.twin import TwinError

BODY_LIMIT = 1_500_000
_ENROLLMENT = {f.name for f in dataclasses.fields(Enrollment)} - {"id", "allocate", "errors"}
_SERVING = {f.name for kind in (Download, Route) for f in dataclasses.fields(kind)} - {
    "body", "download", "served", "requests",
}  # fmt: skip
_STREAM_BACKLOG = 10_000
_USAGE = (UsageFailed, FaultError, TwinError, QueueFull, TooLarge, TypeError, ValueError, KeyError)


def message_json(message: Message) -> dict[str, Any]:
    """A message as JSON: the body as text where it is UTF-8, and always as base64."""
    body: dict[str, Any] = {
        "seq": message.seq,
        "device": message.device,
        "module": message.module,
        "properties": message.properties,
        "system": message.system,
        "qos": message.qos,
        "dup": message.dup,
        "enqueued": message.enqueued,
        "transport": message.transport,
        "base64": base64.b64encode(message.body).decode(),
    }
    with contextlib.suppress(UnicodeDecodeError):
        body["text"] = message.body.decode()
    return body


class Control:
    """The HTTP server of the control API."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._streams: set[asyncio.Task[Any]] = set()
        self._operations = {
            "add_device": self._add_device,
            "credentials": self._credentials,
            "remove_device": self._plain("remove_device", "identity"),
            "twin": self._plain("twin", "identity"),
            "patch_desired": self._plain("patch_desired", "identity", "patch"),
            "patch_tags": self._plain("patch_tags", "identity", "patch"),
            "send_c2d": self._send_c2d,
            "send_input": self._send_input,
            "invoke_method": self._invoke,
            "switch_chain": self._switch_chain,
            "add_listener": self._add_listener,
            "remove_listener": self._remove_listener,
            "rotate_tickets": self._plain("rotate_tickets"),
            "bad_chain": self._plain("bad_chain", "kind", "drop?", "name?"),
            "drop": self._plain("drop", "identity?", "reset?"),
            "set_enabled": self._plain("set_enabled", "identity", "enabled"),
            "revoke": self._plain("revoke", "sha256"),
            "trust_client_root": self._plain("trust_client_root", "pem"),
            "fault": self._plain("fault", "spec"),
            "clear_faults": self._plain("clear_faults", "identity?"),
            "advance_clock": self._plain("advance_clock", "seconds"),
            "publish_file": self._publish_file,
            "set_date_offset": self._plain("set_date_offset", "seconds"),
            "recovery_requests": self._plain("recovery_requests"),
            "messages": self._messages,
            "enroll": self._enroll,
            "dps_fail": self._plain(
                "dps_fail",
                "status",
                "identity?",
                "code?",
                "message?",
                "retry_after?",
                "on?",
                "count?",
            ),
            "service_connection_string": self._plain("service_connection_string", "policy?"),
        }

    async def start(self, port: int) -> None:
        """Listen on loopback."""
        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[self._guard])
        app.router.add_get("/v1/status", self._status)
        app.router.add_get("/v1/events", self._events)
        app.router.add_post("/v1/{operation}", self._operate)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening; streams end."""
        for task in list(self._streams):
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        sent = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(
            sent.encode("utf-8", "surrogateescape"), self.emulator.control_token.encode()
        ):
            return _error(401, "the Authorization header does not carry the control token")
        try:
            return await handler(request)
        except RegistryError as error:
            return _error(error.status, str(error))
        except _USAGE as error:
            return _error(400, str(error) or type(error).__name__)

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(self.emulator.status())

    async def _operate(self, request: web.Request) -> web.Response:
        operation = self._operations.get(request.match_info["operation"])
        if operation is None:
            known = ", ".join(sorted(self._operations))
            return _error(404, f"no such operation; known are {known}")
        try:
            body = await request.json() if request.can_read_body else {}
        except ValueError:
            return _error(400, "the body is not JSON")
        if not isinstance(body, dict):
            return _error(400, "the body is not a JSON object")
        return web.json_response({"result": await operation(body)})

    def _plain(self, name: str, *parameters: str) -> Any:
        """An operation whose parameters and result are JSON already."""
        required = [p for p in parameters if not p.endswith("?")]
        known = {p.rstrip("?") for p in parameters}

        async def operate(body: dict[str, Any]) -> Any:
            _check(body, required, known)
            return getattr(self.emulator, name)(**body)

        return operate

    async def _add_device(self, body: dict[str, Any]) -> Any:
        _check(body, ["identity"], {"identity", "auth", "primary_key", "secondary_key",
                                    "thumbprints", "enabled"})  # fmt: skip
        return self._secrets(self.emulator.add_device(**body))

    async def _credentials(self, body: dict[str, Any]) -> Any:
        _check(body, ["identity"], {"identity"})
        return self._secrets(self.emulator.hub.registry.get(body["identity"]))

    @staticmethod
    def _secrets(found: Identity) -> dict[str, str]:
        return {
            "id": found.id,
            "connection_string": found.connection_string,
            "primary_key": found.primary_key,
            "secondary_key": found.secondary_key,
        }

    async def _send_c2d(self, body: dict[str, Any]) -> Any:
        _check(body, ["identity"], {"identity", "text", "base64", "properties", "ttl", "ack",
                                    "message_id"})  # fmt: skip
        data = _bytes(body)
        return self.emulator.send_c2d(
            body.pop("identity"), data, body.pop("properties", None), **body
        )

    async def _send_input(self, body: dict[str, Any]) -> Any:
        _check(body, ["identity", "name"], {"identity", "name", "text", "base64", "properties"})
        data = _bytes(body)
        return self.emulator.send_input(
            body["identity"], body["name"], data, body.get("properties")
        )

    async def _invoke(self, body: dict[str, Any]) -> Any:
        _check(body, ["identity", "name"], {"identity", "name", "payload", "timeout_s",
                                            "connect_timeout_s"})  # fmt: skip
        result = await self.emulator.invoke_method(**body)
        return {
            "hub_status": result.hub_status,
            "status": result.status,
            "payload": result.payload,
            "error": result.error,
        }

    async def _switch_chain(self, body: dict[str, Any]) -> Any:
        _check(body, ["chain_pem", "key_pem"], {"chain_pem", "key_pem", "drop", "name"})
        chain = PemChain(str(body.pop("chain_pem")), str(body.pop("key_pem")))
        return self.emulator.switch_chain(chain, **body)

    async def _add_listener(self, body: dict[str, Any]) -> Any:
        _check(body, ["chain_pem", "key_pem"], {"chain_pem", "key_pem", "port", "profile"})
        chain = PemChain(str(body.pop("chain_pem")), str(body.pop("key_pem")))
        return await self.emulator.add_listener(chain, **body)

    async def _remove_listener(self, body: dict[str, Any]) -> Any:
        _check(body, ["port"], {"port"})
        await self.emulator.remove_listener(**body)

    async def _publish_file(self, body: dict[str, Any]) -> Any:
        _check(body, ["name"], {"name", "text", "base64", "https", *_SERVING})
        data = _bytes(body)
        return await self.emulator.publish_file(str(body.pop("name")), data, **body)

    async def _messages(self, body: dict[str, Any]) -> Any:
        _check(body, [], {"identity", "since"})
        found = self.emulator.hub.messages.of(body.get("identity"), int(body.get("since", 0)))
        return [message_json(message) for message in found]

    async def _enroll(self, body: dict[str, Any]) -> Any:
        _check(body, ["identity"], {"identity", *_ENROLLMENT})
        found = self.emulator.enroll(body.pop("identity"), **body)
        return {"id": found.id, "group": found.group}

    async def _events(self, request: web.Request) -> web.StreamResponse:
        since = int(request.query.get("since", "0"))
        if request.query.get("follow") not in ("1", "true"):
            return web.json_response({"events": self.emulator.recorder.since(since)})
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        queue: asyncio.Queue[Event] = asyncio.Queue(_STREAM_BACKLOG)

        def keep(event: Event) -> None:
            if queue.full():  # a reader that does not keep up loses the oldest
                queue.get_nowait()
            queue.put_nowait(event)

        for event in self.emulator.recorder.since(since):
            keep(event)
        stop = self.emulator.recorder.watch(keep)
        try:
            while True:
                await response.write(json.dumps(await queue.get()).encode() + b"\n")
        finally:
            stop()
            self._streams.discard(task)


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


def _check(body: dict[str, Any], required: list[str], known: set[str]) -> None:
    for name in required:
        if name not in body:
            raise ValueError(f"'{name}' is missing")
    unknown = sorted(set(body) - known)
    if unknown:
        raise ValueError(f"unknown member '{unknown[0]}'; known are {', '.join(sorted(known))}")


def _bytes(body: dict[str, Any]) -> bytes:
    if ("text" in body) == ("base64" in body):
        raise ValueError("give either 'text' or 'base64'")
    if "text" in body:
        return str(body.pop("text")).encode()
    return base64.b64decode(str(body.pop("base64")), validate=True)
