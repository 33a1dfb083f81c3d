# Runs on MicroPython against the scripted server of test_link.py, over plain TCP.
# Arguments: case port. Prints lines that the test looks at.
import asyncio
import io
import sys

from azure_iot.backoff import Backoff
from azure_iot.deadlines import Deadlines
from azure_iot.mqtt.client import MQTTClient
from azure_iot.transport import open_tcp

CASE, PORT = sys.argv[1], int(sys.argv[2])
LIMITS = Deadlines(
    tcp_ms=1000, connack_ms=1000, suback_ms=1000, puback_ms=1000, pingresp_ms=1000,
    packet_ms=1000, write_ms=1000,
)  # fmt: skip


async def opener():
    return await open_tcp("127.0.0.1", PORT, deadlines=LIMITS)


def make(**more):
    options = {"deadlines": LIMITS, "backoff": Backoff(50, 5000, lambda n: n // 2)}
    options.update(more)
    return MQTTClient(opener, "dev1", **options)


async def started(**more):
    client = make(**more)
    await client.start()
    await client.connected_once(5)
    return client


async def through(client):
    """One more message: the client still works."""
    await asyncio.wait_for(client.delivered(await client.publish("a/end", b"end")), 5)
    print("DONE", client.stats.get("drops", 0))
    await client.stop()


async def case_ids():
    # QoS 0 messages after SUBSCRIBE and SUBACK, which have ids of their own
    client = await started()
    client.on_message = lambda topic, payload, qos, pid: print("MSG", bytes(payload), qos, pid)
    for name in ("a/b", "a/c"):
        await client.subscribe(name, 0)
        await asyncio.sleep_ms(300)
    await through(client)


def failing(kind):
    # a factory that is right when it is checked and wrong when the message is sent
    calls = [0]

    def factory():
        calls[0] += 1
        if calls[0] > 2:
            if kind == "raises":
                raise OSError(2)
            if kind == "typeless":
                return object()
            if kind == "changed":
                return io.BytesIO(b"y" * 10000)
        return io.BytesIO(b"x" * 10000)

    return factory


async def case_readers():
    client = await started()
    for kind in ("raises", "typeless", "changed"):
        number = await client.publish_stream("a/s", failing(kind), 10000)
        try:
            await asyncio.wait_for(client.delivered(number), 5)
            print(kind, "DELIVERED")
        except Exception as error:
            print(kind, type(error).__name__, error)
    for wrong in (-1, 1 << 28):
        try:
            await client.publish_stream("a/s", lambda: io.BytesIO(b""), wrong, 0)
        except ValueError as error:
            print("REFUSED", error)
    await through(client)


async def case_drop_at_subscribe():
    client = await started()
    await client.subscribe("a/b", 1)
    await client.subscribe("a/c", 1)
    await client.reconnect()
    await asyncio.sleep(3)
    print("DONE", client.stats["connects"])
    await client.stop()


async def case_refused():
    client = await started()
    await client.subscribe("a/b", 1)
    await client.reconnect()
    while client.stats["connects"] < 2 or "refused" not in client.stats:
        await asyncio.sleep_ms(20)
    print("REFUSED", client.stats["refused"])
    await through(client)


async def case_bad_after_connack():
    client = make()
    await client.start()
    await asyncio.sleep(4)
    print("DONE", client.stats["connects"], client._backoff.attempts)
    await client.stop()


async def case_stop_in_handler():
    client = await started()
    stopped = asyncio.Event()

    async def handler(topic, payload, qos, pid):
        await client.stop()
        print("STOPPED", client.connected.is_set())
        if topic == "a/again":
            await client.start()
        stopped.set()

    client.on_message = handler
    await client.subscribe("a/b", 0)
    await stopped.wait()
    await asyncio.sleep(1)
    print("CONNECTS", client.stats["connects"])
    client.on_message = None
    await client.start()
    await client.connected_once(5)
    await asyncio.sleep(1)
    print("CONNECTS", client.stats["connects"])
    await through(client)


async def case_stop_in_hook():
    client = await started()

    async def hook(error):
        await client.stop()

    client.on_disconnected = hook
    await client.reconnect()
    await asyncio.sleep(1)
    print("CONNECTS", client.stats["connects"], client.connected.is_set())
    client.on_disconnected = None
    await client.start()
    await client.connected_once(5)
    await through(client)


async def case_cancelled_stop():
    client = await started()
    task = asyncio.create_task(client.stop())
    await asyncio.sleep_ms(0)
    task.cancel()
    await task
    await client.start()
    await client.connected_once(5)
    await through(client)


async def case_slow_handler():
    # two messages in one read; the handler of the first takes longer than any deadline, and a
    # message of ours is in flight meanwhile
    client = await started(keepalive_s=8)
    seen = []

    async def handler(topic, payload, qos, pid):
        await asyncio.sleep(4)
        seen.append(bytes(payload))

    client.on_message = handler
    await client.subscribe("a/b", 0)
    await client.publish("a/x", b"in flight")
    while len(seen) < 2:
        await asyncio.sleep_ms(50)
    print("SEEN", seen)
    await through(client)


def refusals():
    for wrong in (
        {"keepalive_s": 70000}, {"will": ("a/#", b"x", 1, False)}, {"window": 0},
        {"will": ("a", b"x", 3, False)}, {"max_pending": -1}, {"max_pending": 40000},
    ):  # fmt: skip
        try:
            make(**wrong)
            print("ACCEPTED", wrong)
        except (ValueError, TypeError):
            continue


async def case_mistakes():
    refusals()
    client = await started()
    for qos in (2, 3, -1):
        for work in (
            client.publish("a/b", b"payload", qos),
            client.subscribe("a/b", qos),
            client.publish_stream("a/b", lambda: io.BytesIO(b"x"), 1, qos),
        ):
            try:
                await work
                print("ACCEPTED", qos)
            except ValueError:
                continue
    await through(client)


asyncio.run(globals()["case_" + CASE]())
