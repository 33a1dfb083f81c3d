# One program for every figure of `taproot bench mqtt`: connect, count a loop, print.
# Arguments: mode qos payload n host port root.der user password [plain]
# Counters bracket the loop only: callgrind through putenv/unsetenv, heap through mem_alloc.
import asyncio
import gc
import io
import os
import socket
import sys
import time

import tls
from azure_iot.deadlines import Deadlines
from azure_iot.mqtt.receiving import CHUNK, MESSAGE

MODE, QOS, SIZE, N = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
HOST, PORT, (ROOT, USER, PASSWORD) = sys.argv[5], int(sys.argv[6]), sys.argv[7:10]
PLAIN = sys.argv[10:] == ["plain"]
TOPIC = "devices/dev1/messages/events/"
PAYLOAD = bytes(SIZE)


HEAP = MODE.endswith("heap")


class Counter:
    # allocates nothing between the two looks at the heap
    def __init__(self):
        self.heap = self.time = 0

    def __enter__(self):
        if HEAP:
            gc.collect()
            gc.collect()
            gc.disable()
        self.time = time.ticks_us()
        os.putenv("CG", "1")
        if HEAP:
            self.heap = gc.mem_alloc()

    def __exit__(self, kind=None, error=None, trace=None):
        if HEAP:
            self.heap = gc.mem_alloc() - self.heap
        os.unsetenv("CG")
        print("RESULT", self.heap, time.ticks_diff(time.ticks_us(), self.time))


class Counted(io.IOBase):
    # a socket that counts what TLS writes into it
    writes = calls = 0

    def __init__(self, sock):
        self.write_on, self.readinto, self.close = sock.write, sock.readinto, sock.close

    def write(self, data):
        Counted.writes += 1
        return self.write_on(data)

    def ioctl(self, request, argument):
        return argument if request == 3 else 0  # poll: always ready, so that the handshake looks


def raw_socket():
    sock = socket.socket()
    sock.setsockopt(6, 1, 1)
    sock.connect(socket.getaddrinfo(HOST, PORT)[0][-1])
    return sock


def context():
    found = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    with open(ROOT, "rb") as file:
        found.load_verify_locations(file.read())
    return found


def blocking():
    sock = raw_socket()
    if PLAIN:
        return sock
    return context().wrap_socket(sock, server_hostname="localhost")


def connect(stream, client_id):
    from azure_iot.mqtt import packet

    stream.write(packet.connect(client_id, 60, True, USER, PASSWORD, None))
    reply = stream.read(4)
    if reply != b" \x02\0\0":
        raise ValueError("CONNACK %r" % reply)


def publish_packet():
    body = bytes([0, len(TOPIC)]) + TOPIC.encode() + (b"\0\1" if QOS else b"") + PAYLOAD
    size, head = len(body), bytearray([0x32 if QOS else 0x30])
    while True:
        head.append(size & 127 | (128 if size > 127 else 0))
        size >>= 7
        if not size:
            return bytes(head) + body


def floor_publish():
    stream = blocking()
    connect(stream, "floor")
    out, ack = publish_packet(), bytearray(4)
    for _ in range(2):
        write_all(stream, out)
        if QOS:
            stream.readinto(ack)
    with Counter():
        if QOS:
            for _ in range(N):
                stream.write(out)
                stream.readinto(ack)
        else:
            for _ in range(N):
                stream.write(out)
    done(stream)


def write_all(stream, out):
    stream.write(out)


def done(stream):
    # one more QoS 1 publish: its PUBACK says that everything before was taken
    stream.write(b"\x32\x07\0\x03end\xff\xff")
    stream.read(4)
    stream.close()


def subscribe(stream, topic):
    from azure_iot.mqtt import packet

    stream.write(packet.subscribe(1, topic, QOS))
    stream.read(5)
    print("READY")


def floor_receive():
    stream = blocking()
    connect(stream, "floor")
    subscribe(stream, TOPIC)
    size = len(publish_packet())
    data = memoryview(bytearray(size))
    ack = bytearray(b"\x40\x02\0\0")
    at = size - SIZE - 2

    def once():
        n = 0
        while n < size:
            n += stream.readinto(data[n:] if n else data)
        if QOS:
            ack[2], ack[3] = data[at], data[at + 1]
            stream.write(ack)

    once()
    once()
    with Counter():
        if SIZE < 16000:
            if QOS:
                for _ in range(N):
                    stream.readinto(data)
                    ack[2] = data[at]
                    ack[3] = data[at + 1]
                    stream.write(ack)
            else:
                for _ in range(N):
                    stream.readinto(data)
        else:
            for _ in range(N):
                once()
    stream.close()


BUFFER = 4096


def new_session(buffer_in=BUFFER):
    from azure_iot.mqtt.session import Session

    session = Session(buffer_in=buffer_in, buffer_out=BUFFER, window=16, clean=True)
    session.space[:4] = b" \x02\0\0"
    session.next(4)
    return session


def core_publish():
    # the protocol path: session and the transport's own methods, no event loop. As the floor it
    # reads from a blocking socket just what it waits for: the in buffer holds one PUBACK.
    stream = blocking()
    connect(stream, "core")
    s = new_session(4)
    send_counted(s, 2, stream.write, stream.readinto, False)
    send_counted(s, N, stream.write, stream.readinto, True)
    done(stream)


def send_counted(s, n, write, read, counted):
    # few names, so that this frame does not come from the heap it measures
    counter = Counter()
    publish, take = s.publish, s.next
    topic, payload, qos = TOPIC, PAYLOAD, QOS
    if counted:
        counter.__enter__()
    while n:
        n -= 1
        if write(publish(topic, payload, qos)) != s.due:
            write(s.rest)
            s.rest = None
        if qos:
            take(read(s.space))
    if counted:
        counter.__exit__()


def part(which):
    # single steps of the protocol path, without any socket
    s = new_session()
    ack = bytearray(b"\x40\x02\0\0")
    message = publish_packet()
    publish, take, space, n = s.publish, s.next, s.space, N
    topic, payload, qos = TOPIC, PAYLOAD, QOS
    for _ in range(2):
        publish(topic, payload, qos)
        s.tail = s.sent
        space[: len(message)] = message
        take(len(message))
    with Counter():
        if which == "publish":
            while n:
                n -= 1
                publish(topic, payload, qos)
                s.tail = s.sent
        elif which == "ack":
            while n:
                n -= 1
                s.sent = s.tail + 1
                ack[2] = s.sent >> 8
                ack[3] = s.sent & 255
                space[:4] = ack
                take(4)
        else:
            while n:
                n -= 1
                take(len(message))


def core_receive():
    # as the floor: a blocking socket, and one message per read because the buffer holds one
    stream = blocking()
    connect(stream, "core")
    subscribe(stream, TOPIC)
    size = len(publish_packet())
    s = new_session(size // 4 if MODE == "core.chunks" else size)
    take_counted(s, 3, stream.write, stream.readinto, False)
    take_counted(s, N, stream.write, stream.readinto, True)
    stream.close()


def take_counted(s, n, write, read, counted):
    counter = Counter()
    take = s.next
    if counted:
        counter.__enter__()
    while n:
        event = take(read(s.space))
        while event:
            if event == MESSAGE or event == CHUNK and not s.left:
                n -= 1
                if s.qos:
                    write(s.ack)
            event = take() if s.more else 0
    if counted:
        counter.__exit__()


class Bare:
    """The smallest asyncio client: pre-built packet, own reader task, one Event, no parsing."""

    def __init__(self, stream, raw):
        self.raw = raw
        self.write, self.read = stream.write, stream.readinto
        self.out = publish_packet()
        self.flying = 0
        self.event = asyncio.Event()

    async def publish(self):
        self.write(self.out)
        self.flying += 1

    async def reader(self):
        data = bytearray(64)
        while True:
            n = self.read(data)
            if n:
                self.flying -= n >> 2
            else:
                self.event.set()
                await readable(self.raw)

    async def below(self, n):
        while self.flying >= n:
            self.event.clear()
            await self.event.wait()


def readable(sock):
    yield asyncio.core._io_queue.queue_read(sock)


async def bare(window):
    raw = raw_socket()
    stream = context().wrap_socket(raw, server_hostname="localhost")
    connect(stream, "bare")
    raw.setblocking(False)
    client = Bare(stream, raw)
    reader = asyncio.create_task(client.reader())

    async def send(n):
        for _ in range(n):
            await client.publish()
            if client.flying >= window:
                await client.below(window)
        await client.below(1)

    await send(20)
    work = send(N)  # what is counted is the messages, not this coroutine
    with Counter():
        await work
    reader.cancel()
    stream.close()


def peer():
    # a client of somebody else's, from the folder in the last argument, on our TLS context
    class Verified:
        @staticmethod
        def wrap_socket(sock, **_):
            return context().wrap_socket(sock, server_hostname="localhost")

    sys.modules["ussl"] = Verified  # what old versions import; new ones take a context
    sys.path.insert(0, sys.argv[10])
    name = MODE.split("+")[0].split(".")[1]
    module = getattr(__import__("umqtt." + name), name)
    client = module.MQTTClient("peer", HOST, PORT, USER, PASSWORD, 60, ssl=Verified)
    client.connect()
    publish = client.publish
    for _ in range(2):
        publish(TOPIC, PAYLOAD, False, QOS)
    with Counter():
        for _ in range(N):
            publish(TOPIC, PAYLOAD, False, QOS)
    client.publish(TOPIC, b"end", False, 1)
    client.disconnect()


async def held(window):
    # what a session of that window holds while all of it is in flight, payloads of 64 B included
    from azure_iot.mqtt.session import Session

    before = used()
    s = Session(buffer_in=BUFFER, buffer_out=BUFFER, window=window, clean=True)
    s.space[:4] = b" \x02\0\0"
    s.next(4)
    for _ in range(window):
        s.publish(TOPIC, bytes(SIZE), 1)
    print("RESULT", used() - before - 2 * BUFFER, 0)


def sas_token(direct):
    import binascii
    from hashlib import sha256

    from azure_iot import sas

    key = b"0123456789abcdef0123456789abcdef"
    resource = "myhub.azure-devices.net%2Fdevices%2Fdevice-0001"

    def straight():
        inner, outer = bytearray(b"\x36" * 64), bytearray(b"\x5c" * 64)
        for i in range(len(key)):
            inner[i] ^= key[i]
            outer[i] ^= key[i]
        hashed = sha256(inner)
        hashed.update("%s\n%d" % (resource, 1900000000))
        last = sha256(outer)
        last.update(hashed.digest())
        text = binascii.b2a_base64(last.digest(), newline=False).decode()
        text = text.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
        return "SharedAccessSignature sr=%s&sig=%s&se=%d" % (resource, text, 1900000000)

    def ours():
        return sas.token(resource, 1900000000, lambda data: sas.hmac_sha256(key, data))

    if straight() != ours():
        raise ValueError("the two tokens differ")
    work = straight if direct else ours
    with Counter():
        for _ in range(N):
            work()


class Context:
    def __init__(self):
        self._context = context()

    def wrap(self, sock, host):
        if WRITES:
            sock = Counted(sock)
        return self._context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)

    def explain(self, error):
        return error


WRITES = MODE.endswith("writes")
CONTEXT = Context() if not PLAIN and MODE.startswith(("aio", "ram")) else None


async def opener():
    from azure_iot.transport import open_tcp, open_tls

    if PLAIN:
        return await open_tcp(HOST, PORT, deadlines=DEADLINES)
    found = await open_tls("localhost", PORT, CONTEXT, deadlines=DEADLINES)
    if WRITES:
        write = found.write_some

        def counted(data):
            Counted.calls += 1
            return write(data)

        found.write_some = counted
    return found


DEADLINES = Deadlines()


def new_client(window=16):
    from azure_iot.mqtt.client import MQTTClient

    return MQTTClient(
        opener,
        "aio",
        credentials=(USER, PASSWORD),
        window=window,
        clean_session=True,
        buffer_in=BUFFER,
        buffer_out=BUFFER,
        deadlines=DEADLINES,
    )


async def aio_publish(one_by_one, window=16):
    client = new_client(window)
    await client.start()
    await client.connected_once(20)

    async def send(n):
        number = 0
        if one_by_one:
            for _ in range(n):
                number = await client.publish(TOPIC, PAYLOAD, QOS)
                await client.delivered(number)
        else:
            for _ in range(n):
                number = await client.publish(TOPIC, PAYLOAD, QOS)
            if QOS:
                await client.delivered(number)

    await send(20)
    calls, writes = Counted.calls, Counted.writes
    work = send(N)  # what is counted is the messages, not this coroutine
    with Counter():
        await work
    print("WRITES", Counted.calls - calls, Counted.writes - writes)
    await client.delivered(await client.publish(TOPIC, b"end"))
    await client.stop()


async def aio_receive():
    client = new_client()
    seen = [0]
    over = asyncio.Event()
    counter = Counter()

    def take(topic, payload, qos, pid):
        seen[0] += 1
        if seen[0] == 3:
            counter.__enter__()
        if seen[0] == N + 3:
            counter.__exit__()
            over.set()

    client.on_message = take
    await client.start()
    await client.connected_once(20)
    await client.subscribe(TOPIC, QOS)
    print("READY")
    await over.wait()
    await client.stop()


def used():
    gc.collect()
    gc.collect()
    return gc.mem_alloc()


async def ram():
    # the client's own heap: everything between an open transport and a connected client
    import azure_iot.mqtt.client
    import azure_iot.transport

    await asyncio.sleep_ms(1)
    asyncio.Event()  # asyncio loads it at first use: a matter of import, as mqtt.import.heap
    transport = await opener()
    await transport.close()
    del transport
    before = used()
    transport = await opener()
    socket_only = used() - before
    await transport.close()
    del transport
    before = used()
    client = new_client(8)
    made = used() - before - 2 * BUFFER
    await client.start()
    await client.connected_once(20)
    await asyncio.sleep_ms(300)
    total = used() - before - socket_only - 2 * BUFFER
    print("RESULT", total, socket_only)
    if MODE.endswith("+parts"):
        parts(client, made, total)
    await client.stop()


def parts(client, made, total):
    # each built once more by itself; a copy of an attribute table is as large as the table
    from azure_iot.mqtt.session import Session

    def size(make):
        before = used()
        kept = make()
        return used() - before, kept

    session, kept = size(lambda: Session(buffer_in=client.session._in, buffer_out=kept_buffer))
    own, _ = size(lambda: dict(kept.__dict__))
    print("PART session:_attributes", own)
    print("PART session:_ring,_ages,_views", session - own)
    own, _ = size(lambda: dict(client.__dict__))
    print("PART client:_attributes", own)
    print("PART client:_events,_backoff,_tables", made - session - own)
    print("PART tasks_and_frames_of_the_link", total - made)


kept_buffer = bytearray(64)


def import_ram():
    import binascii
    import struct

    from azure_iot import errors, log

    asyncio.Lock, asyncio.Event
    before = used()
    import azure_iot.mqtt.client

    print("RESULT", used() - before, 0)


def steps():
    # what a call of the client takes from the heap before it has done anything
    client = new_client()
    for name, make in (
        ("publish()", lambda: client.publish(TOPIC, PAYLOAD, QOS)),
        ("delivered()", lambda: client.delivered(0)),
    ):
        before = used()
        kept = make()
        print("PART", name, used() - before)
        kept.close()
        kept = None


def leak():
    with Counter():
        for _ in range(N):
            object()  # one block of the heap


MODES = {
    "floor.pub": floor_publish,
    "floor.recv": floor_receive,
    "core.pub": core_publish,
    "core.recv": core_receive,
    "core.chunks": core_receive,
    "aio.pub": lambda: asyncio.run(aio_publish(False)),
    "aio.one": lambda: asyncio.run(aio_publish(True)),
    "aio.recv": lambda: asyncio.run(aio_receive()),
    "part.publish": lambda: part("publish"),
    "part.ack": lambda: part("ack"),
    "part.message": lambda: part("message"),
    "aio.win": lambda: asyncio.run(aio_publish(False, int(MODE.split("+")[1]))),
    "held": lambda: asyncio.run(held(int(MODE.split("+")[1]))),
    "peer.simple": peer,
    "peer.robust": peer,
    "bare.pub": lambda: asyncio.run(bare(16)),
    "bare.one": lambda: asyncio.run(bare(1)),
    "sas.direct": lambda: sas_token(True),
    "sas.token": lambda: sas_token(False),
    "ram": lambda: asyncio.run(ram()),
    "steps": steps,
    "leak": leak,
    "import": import_ram,
}
if MODE.startswith("none"):
    pause = time.sleep_ms
    with Counter():
        for _ in range(N):
            pause(2)
else:
    MODES[MODE.split("+")[0]]()
