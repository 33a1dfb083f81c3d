"""Recovery and probes over real sockets and TLS (MicroPython).

    micropython network_device.py recovery URL …     strand the device, then run recovery
    micropython network_device.py probe HOST PORT ROOT …
    micropython network_device.py connect HOST PORT  one verified connection with the trial or good

Uses the folder `factory` and the store `trust` of the present folder; prints JSON lines.
"""

import asyncio
import json
import sys

from azure_iot.deadlines import Deadlines
from azure_iot.errors import AzureIoTError, TrustError
from azure_iot.https import Fetcher
from azure_iot.tls.context import TLSContext
from azure_iot.transport import open_tls
from azure_iot.trust.factory import Factory
from azure_iot.trust.manager import TrustManager
from azure_iot.trust.probe import probe
from azure_iot.trust.recovery import Recovery
from azure_iot.trust.store import Store
from scenarios import FakeClock


def say(*values):
    print(json.dumps(values))


def boot(urls=()):
    clock = FakeClock()
    store = Store("trust", Factory.from_folder("factory"))
    return TrustManager(store, clock, config={"recovery": urls})


def facts(trust):
    """Everything a probe must not change."""
    record = []
    for name in ("state0", "state1", "slot0.jws", "slot1.jws"):
        try:
            with open("trust/" + name, "rb") as file:
                record.append(file.read())
        except OSError:
            record.append(None)
    return record, trust.verdicts, trust.via, trust.exhausted, trust.generation


async def recovery(*urls):
    trust = boot(urls)
    trust.recovery = Recovery(
        trust, Fetcher(Deadlines(read_ms=400, tls_ms=3000)), lambda n: 0, TLSContext
    )
    say("before", trust.next_recovery_ms())
    for _ in range(9):
        attempt = trust.attempt()
        trust.failed(attempt, TrustError("no", "UNTRUSTED"))
        trust.clock.wait(200)
    say("due", trust.next_recovery_ms())
    for _ in urls:
        try:
            say("version", await trust.recovery.run())
        except AzureIoTError as error:
            say("failed", getattr(error, "code", type(error).__name__), str(error))
        say("pause", trust.next_recovery_ms())
        trust.clock.wait(90000)
    say("state", trust.report()["state"], trust.report()["last_error"])


async def do_probe(host, port, *roots):
    trust = boot()
    for root in roots:
        before = facts(trust)

        async def opener(host, port, roots):
            return await open_tls(host, port, TLSContext(roots), deadlines=Deadlines(tls_ms=3000))

        found = await probe(trust, {"host": host, "port": int(port), "root": root}, opener)
        say("probe", found["result"], found["root"][:8], found["host"], facts(trust) == before)
    say("kept", [p["result"] for p in trust.report()["probes"]])


async def connect(host, port):
    trust = boot()
    attempt = trust.attempt("hub", host)
    context = TLSContext(attempt.roots)
    try:
        link = await open_tls(host, int(port), context)
    except AzureIoTError as error:
        trust.failed(attempt, error)
        say("refused", attempt.source, type(error).__name__, getattr(error, "code", ""))
        return
    trust.succeeded(attempt, resumed=False, via=context.via, not_before=context.not_before)
    # The server's first byte stands for CONNACK 0.
    buffer = bytearray(1)
    await link.read_into(memoryview(buffer))
    confirmed = trust.mqtt_accepted(attempt)
    await link.close()
    say("connected", attempt.source, confirmed, context.via, trust.report()["state"])


def main():
    what = {"recovery": recovery, "probe": do_probe, "connect": connect}[sys.argv[1]]
    asyncio.run(what(*sys.argv[2:]))


if __name__ == "__main__":
    main()
