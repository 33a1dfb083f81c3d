"""What runs on each device of a drill: MicroPython, with the frozen azure_iot package.

Reads `device.json` from its folder, connects, sends numbered messages all the time and prints
one JSON object per line:

    {"ev": "accepted", "n": 12, "up": true}            send_message took the message
    {"ev": "connected", "outage_ms": 180}              CONNACK 0; 0 for the first connection
    {"ev": "disconnected", "text": "…"}   {"ev": "refused", "name": "UNTRUSTED", "text": "…"}
    {"ev": "failed", "text": "…"}                      no connection, for another reason
    {"ev": "trust", "reason": "staged", "state": "trial", "version": 1}
    {"ev": "heap", "used": …, "peak": …, "tls_peak": …, "largest": …}   {"ev": "quiet"}

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


class Device:
    def __init__(self, config):
        self.config = config
        self.agent = Agent(Platform(config))
        self.client = None
        self.quiet = False
        self.stopped = asyncio.Event()
        self.peak = 0
        self.went = None

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
        number = self.config["first_number"]
        while not self.quiet:
            up = self.client.connected.is_set()
            try:
                await self.client.send_message(json.dumps({"n": number}), wait=False)
                say("accepted", n=number, up=up)
                number += 1
            except QueueFullError:
                pass  # the number is tried again: nothing was accepted
            await asyncio.sleep_ms(self.config["telemetry_ms"])
        say("quiet")

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
        tasks = [
            asyncio.create_task(work)
            for work in (self.telemetry(), self.commands(), self.watch_heap())
        ]
        await self.stopped.wait()
        for task in tasks:
            task.cancel()
        await self.agent.stop()


log.set_level(log.INFO)
log.set_sink(lambda text: print(text, file=sys.stderr))
with open("device.json") as file:
    asyncio.run(Device(json.load(file)).run())
