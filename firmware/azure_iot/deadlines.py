"""How long each step of a connection may take.

Responsible for: the figures and their reasons. Not responsible for: enforcing them
(transport.py until the link stands, mqtt/session.py after that).

    Deadlines()                      # the defaults
    Deadlines(puback_ms=5000)        # one changed
"""


class Deadlines:
    """Milliseconds per step; an instance only holds what differs from the defaults."""

    tcp_ms = 15000  # three SYNs (0, 1 and 3 s) plus a slow Wi-Fi association
    tls_ms = 30000  # RSA-4096 chains take an ESP32 several seconds of arithmetic alone
    connack_ms = 15000  # a hub under load answers in seconds; the SAS check comes first
    suback_ms = 15000  # as CONNACK
    puback_ms = 20000  # a throttled hub delays acknowledgements before it refuses them
    pingresp_ms = 10000  # at most a quarter of the keep alive counts
    packet_ms = 10000  # from a packet's first byte to its last, per 16 KB
    write_ms = 15000  # per 16 KB: a peer slower than 1 KB/s has as good as stopped
    read_ms = 15000  # one read of a request and answer protocol (HTTP); MQTT may be silent

    def __init__(self, **changes: int) -> None:
        for name in changes:
            if not hasattr(Deadlines, name):
                raise TypeError("unknown deadline '%s'" % name)
            setattr(self, name, changes[name])
