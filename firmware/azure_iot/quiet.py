"""A hub client without its connection for a while, where one heap does not hold both.

Responsible for: closing it, keeping it closed, letting it come back. Not for: what the room is
needed for (managed.py). Loaded when it is used.
"""

import asyncio
import gc

from micropython import const

from . import log

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .link import HubLink
    from .mqtt.client import MQTTClient


class Quiet:
    """The time in which the hub's connection is closed, so that its memory serves something else."""

    def __init__(self, link: "HubLink", mqtt: "MQTTClient") -> None:
        self._link = link
        self._mqtt = mqtt

    async def __aenter__(self) -> "Quiet":
        log.info("no connection to the hub for a while: its memory is needed")
        self._link.held += 1
        try:
            await self._mqtt.reconnect()
            while self._mqtt.connected.is_set():
                await asyncio.sleep_ms(20)
            self._link.hold()
            gc.collect()
        except BaseException:  # then nobody calls __aexit__
            self._link.held -= 1
            raise
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._link.held -= 1
