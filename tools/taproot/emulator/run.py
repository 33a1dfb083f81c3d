"""`running(config)`: the emulator in a thread of its own, for tests, drills and scripts.

Responsible for: the thread, its loop, and calling the operations of `server.Emulator` from any
thread. Not for: the operations themselves.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from taproot.emulator.chains import Certificate
from taproot.emulator.config import EmulatorConfig
from taproot.emulator.methods import MethodResult
from taproot.emulator.recovery import RecoveryServer
from taproot.emulator.registry import Identity
from taproot.emulator.server import Emulator
from taproot.emulator.telemetry import Message

_LIMIT = 60.0


class Running:
    """A running emulator. Attributes never change; every method may be called from any thread."""

    def __init__(self, emulator: Emulator, loop: asyncio.AbstractEventLoop) -> None:
        self.emulator, self._loop = emulator, loop
        self.host = emulator.hub.hosts[0]
        self.mqtt_port = emulator.mqtt.port
        self.https_port: int | None = emulator.https_port
        self.plain_port: int | None = emulator.plain_port
        self.control_url: str = emulator.control_url
        self.control_token = emulator.control_token
        self.root_pem = emulator.root_pem

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function, or a coroutine function, in the emulator's loop and return its result."""

        async def run() -> Any:
            result = function(*args, **kwargs)
            return await result if asyncio.iscoroutine(result) else result

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        return future.result(
            kwargs.get("timeout_s", 0) + kwargs.get("connect_timeout_s", 0) + _LIMIT
        )

    def add_device(self, identity: str, **facts: Any) -> Identity:
        """Register a device (`d`) or module (`d/m`); see `Registry.add`."""
        return self.call(self.emulator.add_device, identity, **facts)

    def remove_device(self, identity: str) -> None:
        """Remove a device or module."""
        self.call(self.emulator.remove_device, identity)

    def enroll(self, identity: str, **facts: Any) -> Any:
        """Add a DPS enrolment; see `Enrollment`."""
        return self.call(self.emulator.enroll, identity, **facts)

    def dps_fail(self, identity: str | None = None, **facts: Any) -> None:
        """Let DPS answer the next requests with an error; see `dps.Failure`."""
        self.call(self.emulator.dps_fail, identity, **facts)

    def service_connection_string(self, policy: str = "iothubowner") -> str:
        """Return what a service connects with."""
        return self.call(self.emulator.service_connection_string, policy)

    def twin(self, identity: str) -> dict[str, Any]:
        """Return the twin as a service reads it."""
        return self.call(self.emulator.twin, identity)

    def patch_desired(self, identity: str, patch: Any) -> int:
        """Merge desired properties; return the new version."""
        return self.call(self.emulator.patch_desired, identity, patch)

    def patch_tags(self, identity: str, patch: Any) -> None:
        """Merge tags."""
        self.call(self.emulator.patch_tags, identity, patch)

    def send_c2d(
        self,
        identity: str,
        body: bytes | str,
        properties: dict[str, Any] | None = None,
        **how: Any,
    ) -> str:
        """Queue a cloud-to-device message; return its id."""
        return self.call(self.emulator.send_c2d, identity, body, properties, **how)

    def send_input(
        self, identity: str, name: str, body: bytes | str, properties: dict[str, Any] | None = None
    ) -> bool:
        """Send a message to an input of a module; False when it does not listen."""
        return self.call(self.emulator.send_input, identity, name, body, properties)

    def invoke_method(
        self, identity: str, name: str, payload: Any = None, timeout_s: float = 30.0,
        connect_timeout_s: float = 0.0,
    ) -> MethodResult:  # fmt: skip
        """Call a direct method and wait for the answer."""
        return self.call(
            self.emulator.invoke_method, identity, name, payload, timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
        )  # fmt: skip

    def switch_chain(
        self, *chains: Certificate, drop: bool = True, name: str | None = None
    ) -> int:
        """Show other chains from the next handshake on."""
        return self.call(self.emulator.switch_chain, *chains, drop=drop, name=name)

    def bad_chain(self, kind: str, drop: bool = True, name: str | None = None) -> int:
        """Show a wrong chain (`badchains.KINDS`), or the good one again with "none"."""
        return self.call(self.emulator.bad_chain, kind, drop=drop, name=name)

    def rotate_tickets(self) -> None:
        """Forget the ticket keys."""
        self.call(self.emulator.rotate_tickets)

    def add_listener(self, *chains: Certificate, port: int = 0, profile: str | None = None) -> int:
        """Open another MQTT port with chains of its own; return it."""
        return self.call(self.emulator.add_listener, *chains, port=port, profile=profile)

    def remove_listener(self, port: int) -> None:
        """Close it again."""
        self.call(self.emulator.remove_listener, port)

    def drop(self, identity: str | None = None, reset: bool = True) -> int:
        """Drop a device's connection, or all."""
        return self.call(self.emulator.drop, identity, reset=reset)

    def fault(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Set a fault (`faults.ACTIONS`)."""
        return self.call(self.emulator.fault, spec)

    def clear_faults(self, identity: str | None = None) -> int:
        """Forget faults that still wait."""
        return self.call(self.emulator.clear_faults, identity)

    def set_enabled(self, identity: str, enabled: bool) -> None:
        """Enable or disable a device."""
        self.call(self.emulator.set_enabled, identity, enabled)

    def messages(self, identity: str | None = None, since: int = 0) -> list[Message]:
        """Return recorded telemetry."""
        return self.call(self.emulator.hub.messages.of, identity, since)

    def events(self, since: int = 0) -> list[dict[str, Any]]:
        """Return recorded events."""
        return self.call(self.emulator.recorder.since, since)

    def advance_clock(self, seconds: float) -> None:
        """Move the emulator's clock."""
        self.call(self.emulator.advance_clock, seconds)

    def publish_file(self, name: str, data: bytes, **how: Any) -> str:
        """Serve a file; return its URL."""
        return self.call(self.emulator.publish_file, name, data, **how)

    def set_date_offset(self, seconds: float) -> None:
        """Let every HTTP answer carry a wrong Date."""
        self.call(self.emulator.set_date_offset, seconds)

    def recovery_requests(self) -> list[dict[str, Any]]:
        """Return what the plain HTTP listener was asked, byte for byte."""
        return self.call(self.emulator.recovery_requests)

    def recovery_over_tls(self, chain: Certificate) -> RecoveryServer:
        """Start an https server beside the recovery listener; see `RecoveryServer`."""
        return self.call(self.emulator.recovery_over_tls, chain)

    def status(self) -> dict[str, Any]:
        """Return what `taproot emulator status` shows."""
        return self.call(self.emulator.status)

    def wait_for(
        self, test: Callable[[dict[str, Any]], bool], since: int = 0, limit: float = 10.0
    ) -> dict[str, Any]:
        """Return the first event after `since` for which `test` holds; raise TimeoutError."""

        async def wait() -> dict[str, Any]:
            for event in self.emulator.recorder.since(since):
                if test(event):
                    return event
            found: asyncio.Future[dict[str, Any]] = self._loop.create_future()

            def look(event: dict[str, Any]) -> None:
                if not found.done() and test(event):
                    found.set_result(event)

            stop = self.emulator.recorder.watch(look)
            try:
                return await asyncio.wait_for(found, limit)
            finally:
                stop()

        try:
            return asyncio.run_coroutine_threadsafe(wait(), self._loop).result(limit + 10)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no such event within {limit:g} s") from None


@contextmanager
def running(config: EmulatorConfig | None = None) -> Iterator[Running]:
    """Run the emulator in a thread for the length of a `with` block.

    Raises RuntimeError at the end of the block when the emulator itself has failed meanwhile.
    """
    loop = asyncio.new_event_loop()
    emulator = Emulator(config)
    thread = threading.Thread(target=loop.run_forever, name="taproot-emulator", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(emulator.start(), loop).result(_LIMIT)
        yield Running(emulator, loop)
    finally:
        try:
            asyncio.run_coroutine_threadsafe(emulator.stop(), loop).result(_LIMIT)
            asyncio.run_coroutine_threadsafe(_finish(), loop).result(_LIMIT)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()
    if emulator.internal_errors:
        raise RuntimeError(f"the emulator failed inside: {emulator.internal_errors[0]}")


async def _finish() -> None:
    """Let what has been aborted end."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
