"""Publishing from a reader: messages larger than anybody wants to hold in memory.

Responsible for: checking that a QoS 1 source can be read again, and sending it through the out
buffer. Not responsible for: when it is sent (the client's queue), receiving (client.on_large).

`factory()` returns a fresh reader with `readinto(mv)` each time; for QoS 1 two of them are read
to the end at once and must give the same bytes, because a resend reads again. Loaded when used.
"""

from hashlib import sha256

from micropython import const

from .. import log
from ..errors import AzureIoTError, ConnectionDroppedError

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .client import MQTTClient

_PIECE = const(512)  # read at a time while checking
_KEPT = const(7)  # reasons of messages given up, until delivered() is asked
_MOST = const(268_000_000)  # a remaining length (MQTT section 2.2.3) with room for any topic


class Source:
    """A message that is read when it is sent."""

    def __init__(self, factory: "object", size: int, digest: "bytes | None") -> None:
        self.factory = factory
        self.size = size
        self.digest = digest


def _digest(reader: "object", size: int) -> bytes:
    """Return the digest of exactly `size` bytes. Raises ValueError for any other length."""
    hashed = sha256()
    piece = memoryview(bytearray(_PIECE))
    left = size
    try:
        while True:
            n = reader.readinto(piece)
            if not n:
                break
            left -= n
            hashed.update(piece[:n])
    finally:
        _close(reader)
    if left:
        raise ValueError("the reader gave %d bytes, not %d" % (size - left, size))
    return hashed.digest()


def _close(reader: "object") -> None:
    if hasattr(reader, "close"):
        reader.close()


async def publish(
    client: "MQTTClient", topic: str, factory: "object", size: int, qos: int, wait: bool
) -> int:
    """Accept a message from a reader; return its number. Raises ValueError, QueueFullError."""
    if qos not in (0, 1):
        raise ValueError("QoS %d: 0 or 1" % qos)
    if not 0 <= size <= _MOST:
        raise ValueError("a message of %d bytes: at most %d" % (size, _MOST))
    digest = None
    if qos:
        if not callable(factory):
            raise ValueError("QoS 1 needs a factory: a resend has to read again")
        first, second = factory(), factory()
        if first is second:
            raise ValueError("the factory gives the same reader twice")
        digest = _digest(first, size)
        if _digest(second, size) != digest:
            raise ValueError("the factory's readers differ")
    s = client.session
    while not (client._write is not None and s.room()) and not client._accepts(wait, 0):
        client._alive()
        await client._wait()
    number = s.enqueue(topic, (qos, Source(factory, size, digest)))
    client._kick()
    return number


async def send(client: "MQTTClient", job: "tuple") -> None:
    """Write one message, the only writer meanwhile."""
    topic, source, head, number = job
    s = client.session
    link = client._link
    client._write = None
    begun = False
    reader = None
    try:
        reader = source.factory() if callable(source.factory) else source.factory
        start, at = s.frame(head, topic, source.size, number)
        s._topic = None  # the body overwrites it
        out = memoryview(s._out)
        hashed = sha256()
        left = source.size
        while True:
            while at < len(out) and left:
                n = reader.readinto(out[at : at + min(left, len(out) - at)])
                if not n:
                    break
                hashed.update(out[at : at + n])
                at += n
                left -= n
            if left and at < len(out):
                raise ValueError("the reader ended %d bytes early" % left)
            if not left and source.digest is not None and hashed.digest() != source.digest:
                raise ValueError("the reader's bytes have changed")  # before the last piece
            begun = True
            await link.write(out[start:at])
            if not left:
                break
            start = at = 0
    except (AzureIoTError, MemoryError) as error:  # of the link, or of this moment
        client._cut(link, error)
    except Exception as error:  # of the reader: this message can never be completed
        s.forget(number)
        client._count("changed")
        client._given_up = client._given_up[-_KEPT:] + ((number, error),)
        log.error("mqtt: a message's reader failed: %r", error)
        if begun:  # the packet is cut
            client._drop(ConnectionDroppedError("a reader failed in a packet: %r" % error, error))
    except BaseException as error:
        client._cut(link, error)
    finally:
        if reader is not None:
            _close(reader)
    await client._release(link)
