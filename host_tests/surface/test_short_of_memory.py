"""A heap that no connection fits into any more: the agent says so and starts the device anew."""

PROGRAM = """
import gc, tlsopt
from azure_iot.agent import Agent
from azure_iot.backoff import Backoff
from azure_iot.deadlines import Deadlines
from azure_iot.unix.platform import Platform

async def app(client):
    while not client.connected.is_set():
        await asyncio.sleep_ms(20)
    out("up")
    hoard = []
    for size in (%s):
        try:
            while gc.mem_free() > 6000:
                hoard.append(bytearray(size))
        except MemoryError:
            gc.collect()
    await client._mqtt.reconnect()
    await asyncio.sleep(30)
    out("still here")

# Where the shortage strikes is chance: a handshake that it leaves waiting ends at its deadline.
options = {"port": F["port"], "deadlines": Deadlines(tls_ms=1000), "mqtt": {"backoff": Backoff(20, 50, lambda n: n // 2)}}
agent = Agent(Platform({"connection_string": F["cs"], "roots": ["root.der"], "client": options}))
asyncio.run(agent.run(app))
"""


def test_a_device_without_memory_for_a_connection_starts_anew(device):
    with device.start(
        PROGRAM % "4096, 1024, 256, 64", "short", build="unix32", heap="400k"
    ) as process:
        process.wait_for('"up"', 20)
        assert process.wait(25) == 3, process.text
    assert process.text.count("not enough memory for TLS") >= 8, process.text
    assert "starting anew: no memory for a connection, 8 times" in process.text


def test_a_device_with_memory_goes_on(device):
    program = PROGRAM % "" + 'out("end")\n'
    with device.start(
        program.replace("sleep(30)", "sleep(2)"), "enough", build="unix32", heap="400k"
    ) as process:
        assert process.wait(25) == 0, process.text
    assert "still here" in process.text and "starting anew" not in process.text
