# Runs on MicroPython: TLS connections with the package's own code; one RESULT line each.
# Arguments: JSON with port, roots, times, mfl, cert, key, sessions, transfer, fail.
import asyncio
import gc
import json
import os
import select
import socket
import sys

import tlsopt
from azure_iot import clock, transport
from azure_iot.errors import AzureIoTError
from azure_iot.tls.context import TLSContext
from azure_iot.tls.profile import TLSProfile, build_of
from azure_iot.tls.sessions import Sessions

asked = json.loads(sys.argv[1])


class Credential:
    cert = key = b""


def read(name):
    with open(name, "rb") as file:
        return file.read()


def alone(context):
    """TLS alone: counted from TCP being connected to the first application byte."""
    sock = socket.socket()
    sock.connect(socket.getaddrinfo("127.0.0.1", asked["port"])[0][-1])
    context.port = asked["port"]
    os.putenv("COUNTING", "1")
    link = context.wrap(sock, "localhost")
    link.write(b"x")
    link.read(1)
    os.unsetenv("COUNTING")
    info = tlsopt.info(link)
    print("CONNECTED 0 0 0 0 %d %d 0 0" % (info.mfl_acknowledged or 0, 1 if info.resumed else 0))
    link.close()
    sock.close()


def phases(context):
    """Print `peak:held` of each step of the handshake; the server rests between its records."""
    gc.collect()
    before = tlsopt.mem(True)[0]
    sock = socket.socket()
    sock.connect(socket.getaddrinfo("127.0.0.1", asked["port"])[0][-1])
    context.port = asked["port"]
    sock.setblocking(False)
    link = context.wrap(sock, "localhost")
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    found = []
    byte = bytearray(1)
    while True:
        link.readinto(byte)
        held, peak = tlsopt.mem()[:2]
        step = "%d:%d" % (peak - before, held - before)
        if step not in found[-1:]:  # a record may come in pieces
            found.append(step)
        tlsopt.mem(True)
        if tlsopt.established(link):
            break
        poll.poll(5000)
    print("PHASES", " ".join(found))
    link.close()
    sock.close()


async def connect(context, count):
    gc.collect()
    before = tlsopt.mem(True)[0]
    tlsopt.fail_alloc(asked.get("fail", 0))
    if count and asked.get("counting"):
        return alone(context)
    try:
        link = await transport.open_tls("localhost", asked["port"], context)
        await link.write(b"x")
        await link.read_into(memoryview(bytearray(1)))
    finally:
        tlsopt.fail_alloc(0)
    info = tlsopt.info(link.tls)
    left = asked.get("transfer", 0)
    if left:
        await link.write(b"T")
    buffer = memoryview(bytearray(512))
    while left > 0:
        left -= await link.read_into(buffer)
    held, peak, block, allocations = tlsopt.mem()
    print(
        "CONNECTED %d %d %d %d %d %d %d %d"
        % (
            peak - before, held - before, block, allocations, info.mfl_acknowledged or 0,
            1 if info.resumed else 0, context.plan[2], context.plan[3],
        )
    )  # fmt: skip
    await link.close()


async def main():
    roots = [read("root%d.der" % n) for n in range(asked["roots"])]
    profile = TLSProfile(
        asked.get("profile", "default"), build=build_of(tlsopt), mfl=asked.get("mfl"), memory=True
    )
    if asked.get("acknowledged"):
        profile.learn("localhost", acknowledged=asked["acknowledged"])
    credential = None
    if asked.get("cert"):
        credential = Credential()
        credential.cert, credential.key = read("cert"), read("key")
    sessions = Sessions(clock.Clock()) if asked.get("sessions") else None
    times = asked.get("times", 1)
    context = None
    for n in range(times):
        if context is None or sessions is None:  # as the link does: one context while all stays
            context = TLSContext(roots, profile=profile, credential=credential, sessions=sessions)
        if asked.get("phases"):
            phases(context)
            continue
        try:
            await connect(context, n == times - 1)
        except AzureIoTError as error:
            print("FAILED %s %s" % (getattr(error, "verdict", type(error).__name__), error))
        gc.collect()
    print("RESULT 0 0")


asyncio.run(main())
