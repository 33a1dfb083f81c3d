# Runs on MicroPython: pauses, deadlines and evictions of the client in virtual time, with the
# ticks of a device (30 bits). Argument: a case. Prints lines that test_time.py looks at.
import asyncio
import sys

from azure_iot import clock
from azure_iot.deadlines import Deadlines
from azure_iot.errors import ConnectionDroppedError
from azure_iot.mqtt.client import MQTTClient
from azure_iot.mqtt.receiving import CONNACK

PERIOD = 1 << 30
# from zero, with the wrap early, in the middle and late in what is waited for
STARTS = (0, PERIOD - 1, PERIOD - 300, PERIOD - 9000, PERIOD - 19900)


class Time:
    now = sleeps = 0


really = asyncio.sleep_ms


async def sleep_ms(ms):
    Time.now += ms
    Time.sleeps += 1
    if Time.sleeps > 20000:
        raise RuntimeError("waits for ever")
    await really(0)


asyncio.sleep_ms = sleep_ms
clock.ticks_ms = lambda: Time.now % PERIOD
clock.ticks_diff = lambda a, b: (a - b + PERIOD // 2) % PERIOD - PERIOD // 2
clock.ticks_add = lambda a, b: (a + b) % PERIOD


class Link:
    def write_some(self, data):
        return len(data)

    async def close(self):
        pass


def make(**more):
    return MQTTClient(None, "dev1", buffer_in=64, buffer_out=64, deadlines=Deadlines(), **more)


async def wait(what):
    """How long a wait lasts, from every start."""
    for start in STARTS:
        Time.now = start
        client = make()
        if what == "pause":
            client._backoff.next = lambda: 20000
            client._backoff.attempts = 1
            await client._pause()
            print(Time.now - start)
            continue
        said = []
        client._drop = said.append
        client._link = Link()
        client._write = client._link.write_some
        s = client.session
        s.space[:4] = b"\x20\x02\0\0"
        s.next(4)
        if what == "puback":
            s.publish("a/b", b"x", 1)
        await client._watch()
        print(Time.now - start, said[0])


async def twin(lasts):
    """Links that the peer closes after so many milliseconds, and the pause after each.

    The ticks wrap within the third one.
    """
    lasts = [int(text) for text in lasts.split(",")]
    Time.now = PERIOD - sum(lasts[:2]) - lasts[2] // 2
    client = make(fleet_size_hint=1)
    client._task = asyncio.current_task()
    for ms in lasts:
        client._link = Link()
        client.session.code = 0
        client._event(CONNACK)
        Time.now += ms
        await client._down(ConnectionDroppedError("closed by the peer"))
        print(client._backoff.next(), client.last_error)


async def fleet(size):
    """First pauses of a thousand devices of a fleet."""
    client = make(fleet_size_hint=int(size))
    for _ in range(1000):
        client._backoff.reset()
        print(client._backoff.next())


word, _, rest = sys.argv[1].partition("=")
asyncio.run({"wait": wait, "twin": twin, "fleet": fleet}[word](rest))
