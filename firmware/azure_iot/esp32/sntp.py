"""The time of a time server, offered and not set: the trust store decides whether it counts.

Responsible for: one SNTP question per server. Not for: the clock (clock.py), floors (trust/).
Source: RFC 4330 section 5.

    seconds = await ask(("pool.ntp.org", "time.windows.com"))     # Unix time, or None
"""

import asyncio
import socket

from micropython import const

from azure_iot import log

_PORT = const(123)
_TRIES = const(30)
_POLL_MS = const(100)
_NTP_TO_UNIX = const(2208988800)


async def ask(servers: tuple) -> "int | None":
    """Ask each server in turn; the first plausible answer counts."""
    for server in servers:
        try:
            address = socket.getaddrinfo(server, _PORT)[0][-1]
            seconds = await _ask(address)
        except OSError as error:
            log.info("time server %s: %s", server, error)
            continue
        if seconds:
            return seconds
        log.info("time server %s gives no answer (is UDP port 123 blocked?)", server)
    return None


async def _ask(address: tuple) -> int:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        query = bytearray(48)
        query[0] = 0x1B  # no warning, version 3, client
        sock.sendto(query, address)
        for _ in range(_TRIES):
            await asyncio.sleep_ms(_POLL_MS)
            try:
                answer = sock.recv(48)
            except OSError:
                continue
            return parse(answer)
        return 0
    finally:
        sock.close()


def parse(answer: bytes) -> int:
    """Read Unix time from an answer; 0 for a server that is not synchronised or a wrong packet."""
    if len(answer) < 48 or answer[0] & 7 != 4 or answer[0] >> 6 == 3 or not answer[1]:
        return 0
    seconds = int.from_bytes(answer[40:44], "big")
    if not seconds & 0x80000000:
        seconds += 1 << 32  # after 2036-02-07 the count begins anew (RFC 4330 section 3)
    return seconds - _NTP_TO_UNIX
