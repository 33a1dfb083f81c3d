"""The hostile MQTT server, for tests; it lives with the bench, which runs it too."""

from taproot.bench.hostile import AFTER_SUBACK, CONNACKS, Server, publish, varint, wait_until

__all__ = ["AFTER_SUBACK", "CONNACKS", "Server", "publish", "varint", "wait_until"]
