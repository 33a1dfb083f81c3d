# Runs on MicroPython against the emulator with the MQTT client alone: no Azure code.
import asyncio
import json
import sys

from azure_iot.backoff import Backoff
from azure_iot.deadlines import Deadlines
from azure_iot.mqtt.client import MQTTClient
from azure_iot.tls.context import TLSContext
from azure_iot.transport import open_tls

with open(sys.argv[1]) as file:
    CHOSEN = json.load(file)
with open(CHOSEN["root"], "rb") as file:
    CONTEXT = TLSContext([file.read()])


async def main():
    limits = Deadlines(connack_ms=3000, puback_ms=3000, suback_ms=3000)
    over = asyncio.Event()

    async def opener():
        return await open_tls("localhost", CHOSEN["port"], CONTEXT, deadlines=limits)

    def message(topic, payload, qos, pid):
        print("C", str(payload, "utf-8"))
        over.set()

    client = MQTTClient(
        opener,
        "mq1",
        credentials=lambda: (CHOSEN["user"], CHOSEN["password"]),
        deadlines=limits,
        buffer_in=2048,
        buffer_out=2048,
        backoff=Backoff(50, 500, lambda n: n // 2),
    )
    client.on_message = message
    await client.start()
    await client.connected_once(20)
    await client.subscribe("devices/mq1/messages/devicebound/#", 1)
    number = 0
    for i in range(CHOSEN["n"]):
        number = await client.publish("devices/mq1/messages/events/", b"m%04d" % i)
        await asyncio.sleep_ms(40)
    await client.delivered(number)
    await asyncio.wait_for(over.wait(), 20)
    print("DONE", json.dumps(client.stats))
    await client.stop()


asyncio.run(main())
