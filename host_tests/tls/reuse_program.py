# Runs on MicroPython: one TLSContext for several connections; one JSON line at the end.
import asyncio
import json
import sys
from hashlib import sha256

from azure_iot import clock, transport
from azure_iot.errors import ConnectionFailedError, TrustError
from azure_iot.tls.context import TLSContext, default_profile
from azure_iot.tls.sessions import Sessions

asked = json.loads(sys.argv[1])


class Emptied:
    """A store that lost its roots under way."""

    def __len__(self):
        return 1

    def __call__(self, issuer):
        return []


def read(path):
    with open(path, "rb") as file:
        return file.read()


async def main():
    root = read("root.der")
    trusted = {sha256(root).digest()}
    sessions = Sessions(clock.Clock(), still_trusted=lambda digest: digest in trusted)
    context = TLSContext([root], default_profile(), None, sessions)
    made = []

    async def connect():
        link = await transport.open_tls("localhost", asked["port"], context)
        await link.write(b"x")
        await link.read_into(memoryview(bytearray(1)))
        if context.context not in made:
            made.append(context.context)
        found = [made.index(context.context), context.info(link.tls)["resumed"], context.via]
        await link.close()
        return found

    found = []
    for _ in range(4):
        found.append(await connect())
    trusted.clear()  # distrusted: nothing may be resumed
    found.append(await connect())
    trusted.add(sha256(root).digest())
    roots, context.roots = context.roots, Emptied()
    sessions.drop_all()
    try:
        await connect()
    except TrustError as error:
        found.append(error.code)
    context.roots = roots
    found.append(await connect())
    context.profile.learn("localhost", certificate=3000)  # a plan depends on it
    found.append(await connect())
    context.profile.memory = lambda: (9_000, 0)  # where a context is kept, there must be room too
    try:
        await connect()
    except ConnectionFailedError as error:
        found.append(error.reason)
    print(json.dumps(found))


asyncio.run(main())
