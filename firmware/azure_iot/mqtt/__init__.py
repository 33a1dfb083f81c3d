"""MQTT 3.1.1: codec, session without I/O, asyncio client. Knows nothing of Azure.

Import the module that is needed: `from azure_iot.mqtt.client import MQTTClient`.
"""
