# Runs on MicroPython against the hostile server: what the asyncio client promises.
# Arguments: case port root.der. Prints lines that test_client.py looks at.
import asyncio
import gc
import sys
from hashlib import sha256

from azure_iot.backoff import Backoff
from azure_iot.deadlines import Deadlines
from azure_iot.errors import AzureIoTError, ConnectionDroppedError, QueueFullError
from azure_iot.inbox import Inbox
from azure_iot.mqtt.client import MQTTClient
from azure_iot.tls.context import TLSContext
from azure_iot.transport import open_tls

CASE, PORT = sys.argv[1], int(sys.argv[2])
with open(sys.argv[3], "rb") as file:
    CONTEXT = TLSContext([file.read()])
LIMITS = Deadlines(
    tcp_ms=2000, tls_ms=2000, connack_ms=2000, suback_ms=2000, puback_ms=2000, packet_ms=2000,
    write_ms=2000,
)  # fmt: skip
BUFFER = 2048


async def opener():
    transport = await open_tls("localhost", PORT, CONTEXT, deadlines=LIMITS)
    if CASE == "cancel":  # SO_SNDBUF: a full socket in the middle of most packets
        transport.raw.setsockopt(1, 7, 4096)
    return transport


def make(**more):
    options = {"buffer_in": BUFFER, "buffer_out": BUFFER, "deadlines": LIMITS}
    options["backoff"] = Backoff(20, 200, lambda n: n // 2)
    options.update(more)
    return MQTTClient(opener, "dev1", **options)


async def started(**more):
    client = make(**more)
    await client.start()
    await client.connected_once(10)
    return client


class Bytes:
    """A reader over a pattern, without holding it."""

    def __init__(self, size, seed=0, watch=None):
        self.left, self.at, self.watch = size, seed, watch

    def readinto(self, view):
        n = min(len(view), self.left)
        for i in range(n):
            view[i] = (self.at + i) & 255
        self.at += n
        self.left -= n
        if self.watch is not None:
            self.watch.look()
        return n


class Heap:
    """The most heap that was alive at any look, over the start."""

    def __init__(self):
        gc.collect()
        gc.collect()
        self.base = gc.mem_alloc()
        self.most = 0

    def look(self):
        gc.collect()
        self.most = max(self.most, gc.mem_alloc() - self.base)


async def case_cancel():
    # A task that publishes, subscribes and waits is cancelled after k passes of the loop, for
    # every k; then the same client must still bring a message through.
    client = await started()
    big = bytes(30000)

    async def work(k):
        await client.publish("t/big", big)
        await client.subscribe("a/%d" % k)
        number = await client.publish("t/small", b"work %d" % k)
        await client.delivered(number)
        await client.publish("t/big", big, 0)
        await client.unsubscribe("a/%d" % k)

    for k in range(60):
        task = asyncio.create_task(work(k))
        for _ in range(k):
            await asyncio.sleep_ms(0 if k < 30 else 1)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        number = await client.publish("t/after", b"after %d" % k)
        await asyncio.wait_for(client.delivered(number), 10)
    print("DONE", client.stats.get("drops", 0))
    await client.stop()


async def case_cancel_connect():
    for k in range(40):
        client = make()
        await client.start()
        task = asyncio.create_task(client.connected_once(10))
        for _ in range(k):
            await asyncio.sleep_ms(1)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        await client.stop()
    client = await started()
    await client.delivered(await client.publish("a/b", b"after"))
    await client.stop()
    print("DONE")


async def case_ownership():
    client = await started()
    for bad in (bytearray(b"x"), memoryview(b"x")):
        try:
            await client.publish("a/b", bad)
        except TypeError as error:
            print("REFUSED", error)
    text = b"by reference"
    client.session.window = 0  # keeps it in the queue
    await client.publish("a/b", text, wait=False)
    print("SAME", client.session._ring[client.session.tail & client.session._mask] is text)
    changing = bytearray(b"as it was")
    await client.publish("a/b", changing, copy=True, wait=False)
    changing[0] = 0
    client.session.window = 8
    client._notify()
    number = await client.publish("a/b", "ä text")
    await client.delivered(number)
    print("DONE")
    await client.stop()


async def case_queue():
    client = make(max_pending=10, max_pending_bytes=1000)
    for i in range(10):
        await client.publish("a/b", b"q%02d" % i)
    try:
        await client.publish("a/b", b"too many", wait=False)
    except QueueFullError as error:
        print("FULL", error)
    other = make(max_pending_bytes=100)
    await other.publish("a/b", bytes(90))
    try:
        await other.publish("a/b", bytes(20), wait=False)
    except QueueFullError:
        print("FULL bytes")
    await client.start()
    number = await client.publish("a/b", b"q10")  # waits for room
    await client.delivered(number)
    print("DONE", client.stats["pending"])
    await client.stop()


async def case_stream():
    client = await started()
    await client.publish_stream("a/q0", lambda: Bytes(10), 10, 0)  # loads the module
    size = 200000
    heap = Heap()
    number = await client.publish_stream("a/b", lambda: Bytes(size, 0, heap), size)
    await client.delivered(number)
    heap.look()
    print("HEAP", heap.most, 2 * BUFFER)
    hashed = sha256()
    piece = memoryview(bytearray(500))
    reader = Bytes(size)
    while True:
        n = reader.readinto(piece)
        if not n:
            break
        hashed.update(piece[:n])
    print("SHA", hashed.digest().hex())
    same = Bytes(10)
    seeds = [0]

    def changing():
        seeds[0] += 1
        return Bytes(10, seeds[0])

    for wrong in (same, lambda: same, changing, lambda: Bytes(9), lambda: Bytes(11)):
        try:
            await client.publish_stream("a/b", wrong, 10)
        except ValueError as error:
            print("REFUSED", error)
    await client.publish_stream("a/q0", Bytes(5000), 5000, 0)
    number = await client.publish("a/b", b"end")
    await client.delivered(number)
    print("DONE", client.stats.get("drops", 0), client.stats["resent"])
    await client.stop()


class Sink:
    def __init__(self, heap):
        self.heap, self.n = heap, 0
        self.hashed = sha256()

    def write(self, view):
        self.n += len(view)
        self.hashed.update(view)
        self.heap.look()

    def close(self):
        print("SINK", self.n, self.hashed.digest().hex())

    def abort(self):
        print("ABORT", self.n)


async def case_large():
    client = await started()
    over = asyncio.Event()
    heap = Heap()
    client.on_large = lambda topic, size, qos, pid: Sink(heap)
    client.on_message = lambda topic, payload, qos, pid: over.set()
    await client.subscribe("a/#")
    await asyncio.wait_for(over.wait(), 10)
    print("HEAP", heap.most, 2 * BUFFER)
    print("DONE", client.stats.get("drops", 0))
    await client.stop()


async def case_handler():
    client = await started()
    over = asyncio.Event()
    calls = []

    def message(topic, payload, qos, pid):
        calls.append(bytes(payload))
        if len(calls) == 1:
            raise ValueError("not now")
        over.set()

    client.on_message = message
    await client.subscribe("a/#")
    await asyncio.sleep_ms(500)
    print("ERRORS", client.stats.get("handler_errors", 0))
    await client.reconnect()
    await asyncio.wait_for(over.wait(), 10)
    await asyncio.sleep_ms(100)

    async def slow(topic, payload, qos, pid):
        await asyncio.sleep_ms(20)
        try:
            await client.delivered(await client.publish("a/b", b"from the handler"))
        except RuntimeError as error:
            print("RUNTIME", error)
        calls.append(bytes(payload))

    client.on_message = slow
    await client.reconnect()
    await asyncio.sleep_ms(800)
    print("DONE", len(calls))
    await client.stop()


async def case_later():
    # a handler that returns False has its message acknowledged when it says so
    client = await started()
    held = []

    def message(topic, payload, qos, pid):
        held.append(pid)
        return False

    client.on_message = message
    await client.subscribe("a/#")
    while not held:
        await asyncio.sleep_ms(10)
    await asyncio.sleep_ms(100)
    print("ERRORS", client.stats.get("handler_errors", 0))
    await client.publish("a/b", b"before")
    client.acknowledge(held[0])
    await client.delivered(await client.publish("a/b", b"after"))
    await client.stop()
    print("DONE", len(held))


async def case_inbox():
    inbox = Inbox(3)
    for i in range(5):
        inbox.put(i)
    print("DROPS", inbox.drops, len(inbox))
    got = []

    async def read():
        async for item in inbox:
            got.append(item)

    task = asyncio.create_task(read())
    await asyncio.sleep_ms(1)
    inbox.put(9)
    await asyncio.sleep_ms(1)
    inbox.close()
    await task
    print("DONE", got)


async def case_stop():
    # everybody who waits hears of stop(); what was accepted goes out after the next start()
    client = await started()
    client.session.window = 0
    number = await client.publish("a/b", b"kept", wait=False)
    waiter = asyncio.create_task(client.delivered(number))
    await asyncio.sleep_ms(20)
    await client.stop()
    try:
        await waiter
    except ConnectionDroppedError as error:
        print("WAITER", error)
    client.session.window = 8
    await client.start()
    await client.connected_once(10)
    await client.delivered(number)
    print("DONE")
    await client.stop()


async def case_stray():
    client = make()
    await client.start()
    await client.connected_once(10)
    # What wait_for does to its waiter when there is no memory for its result.
    client._task.cancel()
    while client.last_error is None:
        await asyncio.sleep_ms(5)
    print("ERROR", client.last_error)
    await client.delivered(await client.publish("a/b", b"after"))
    await client.stop()
    print("DONE")


async def one_run(client):
    await client.start()
    await client.connected_once(10)
    await client.delivered(await client.publish("a/b", b"run"))
    raise KeyboardInterrupt  # as Ctrl-C at the REPL: no stop(), tasks left behind


def case_repl():
    client = make()
    for _ in range(3):
        try:
            asyncio.run(one_run(client))
        except KeyboardInterrupt:
            print("INTERRUPTED")
        asyncio.new_event_loop()
    print("DONE")


work = globals()["case_" + CASE]
try:
    if CASE == "repl":
        work()
    else:
        asyncio.run(work())
except AzureIoTError as error:
    print("ERROR", type(error).__name__, error)
    raise
