"""The ready-made device: configuration, network, time, trust, identity, connection, watchdog.

Responsible for: bringing the parts up in the right order and keeping them up. Not for: ports (a
`platform` object brings them), what the device does (the `app` coroutine).
Source: contracts.md section 5 (`platform`), T1 to T10 (host_tests/trust/requirements.toml).

A whole `main.py`:

    import asyncio
    from azure_iot.agent import Agent
    from azure_iot.unix.platform import Platform        # on a board: azure_iot.esp32.platform

    async def app(client):
        while True:
            await client.send_message({"t": 21.5})
            await asyncio.sleep(60)

    asyncio.run(Agent(Platform("device.json")).run(app))

`device.json` (or the dict given to Platform):

    connection_string   a device's connection string, or instead:
    dps                 {"id_scope": …, "registration_id": …, "key": …}, and where they are not the
                        public cloud's: "cloud": "us-government" or "china", or "host"; "port"
    certificate, key    paths of PEM or DER files, for x509=true or DPS with X.509
    trust_folder        where the trust store lives ("/trust")
    factory_folder      a folder with keyset.jws, bundle.jws, build_date; without it the frozen
                        module trust_factory is used
    roots               list of paths of DER files: no trust store, roots fixed for ever
    channels            ways of trust packages beside the twin: "method", "inbox", "c2d"
                        (default method and inbox)
    update_agent        false: the desired property `trust` is ignored (default true)
    client              options of IoTHubDeviceClient: {"port": 8883, "sas_life_s": 3600, …}

More control, the same parts (what a drill's device program uses):

    agent = Agent(Platform(config))
    client = await agent.start()     # network, time, trust, identity; connects in the background
    agent.trust.report(); client.stats; client.on_event = lambda name, fact: …
    await client.send_message(b"1", wait=False)     # accepted even while there is no connection
    await agent.stop()
"""

import asyncio
import gc

from micropython import const

from . import log
from .core import randbelow
from .errors import lacks_memory
from .forever import forever
from .transient import forget

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import IoTHubDeviceClient

_FEED_MS = const(1000)
_NETWORK_PAUSE_MS = const(2000)
_MOST_SHORT = const(8)  # attempts since the last connection; usually some three minutes
_RENAMED_S = const(300)  # between starts; DPS may give another name every time
# Collecting after every 8 KiB keeps what lives long together at the start of the heap. Without it
# the allocator walks through all of it first, and no block is left for TLS's input buffer.
_GC_THRESHOLD = const(8192)


class Agent:
    """One device on one platform; `trust` and `client` exist after `start()`."""

    def __init__(self, platform: object) -> None:
        self.platform = platform
        self.clock = platform.clock
        self.trust = None
        self.client = None
        self._short = 0  # attempts at DPS that failed for lack of memory
        self._feeder = None
        self.upkeep = None

    async def start(self) -> "IoTHubDeviceClient":
        """Bring everything up and begin to connect; return the client.

        Raises CredentialError in words for what the configuration gets wrong.
        """
        from . import bringup

        platform = self.platform
        config = platform.config
        bringup.check(config)
        gc.collect()
        gc.threshold(_GC_THRESHOLD)
        self._feeder = asyncio.create_task(forever(self._feed))
        options = dict(config.get("client", {}))
        options["clock"] = self.clock
        options["sync_time"] = platform.sync_time
        if "roots" in config:
            options["roots"] = [bringup.read_file(path) for path in config["roots"]]
        else:
            options["trust"] = self.trust = bringup.open_trust(
                config, self.clock, getattr(self.platform, "mirror", None)
            )
            options["update_agent"] = config.get("update_agent", True)
        await self._network_up()
        await self._set_time()
        self.client = await bringup.make_client(config, options, platform.kv, self._failed)
        forget("azure_iot.bringup")
        if self.trust is not None and self.trust.managed:
            from .upkeep import Upkeep

            # Without the update agent only what somebody does by hand, and recovery, remain.
            channels = ("method", "inbox") if options["update_agent"] else ("inbox",)
            self.upkeep = Upkeep(
                self.client,
                self.trust,
                randbelow,
                channels=config.get("channels", channels),
                deadlines=options.get("deadlines"),
            )
            self.upkeep.start()
        await self.client.start()
        return self.client

    async def run(self, app: "Callable") -> None:
        """Start, run `await app(client)` to its end, stop. The client connects meanwhile."""
        client = await self.start()
        try:
            await app(client)
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Disconnect and end the tasks."""
        if self.upkeep is not None:
            self.upkeep.stop()
            self.upkeep = None
        if self.client is not None:
            await self.client.disconnect()
        if self._feeder is not None:
            self._feeder.cancel()
            self._feeder = None

    def _failed(self, error: Exception) -> None:
        self._short += lacks_memory(error)

    async def _feed(self) -> None:
        seconds = 0
        while True:
            self.platform.feed()
            client = self.client
            short = self._short
            if client is not None:
                if client.connected.is_set():
                    self._short = 0
                short += client.short_of_memory
            why = ""
            if short >= _MOST_SHORT:
                # Nothing moves objects on this heap: only a new start makes one piece of it again.
                why = "no memory for a connection, %d times" % _MOST_SHORT
            elif client is not None and client.renamed and seconds >= _RENAMED_S:
                why = "DPS gave another name"
            if why:
                log.error("starting anew: %s", why)
                self.platform.reset()
            seconds += 1
            await asyncio.sleep_ms(_FEED_MS)

    async def _network_up(self) -> None:
        """Wait for the network: after a power cut an access point starts slower than a device."""
        while True:
            try:
                await self.platform.network_up()
                return
            except Exception as error:
                log.warning("no network yet: %r", error)
            await asyncio.sleep_ms(_NETWORK_PAUSE_MS)

    async def _set_time(self) -> None:
        """Set the clock, never below what is proven to have passed (T2, T3)."""
        floor = self.trust.time_floor() if self.trust is not None else 0
        self.clock.start(floor)
        try:
            offered = await self.platform.sync_time()
        except Exception as error:
            log.warning("the time could not be synchronised: %r", error)
            return
        if offered is not None and not self.clock.offer(offered, floor):
            log.warning("the time server is behind the floor: ignored")
