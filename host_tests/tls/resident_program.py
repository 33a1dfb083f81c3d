# Runs on MicroPython: what the TLS code of a managed device holds while it is connected.
# Roots come one by one from a file, as from a trust store; one JSON line at the end.
import asyncio
import gc
import json
import sys

import tlsopt
from azure_iot import clock, transport
from azure_iot.transient import Transient  # noqa: F401 (every part of the package loads it)
from azure_iot.trust import der
from azure_iot.trust.roots import name_digest

asked = json.loads(sys.argv[1])


class Stored:
    """One root in flash, as trust/roots.py gives it."""

    def __init__(self):
        self.name = name_digest(der.read(self.read()).subject)

    def read(self):
        with open("root.der", "rb") as file:
            return file.read()

    def __len__(self):
        return 1

    def __call__(self, issuer):
        return [self.read()] if name_digest(issuer) == self.name else []


def used():
    gc.collect()
    gc.collect()
    return gc.mem_alloc()


def loaded():
    return sorted([name for name in sys.modules if name.startswith("azure_iot.tls")])


async def main():
    stored = Stored()
    before = used()
    from azure_iot.tls.context import TLSContext, default_profile
    from azure_iot.tls.sessions import Sessions

    modules = used() - before
    profile, sessions = default_profile(), Sessions(clock.Clock())
    found = []
    for _ in range(3):
        context = TLSContext(stored, profile, None, sessions)
        link = await transport.open_tls("localhost", asked["port"], context)
        await link.write(b"x")
        await link.read_into(memoryview(bytearray(1)))
        resumed = context.info(link.tls)["resumed"]
        held = used() - before - tlsopt.mem()[0]
        await link.close()
        link = context = None
        await asyncio.sleep_ms(1)  # the collector may still see the link on the C stack
        found.append({"resumed": resumed, "connected": held, "after": used() - before})
    print(json.dumps({"modules": modules, "loaded": loaded(), "connections": found}))


asyncio.run(main())
