"""What runs on each device of a drill: MicroPython, with the frozen azure_iot package.

Reads `device.json` from its folder, connects, sends numbered messages all the time and prints
one JSON object per line:

    {"ev": "accepted", "n": 12, "up": true}            send_message took the message
    {"ev": "connected", "outage_ms": 180}              CONNACK 0; 0 for the first connection
    {"ev": "disconnected", "text": "…"}   {"ev": "refused", "name": "UNTRUSTED", "text": "…"}
    {"ev": "failed", "text": "…"}                      no connection, for another reason
    {"ev": "trust", "reason": "staged", "state": "trial", "version": 1}
    {"ev": "heap", "used": …, "peak": …, "tls_peak": …, "largest": …}   {"ev": "quiet"}

Numbers that the hub has acknowledged are kept in `confirmed`, as an application would that must
not lose data in a power cut: after a restart it goes on behind the last of them.
One line on stdin, `quiet`, ends the telemetry; `stop` ends the program.
"""

import asyncio
import gc
import json
import sys
import time

import tlsopt
from azure_iot import log
from azure_iot.agent import Agent
from azure_iot.errors import QueueFullError, TrustError
from azure_iot.unix.platform import Platform

SAMPLE_MS = 500


def say(ev, **facts):
    facts["ev"] = ev
    print(json.dumps(facts))


class FastClock:
    """A clock whose ticks run faster, for rules that wait a quarter of an hour."""

    def __init__(self, clock, speed):
        self._clock = clock
        self._speed = speed

    def __getattr__(self, name):
        return getattr(self._clock, name)

    def ticks_ms(self):
        return self._clock.ticks_ms() * self._speed % (1 << 29)

    def ticks_diff(self, a, b):
        return (a - b + (1 << 28)) % (1 << 29) - (1 << 28)


class Device:
    def __init__(self, config):
        self.config = config
        self.agent = Agent(Platform(config))
        self.client = None
        self.quiet = False
        self.stopped = asyncio.Event()
        self.peak = 0
        self.went = None
        self.waiting = []

    def on_event(self, name, fact):
        if name == "connected":
            outage = 0 if self.went is None else time.ticks_diff(time.ticks_ms(), self.went)
            self.went = None
            say("connected", outage_ms=outage)
        elif name == "disconnected":
            self.went = time.ticks_ms()
            say("disconnected", text=str(fact))
        elif name == "connect_failed":
            if isinstance(fact, TrustError):
                say("refused", name=fact.code, text=str(fact))
            else:
                say("failed", text=str(fact))

    def follow_trust(self):
        inner = self.agent.trust.on_change

        def changed(reason):
            report = self.agent.trust.report()
            say("trust", reason=reason, state=report["state"], version=report["version"])
            inner(reason)

        self.agent.trust.on_change = changed

    async def telemetry(self):
        number = first_number()
        while not self.quiet:
            up = self.client.connected.is_set()
            try:
                sent = await self.client.send_message(json.dumps({"n": number}), wait=False)
                say("accepted", n=number, up=up)
                self.waiting.append((number, sent))
                number += 1
            except QueueFullError:
                pass  # the number is tried again: nothing was accepted
            await asyncio.sleep_ms(self.config["telemetry_ms"])
        say("quiet")

    async def confirm(self):
        while True:
            while not self.waiting:
                await asyncio.sleep_ms(50)
            number, sent = self.waiting[0]
            await self.client.delivered(sent)
            self.waiting.pop(0)
            note_confirmed(number)

    async def commands(self):
        reader = asyncio.StreamReader(sys.stdin)
        while not self.stopped.is_set():
            word = (await reader.readline()).decode().strip()
            if word == "quiet":
                self.quiet = True
            elif word in ("stop", ""):
                self.stopped.set()

    async def watch_heap(self):
        while True:
            gc.collect()
            used = gc.mem_alloc()
            self.peak = max(self.peak, used)
            _, tls_peak, largest, _ = tlsopt.mem()
            say("heap", used=used, peak=self.peak, tls_peak=tls_peak, largest=largest)
            await asyncio.sleep_ms(SAMPLE_MS)

    async def run(self):
        self.client = await self.agent.start()
        self.client.on_event = self.on_event
        self.follow_trust()
        if "clock_speed" in self.config:
            trust = self.agent.trust
            trust.clock = FastClock(trust.clock, self.config["clock_speed"])
        tasks = [
            asyncio.create_task(work)
            for work in (self.telemetry(), self.confirm(), self.commands(), self.watch_heap())
        ]
        await self.stopped.wait()
        for task in tasks:
            task.cancel()
        await self.agent.stop()


def note_confirmed(number):
    with open("confirmed", "w") as file:
        file.write("%8d\n" % number)


def first_number():
    """The number after the last one confirmed; a record cut in the middle counts as none."""
    try:
        with open("confirmed") as file:
            text = file.read()
    except OSError:
        return 0
    return int(text) + 1 if len(text) == 9 and text.endswith("\n") else 0


log.set_level(log.INFO)
log.set_sink(lambda text: print(text, file=sys.stderr))
with open("device.json") as file:
    asyncio.run(Device(json.load(file)).run())
