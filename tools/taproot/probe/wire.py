"""A TCP connection to a probed server, with one deadline for all that happens on it.

Responsible for: connecting, sending and receiving until the deadline; telling silence and a failed
network apart from answers. Not for: TLS (flight.py, resumption.py).
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any


class Unreachable(Exception):
    """No connection, or silence: says nothing about TLS."""


class NoAddress(TimeoutError):
    """Name servers kept silent until the deadline."""


class Wire:
    """Bytes both ways. Raises TimeoutError when the deadline has passed, however data trickles."""

    def __init__(self, address: tuple[str, int], timeout: float) -> None:
        self._until = time.monotonic() + timeout
        self._conn = self._connect(address)

    def _connect(self, address: tuple[str, int]) -> socket.socket:
        found = self._resolve(address)
        failed: OSError = ConnectionError("the name has no address")
        for index, (family, kind, protocol, _, where) in enumerate(found):
            conn = socket.socket(family, kind, protocol)
            try:
                conn.settimeout(self._left() / (len(found) - index))
                conn.connect(where)
                return conn
            except OSError as error:
                conn.close()
                failed = error
        raise failed

    def _resolve(self, address: tuple[str, int]) -> list[Any]:
        """Ask for the addresses, in a thread that is left behind when they come too late."""
        answer: queue.Queue[Any] = queue.Queue()

        def ask() -> None:
            try:
                answer.put(socket.getaddrinfo(*address, type=socket.SOCK_STREAM))
            except OSError as error:
                answer.put(error)

        threading.Thread(target=ask, daemon=True).start()
        try:
            found = answer.get(timeout=self._left())
        except queue.Empty:
            raise NoAddress(f"no name server gave an address for {address[0]}") from None
        if isinstance(found, OSError):
            raise found
        return found

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        self._conn.settimeout(self._left())
        self._conn.sendall(data)

    def receive(self, size: int) -> bytes:
        """What came next, at most `size` bytes; empty at the end."""
        self._conn.settimeout(self._left())
        return self._conn.recv(size)

    def close(self) -> None:
        """Close the connection."""
        self._conn.close()


@contextlib.contextmanager
def connected(address: tuple[str, int], timeout: float) -> Iterator[Wire]:
    """Connect for one handshake that ends within `timeout` seconds, or raise Unreachable."""
    where = f"{address[0]}:{address[1]}"
    try:
        with contextlib.closing(Wire(address, timeout)) as wire:
            yield wire
    except NoAddress as error:
        raise Unreachable(f"{error} within {timeout:g} s") from None
    except TimeoutError:
        raise Unreachable(f"{where} did not answer within {timeout:g} s") from None
    except OSError as error:
        raise Unreachable(f"{where}: {error.strerror or error}") from None
