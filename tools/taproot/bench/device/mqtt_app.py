# The application of the fault matrix, the same for every scenario (runs on MicroPython).
# Argument: a JSON file (see OPTIONS). Prints UP, P n, C payload, E class text, DONE, STATS.
import asyncio
import gc
import json
import sys
import time

import azure_iot.mqtt.client as mqtt
import azure_iot.mqtt.connection as link
from azure_iot import clock
from azure_iot.backoff import Backoff
from azure_iot.deadlines import Deadlines
from azure_iot.errors import AzureIoTError
from azure_iot.tls.context import TLSContext
from azure_iot.transport import open_tls

OPTIONS = {
    "kind": "pub",  # pub, sub, idle, both
    "n": 3,
    "port": 0,
    "root": "",
    "client_id": "dev1",
    "user": None,
    "password": None,
    "cert": None,
    "key": None,
    "keepalive": 60,
    "deadline_ms": 1000,
    "interval_ms": 30,
    "seconds": 20,
    "qos": 1,
    "size": 0,
    "clean": False,
    "window": 8,
    "buffer": 4096,
    "maximum_ms": 2000,
    "minimum_ms": 100,
    "expect": 0,  # messages to receive before DONE
    "clock": "",  # jump, wrap (the ticks wrap in the first link's middle, then in the pause)
    "first_id": 0,
    "idle_s": 0,
    "until": 0,  # different messages to receive before DONE
    "max_pending_bytes": 65536,
}
with open(sys.argv[1]) as options:
    OPTIONS.update(json.load(options))
CHOSEN = OPTIONS


class Credential:
    pass


def context():
    with open(CHOSEN["root"], "rb") as file:
        root = file.read()
    credential = None
    if CHOSEN["cert"]:
        credential = Credential()
        with open(CHOSEN["cert"], "rb") as file:
            credential.cert = file.read()
        with open(CHOSEN["key"], "rb") as file:
            credential.key = file.read()
    return TLSContext([root], credential=credential)


def say(*words):
    print(*words)


class Ticks:
    """Ticks of a device: 30 bits. They wrap when `wrap_in` says, once nobody holds old ones."""

    def __init__(self):
        self.real, self.offset = clock.ticks_ms, 0
        clock.ticks_ms = self.now
        clock.ticks_diff = lambda a, b: (a - b + PERIOD // 2) % PERIOD - PERIOD // 2
        clock.ticks_add = lambda a, b: (a + b) % PERIOD

    def now(self):
        return (self.real() + self.offset) % PERIOD

    def wrap_in(self, ms):
        self.offset = PERIOD - ms - self.real()


PERIOD = 1 << 30


class Beat:
    """A task that wants to run every 100 ms; `worst` is its longest pause."""

    worst = 0

    async def run(self):
        then = asyncio.core.ticks()
        while True:
            await asyncio.sleep_ms(100)
            now = asyncio.core.ticks()
            self.worst = max(self.worst, asyncio.core.ticks_diff(now, then))
            then = now


def deadlines():
    ms = CHOSEN["deadline_ms"]
    return Deadlines(
        tcp_ms=ms, tls_ms=ms, connack_ms=ms, suback_ms=ms, puback_ms=ms, pingresp_ms=ms,
        packet_ms=ms, write_ms=ms,
    )  # fmt: skip


class App:
    def __init__(self):
        limits = deadlines()
        tls = context()
        self.ticks = Ticks() if CHOSEN["clock"] == "wrap" else None
        self.up = self.down = time.ticks_ms()
        self.lasted, self.paused = [], []  # milliseconds of each link, and before the next one

        async def opener():
            found = await open_tls("localhost", CHOSEN["port"], tls, deadlines=limits)
            if self.ticks is not None and not self.lasted:
                self.ticks.wrap_in(CHOSEN["deadline_ms"] // 2)
            return found

        random = link._random
        if self.ticks is not None:

            def random(n):  # the longest pause
                return n - 1

        self.client = mqtt.MQTTClient(
            opener,
            CHOSEN["client_id"],
            credentials=(CHOSEN["user"], CHOSEN["password"]),
            keepalive_s=CHOSEN["keepalive"],
            clean_session=CHOSEN["clean"],
            window=CHOSEN["window"],
            buffer_in=CHOSEN["buffer"],
            buffer_out=CHOSEN["buffer"],
            max_pending_bytes=CHOSEN["max_pending_bytes"],
            deadlines=limits,
            backoff=Backoff(CHOSEN["minimum_ms"], CHOSEN["maximum_ms"], random),
        )
        session = self.client.session
        session.tail = session.sent = CHOSEN["first_id"]
        self.got = 0
        self.kinds = set()
        self.hits = 0
        self.over = asyncio.Event()
        self.subscribed = asyncio.Event()
        self.client.on_message = self.message
        self.client.on_connected = self.connected
        self.client.on_disconnected = self.disconnected
        self.client.on_connect_failed = self.error

    def error(self, error):
        say("E", type(error).__name__, str(error).replace("\n", " "))

    def connected(self, present):
        self.up = time.ticks_ms()
        self.paused.append(time.ticks_diff(self.up, self.down))
        say("UP", int(present))

    def disconnected(self, error):
        self.down = time.ticks_ms()
        self.lasted.append(time.ticks_diff(self.down, self.up))
        if self.ticks is not None:
            self.ticks.wrap_in(CHOSEN["minimum_ms"] // 2)
        self.error(error)

    def message(self, topic, payload, qos, pid):
        self.got += 1
        if CHOSEN["until"]:
            self.kinds.add(bytes(payload))
            if len(self.kinds) == CHOSEN["until"]:
                self.over.set()
        say("C", str(payload[:20], "utf-8"), len(payload), qos)
        if payload == b"end" or self.got == CHOSEN["expect"]:
            self.over.set()

    async def publish(self):
        number = 0
        if CHOSEN["kind"] == "both":
            await self.subscribed.wait()
        for i in range(CHOSEN["n"]):
            text = "m%04d" % i
            payload = text + "." * max(0, CHOSEN["size"] - len(text))
            number = await self.client.publish(
                "devices/dev1/messages/events/", payload, CHOSEN["qos"]
            )
            say("P", i)
            if CHOSEN["interval_ms"]:
                await asyncio.sleep_ms(CHOSEN["interval_ms"])
            if CHOSEN["clock"] == "jump" and i in (2, 4):
                clock.set_time(clock.unix_time() + (86400 if i == 2 else -2 * 86400))
        if CHOSEN["qos"] and CHOSEN["n"]:
            await self.client.delivered(number)
        say("ALL")

    async def subscribe(self):
        try:
            await self.client.subscribe("devices/dev1/messages/devicebound/#", 1)
            say("SUBACK")
            self.subscribed.set()
        except AzureIoTError as error:
            self.error(error)

    async def main(self):
        beat = Beat()
        tasks = [asyncio.create_task(beat.run())]
        await self.client.start()
        try:
            if CHOSEN["kind"] != "pub":
                tasks.append(asyncio.create_task(self.subscribe()))
            work = None
            if CHOSEN["kind"] in ("pub", "both"):
                work = asyncio.create_task(self.publish())
            await asyncio.wait_for(self.finish(work), CHOSEN["seconds"])
            say("DONE")
        except asyncio.TimeoutError:
            say("TIMEOUT")
        gc.collect()
        stats = self.client.stats
        stats["beat"] = beat.worst
        stats["heap"] = gc.mem_alloc()
        stats["lasted"], stats["paused"] = self.lasted, self.paused
        stats["last_error"] = str(self.client.last_error or "")
        await self.client.stop()
        for task in tasks:
            task.cancel()
        say("STATS", json.dumps(stats))

    async def finish(self, work):
        if work is not None:
            await work
        if CHOSEN["kind"] in ("sub", "both"):
            await self.over.wait()
        if CHOSEN["idle_s"]:
            await asyncio.sleep(CHOSEN["idle_s"])


asyncio.run(App().main())
