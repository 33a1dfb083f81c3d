"""The trust side of a hub client: packages named in the twin, reports, reconnecting on trial.

Responsible for: reacting to the trust store's changes and to the desired property `trust`, the
reported sections, closing the connection where memory is short. Not for: judging packages
(trust/), downloading (updater.py), other channels (upkeep.py).
"""

import asyncio
import json
from hashlib import sha256

from micropython import const

from . import hub, log
from .core import HubConnection, randbelow
from .errors import TrustError
from .transient import Transient, forget

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .quiet import Quiet
    from .twin import DesiredChange

_AGAIN_MS = const(60000)
_UPDATING = const((
    "azure_iot.updater", "azure_iot.https", "azure_iot.trust.files", "azure_iot.trust.sources",
))  # fmt: skip


class ManagedConnection(HubConnection):
    """A connection whose trusted roots can be replaced while it lives."""

    def _begin_trust(self, update_agent: bool) -> None:
        self._updater = None
        self._wishes = ({}, "", None)  # what an updater leaves to the next one
        self._follows = self.trust is not None and update_agent
        if self.trust is not None:
            self.trust.on_change = self._on_trust_change
            if update_agent:
                self._use_twin().listeners.append(self._on_desired)

    def _start_trust(self) -> None:
        if self._updater is not None:
            self._tasks.append(asyncio.create_task(self._update()))

    async def _after_settled(self) -> None:
        """Report a proven time; reconnect when a bundle on trial is due."""
        if self.trust is None:
            return
        await self._try_report()
        attempt = self._link.attempt
        due = self.trust.trial_due_ms()
        if attempt is not None and not attempt.is_trial and due is not None:
            await asyncio.sleep_ms(due)
            self._reconnect_soon("a bundle on trial is due")

    def _on_large(self, topic: str, size: int, qos: int, pid: int) -> "object | None":
        """Keep a package in the twin out of memory; the rest goes on as it is."""
        if self._follows:
            kind = hub.parse(topic, self._base)[0]
            if kind in (hub.TWIN_RESULT, hub.DESIRED):
                from .desired import DesiredFilter

                def deliver(body: bytearray) -> "object | None":
                    forget("azure_iot.desired")
                    return self._on_message(topic, body, qos, pid)

                self.trust.store.make_folder()
                return DesiredFilter(self.trust.store.path, deliver)
        return super()._on_large(topic, size, qos, pid)

    def _on_desired(self, change: "DesiredChange") -> None:
        """Give the member `trust` to the updater, which is loaded for it."""
        if self._updater is None:
            if "trust" not in change.patch:
                return
            from .updater import Updater

            self._updater = Updater(
                self.trust, randbelow, self._wishes, profile=self._link.profile
            )
            self._updater.on_result = self._report_soon
            self._updater.client = self
            self._tasks = [task for task in self._tasks if not task.done()]
            self._tasks.append(asyncio.create_task(self._update()))
        self._updater.on_desired(change)

    async def _update(self) -> None:
        """Let the updater do its work, then let go of it and of all that it needed."""
        again = False
        try:
            await self._updater.run()
        except BaseException as error:  # flash, memory, disconnect()
            self._twin.version = None  # the next connection brings the wish again
            if not isinstance(error, Exception) and asyncio.current_task() not in self._tasks:
                raise
            again = True
            log.error("trust package: %r", error)
        self._wishes = self._updater.wishes
        self._updater = None
        forget(*_UPDATING)
        if again:  # a device with a certificate may keep this connection for months
            await asyncio.sleep_ms(_AGAIN_MS)
            await self._refresh_twin()

    async def install_package(self, source: object, channel: str) -> int:
        """Install a trust package; where memory is short, with the hub's connection closed.

        Raises RefusedError.
        """
        try:
            return self.trust.install(source, channel)
        except TrustError as error:
            if error.code != "MEMORY":
                raise
        async with self.quiet():
            source.seek(0)
            return self.trust.install(source, channel)

    def quiet(self) -> "Quiet":
        """Close the connection and keep it closed: `async with client.quiet(): …`."""
        from .quiet import Quiet

        return Quiet(self._link, self._mqtt)

    async def answer_method(self, rid: str, status: int, body: dict) -> None:
        """Answer the direct method call `rid`."""
        topic = hub.method_response_topic(status, rid)
        await self._mqtt.publish(topic, json.dumps(body), 1)

    def want(self, name: str) -> None:
        """Subscribe to one more of the hub's filters, for upkeep.py."""
        self._want(name)

    def want_c2d(self) -> None:
        """Subscribe to cloud-to-device messages, for upkeep.py."""
        self._want(hub.c2d_filter(self._base))

    def retry_soon(self) -> None:
        """Connect now, or anew: new roots are here, or a package waits at the hub."""
        self._reconnect_soon("there is something new")

    def report_soon(self) -> None:
        """Send what changed of the reported sections, if connected."""
        self._report_soon()

    def _report_soon(self) -> None:
        if self.connected.is_set():
            asyncio.create_task(self._try_report())

    async def _try_report(self) -> None:
        try:
            await self._report()
        except Exception as error:
            log.warning("report not sent: %r", error)

    async def _report(self) -> None:
        """Send the sections trust, tls and clock if they changed (contracts.md section 1)."""
        with Transient():
            from .report import sections

            body = json.dumps(sections(self.trust, self._link.facts, self.clock)).encode()
        digest = sha256(body).digest()
        if digest != self._reported:
            await self._use_twin().patch(body)
            self._reported = digest

    def _on_trust_change(self, reason: str) -> None:
        log.info("trust: %s", reason)
        if reason == "staged":
            self._reconnect_soon("a bundle is on trial")
        elif reason == "distrust" and self.trust.must_close():
            self._reconnect_soon("the root of this connection is distrusted")
        else:
            self._report_soon()
