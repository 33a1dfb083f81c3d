"""Byte streams over TLS or plain TCP that never block the event loop and never wait for ever.

Responsible for: name lookup with the last good address as fallback, TCP connect, TLS handshake,
reading, writing and closing under deadlines, and turning OSError and ValueError into the
package's errors. Not responsible for: roots, verification and verdicts (the context), MQTT.

`getaddrinfo` blocks on every port and cannot be bounded: it runs at most once per attempt. A TLS
link is polled through its raw socket, after the TLS object was read until it gave None: decrypted
bytes may wait inside it, and polling the TLS object itself costs 1 ms per look on unix.

    transport = await open_tls("hub.example", 8883, context)
    await transport.write(b"…"); n = await transport.read_into(buffer); await transport.close()

`context.wrap(sock, host)` gives a TLS socket that does its handshake on first use, and
`context.explain(error)` the typed error for an exception of the tls module.
"""

import asyncio
import socket
import time

from micropython import const

from .deadlines import Deadlines
from .errors import (
    AzureIoTError,
    ConnectionDroppedError,
    ConnectionFailedError,
    ProtocolError,
)

try:
    from tlsopt import established as _established
except ImportError:  # stock firmware, or a module without it
    _established = None

_IPPROTO_TCP = const(6)
_TCP_NODELAY = const(1)
_KEPT_ADDRESSES = const(4)
_BLOCKED = "(is port 8883 blocked? websocket=True uses 443)"

_addresses = {}  # (host, port) -> last address that a connection came about with


def _readable(sock: "object") -> "object":
    """Wait until `sock` can be read (or has failed); one task at a time."""
    yield asyncio.core._io_queue.queue_read(sock)  # type: ignore[attr-defined]


def _writable(sock: "object") -> "object":
    """Wait until `sock` can be written (or has failed); one task at a time."""
    yield asyncio.core._io_queue.queue_write(sock)  # type: ignore[attr-defined]


class Waitable:
    """Can be awaited any number of times, by any task, and allocates nothing for it.

    `begin(what)` puts the running task where something will wake it.
    """

    def __init__(self, begin: "object", what: "object") -> None:
        self._begin = begin
        self._what = what
        self._end = StopIteration()
        self._queued = False

    def __iter__(self) -> "Waitable":
        self._queued = False  # the next __next__ is this wait's first: no other task runs between
        return self

    def __next__(self) -> None:
        if self._queued:
            self._end.__traceback__ = None  # type: ignore[assignment]  # or it grows each time
            raise self._end
        self._queued = True
        self._begin(self._what)


async def _forever(waiter: "object", sock: "object") -> None:
    await waiter(sock)


async def _wait(waiter: "object", sock: "object", ms: int) -> None:
    """Wait with a limit, for the slow paths: `wait_for` makes a task each time."""
    await asyncio.wait_for_ms(_forever(waiter, sock), ms)


class Transport:
    """One open connection. `tls` is its TLS socket (None for plain TCP).

    `read_some` and `write_some` are the stream's own methods, which never wait: they return the
    bytes moved or None. They raise OSError; `explain` gives the typed error.
    """

    def __init__(
        self, raw: "object", stream: "object", context: "object | None", deadlines: "object"
    ) -> None:
        self.raw = raw
        self.tls = stream if context is not None else None
        self.deadlines = deadlines
        self.read_ms = 0  # limit of one read_into; 0 = none
        self.read_some = stream.readinto
        self.write_some = stream.write
        self._stream = stream
        self._ready = Waitable(asyncio.core._io_queue.queue_read, raw)  # type: ignore[attr-defined]
        self._context = context
        self._open = False  # handshake done

    @property
    def verdict_facts(self) -> "dict":
        """What the context remembers of the handshake: presented, via, not_before."""
        context = self._context
        facts = {}
        for name in ("presented", "via", "not_before"):
            if context is not None and hasattr(context, name):
                facts[name] = getattr(context, name)
        return facts

    def explain(self, error: Exception) -> AzureIoTError:
        """Return the typed error for what the stream raised."""
        if isinstance(error, AzureIoTError):
            return error
        if not self._open:
            if self._context is not None:
                return self._context.explain(error)
            return ConnectionFailedError("connection failed: %s" % error, "tcp", error)
        if self._context is not None and isinstance(error, OSError) and error.errno == -28928:
            return self._context.explain(error)  # a record larger than the buffers: says why
        return ConnectionDroppedError("connection lost: %s" % error, error)

    def readable(self) -> "object":
        """Return what to await, any number of times, for something to read; each time only
        after read_some had no more."""
        return self._ready

    async def read_into(self, buffer: memoryview) -> int:
        """Read at least one byte into `buffer`; 0 is the end of the stream."""
        while True:
            try:
                n = self.read_some(buffer)
                if n is not None:
                    return n
                if self.read_ms:
                    await _wait(_readable, self.raw, self.read_ms)
                else:
                    await _readable(self.raw)
            except asyncio.TimeoutError:
                raise ConnectionDroppedError("nothing received for %d ms" % self.read_ms)
            except (OSError, ValueError) as error:
                raise self.explain(error)

    async def write(self, buffer: "bytes | memoryview") -> None:
        """Write all of `buffer`: some of it within `write_ms`, and every 16 KB.

        If cancelled in the middle, close: the stream is cut.
        """
        view = memoryview(buffer)
        done = 0
        patience = self.deadlines.write_ms
        limit = patience * (1 + (len(view) >> 14))
        start = time.ticks_ms()
        while done < len(view):
            try:
                n = self.write_some(view[done:] if done else view)
                if n:
                    done += n
                    continue
                # After WANT_WRITE the TLS layer wants the same bytes again: they stay put.
                took = time.ticks_diff(time.ticks_ms(), start)
                await _wait(_writable, self.raw, max(min(patience, limit - took), 0))
            except asyncio.TimeoutError:
                took = time.ticks_diff(time.ticks_ms(), start)
                raise ConnectionDroppedError(
                    "the peer took %d of %d bytes in %d ms" % (done, len(view), took)
                )
            except (OSError, ValueError) as error:
                raise self.explain(error)

    def abort(self) -> None:
        """Close at once; safe to call twice."""
        for stream in (self._stream, self.raw):
            try:
                stream.close()
            except OSError:  # already gone: nothing left to close
                continue

    async def close(self) -> None:
        """Close the connection."""
        self.abort()

    async def handshake(self) -> None:
        """Drive the TLS handshake to its end; the loop goes on while the peer is silent."""
        byte = bytearray(1)
        while not self._open:
            try:
                n = self.read_some(byte)
                if n == 0:
                    raise ConnectionFailedError(
                        "closed by the peer in the TLS handshake", "closed"
                    )
                self._open = _finished(self.tls)
                if n:
                    raise ProtocolError("the server spoke before the client", "MQTT-3.1.0-1")
                if not self._open:
                    await _readable(self.tls)
            except (OSError, ValueError) as error:
                raise self.explain(error)


def _finished(tls: "object") -> bool:
    """Tell whether the handshake is over: by tlsopt, else by the peer's certificate."""
    if _established is not None:
        return _established(tls)
    return tls.getpeercert(True) is not None


def resolve(host: str, port: int) -> "tuple":
    """Return the address of `host`; the last good one when the lookup fails. Blocks."""
    try:
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)[0]
        return found[0], found[-1]
    except (OSError, IndexError) as error:
        kept = _addresses.get((host, port))
        if kept is None:
            raise ConnectionFailedError("no address for '%s'" % host, "dns", error)
        return kept


async def _connect(host: str, address: tuple, deadlines: "object") -> "object":
    """Return the socket of a TCP connection to `host`: non-blocking, without Nagle."""
    raw = socket.socket(address[0], socket.SOCK_STREAM)
    try:
        raw.setblocking(False)
        raw.setsockopt(_IPPROTO_TCP, _TCP_NODELAY, 1)
        try:
            raw.connect(address[1])
        except OSError as error:
            if error.errno not in (11, 36, 115, 119):  # EAGAIN, EINPROGRESS by port
                raise
        await _wait(_writable, raw, deadlines.tcp_ms)
        return raw
    except asyncio.TimeoutError:
        raw.close()
        raise ConnectionFailedError(
            "'%s' did not answer within %d ms" % (host, deadlines.tcp_ms), "tcp"
        )
    except OSError as error:
        raw.close()
        word = "refused" if error.errno == 111 else "tcp"
        raise ConnectionFailedError("no connection to '%s': %s" % (host, error), word, error)
    except BaseException:
        raw.close()
        raise


def _keep(host: str, port: int, address: "tuple") -> None:
    if len(_addresses) >= _KEPT_ADDRESSES and (host, port) not in _addresses:
        _addresses.clear()
    _addresses[(host, port)] = address


async def open_tls(
    host: str, port: int, context: "object", *, deadlines: "object | None" = None
) -> Transport:
    """Return a connection whose TLS handshake is done and verified by `context`.

    Raises ConnectionFailedError, or what `context.explain` makes of a failed handshake. A context
    that can offer more after what the handshake showed says `retry`: then it is tried once more.
    """
    deadlines = deadlines or Deadlines()
    context.port = port
    if hasattr(context, "require_room"):
        context.require_room(host)
    address = resolve(host, port)
    try:
        try:
            transport = await _open_once(host, address, context, deadlines)
        except AzureIoTError:
            if not getattr(context, "retry", False):
                raise
            transport = await _open_once(host, address, context, deadlines)
    except ConnectionFailedError as error:
        if port != 8883 or error.reason not in ("tcp", "refused", "reset", "timeout"):
            raise
        blocked = ConnectionFailedError("%s %s" % (error, _BLOCKED), error.reason, error.cause)
        blocked.verdict = getattr(error, "verdict", "NETWORK")  # type: ignore[attr-defined]
        raise blocked
    _keep(host, port, address)
    return transport


async def _open_once(
    host: str, address: tuple, context: "object", deadlines: "object"
) -> Transport:
    raw = await _connect(host, address, deadlines)
    transport = None
    try:
        try:
            transport = Transport(raw, context.wrap(raw, host), context, deadlines)
        except (OSError, ValueError) as error:
            raise context.explain(error)
        await asyncio.wait_for_ms(transport.handshake(), deadlines.tls_ms)
        if hasattr(context, "finished"):
            context.finished(transport.tls)
    except asyncio.TimeoutError:
        transport.abort()
        raise ConnectionFailedError(
            "TLS handshake with '%s' not done within %d ms" % (host, deadlines.tls_ms), "timeout"
        )
    except BaseException:
        if transport is not None:
            transport.abort()
        raw.close()
        raise
    return transport


async def open_tcp(host: str, port: int, *, deadlines: "object | None" = None) -> Transport:
    """Return a plain TCP connection: for packages that carry their own signature, only."""
    deadlines = deadlines or Deadlines()
    address = resolve(host, port)
    raw = await _connect(host, address, deadlines)
    transport = Transport(raw, raw, None, deadlines)
    transport._open = True
    _keep(host, port, address)
    return transport
