"""The state of an MQTT 3.1.1 client without any I/O, clock or task.

Responsible for: the state, keep alive, deadlines, and starting again after a lost connection;
its halves send (sending.py) and receive (receiving.py). Not responsible for: sockets, waiting,
reconnecting (client.py); CONNECT and SUBSCRIBE bytes (packet.py). QoS 2 is absent.
Spec: MQTT Version 3.1.1, OASIS Standard; a violation raises ProtocolError naming the rule
(4.8.0-1, "close on a violation", where the text numbers none).

Theory of operation. Messages to send sit in a ring, numbered upwards for ever:

    tail .. sent    in flight, at most `window`; the packet id is number % 65535 + 1
    sent .. head    accepted, not sent yet (no connection, or the window was full)

PUBACKs arrive in order (MQTT-4.6.0-2), so the next one belongs to `tail`; one out of order
leaves a hole that `tail` jumps later. Losing the connection sets `sent` back to `tail`:
everything is sent again in order, with DUP where it was sent before. Numbers start again at
zero after _LAP, a multiple of 65535 and of every ring size, below a 31-bit small integer.

Received bytes are parsed where they were read. A packet larger than the buffer comes out as
BEGIN and CHUNKs. Nothing is allocated per packet while topic and sizes repeat; `payload` is
valid until the buffer is read into again.

    event = session.next(read_into(session.space()))
    while event: …; event = session.next()      # session.topic, .payload, .qos, .pid, …
"""

from micropython import const

from azure_iot.deadlines import Deadlines
from azure_iot.errors import ConnectionDroppedError
from azure_iot.mqtt.receiving import Receiver
from azure_iot.mqtt.sending import Sender

PING = const(1)

_LAP = const(268431360)  # 65535 * 4096
_WATCHED = ("CONNACK", "PUBACK", "SUBACK", "PINGRESP", "the rest of a packet")


class Session(Sender, Receiver):
    """See the module. `online` is True between an accepting CONNACK and `lost()`."""

    def __init__(
        self,
        *,
        keepalive_s: int = 240,
        clean: bool = False,
        window: int = 8,
        buffer_in: "int | bytearray" = 4096,
        buffer_out: "int | bytearray" = 4096,
        max_packet: int = 294912,
        deadlines: "object | None" = None,
    ) -> None:
        self._in = bytearray(buffer_in) if isinstance(buffer_in, int) else buffer_in
        self._out = bytearray(buffer_out) if isinstance(buffer_out, int) else buffer_out
        self._all = memoryview(self._in)
        self._pos = self._end = 0  # unread part of the buffer
        self._body = 0  # where the packet being looked at has its variable header
        self._skip = 0  # bytes of an overlong topic and its packet id still to pass
        self._view = None  # the last payload view and where it lies
        self._view_at = self._view_end = -1
        self._name = self._name_view = None  # the last topic: bytes, and the view it was in
        self._name_at = self._name_end = -1
        self._topic = None  # the topic that stands in the out buffer, and where it ends
        self._at = 0
        self._out_view = memoryview(self._out)
        self._packet = None  # the last packet view, its end, its remaining length if > 127
        self._packet_end = self._packet_size = -1
        self._ack = bytearray(b"\x40\x02\0\0")
        size = 8
        while size < window:
            size *= 2
        self._mask = size - 1
        self._topics = [None] * size
        self._payloads = [None] * size
        self.tail = self.sent = self.head = 0
        self._again = 0  # numbers below this have been sent before
        self.resent = self.hits = 0  # messages sent again; links lost with some in flight
        self._pending = {}  # packet id of SUBSCRIBE (True) and UNSUBSCRIBE (False) in flight
        self.window = window
        self.clean = clean
        self.keepalive_s = keepalive_s
        self._max = max_packet
        self.deadlines = deadlines or Deadlines()
        self.rest = None  # what of the last packet did not fit the out buffer
        self.online = self.busy = self.pinging = False
        self.topic = self.payload = None
        self.left = self.qos = self.pid = self.size = self.code = 0
        self.present = self.dup = False
        self.packets = self.strangers = 0  # received but PUBACKs; PUBACKs for nothing in flight
        self._alive = 0
        self._keys = [None] * 6
        self._ages = [0] * 6

    def lost(self) -> None:
        """Start again: nothing received counts, everything in flight is to be sent again."""
        self._again = max(self._again, self.sent)
        self.hits += self.sent != self.tail
        self.sent = self.tail
        self._pos = self._end = self.left = self._skip = 0
        self._pending = {}
        self.online = self.busy = self.pinging = False
        self.rest = None
        for i in range(6):
            self._keys[i] = None

    def deadline(self) -> int:
        """Return after how many milliseconds at the latest elapse() wants to be called."""
        d = self.deadlines
        ms = min(d.connack_ms, d.puback_ms, d.suback_ms, d.pingresp_ms, d.packet_ms) // 4
        if self.keepalive_s:
            ms = min(ms, self.keepalive_s * 125)
        return max(ms, 50)

    def elapse(self, ms: int) -> int:
        """Let `ms` pass; return PING when one is due. Raises ConnectionDroppedError.

        Each answer waited for has a key that changes with progress: the age of an unchanged key
        is compared, so no packet has to read a clock. Found late by two calls at most.
        """
        self._advance()
        if self.tail >= _LAP:
            self.tail -= _LAP
            self.sent -= _LAP
            self.head -= _LAP
            self._again -= _LAP
        d = self.deadlines
        # A PING is due after 5/8 of the keep alive without a round trip, its answer within 1/4:
        # with the sampling a dead peer is found within 1.375 times the keep alive.
        idle = self.keepalive_s * 625
        partial = self.left or self._pos != self._end
        busy = self.busy
        self._watch(0, None if self.online else 1, ms, d.connack_ms)
        waiting = self.sent != self.tail and not busy
        self._watch(1, self.tail if waiting else None, ms, d.puback_ms)
        self._watch(2, self._alive if self._pending and not busy else None, ms, d.suback_ms)
        pong = min(d.pingresp_ms, self.keepalive_s * 250)
        self._watch(3, 1 if self.pinging and not partial and not busy else None, ms, pong)
        # one allowance per 16 KB; `left` shrinks, so the size counts
        allowed = d.packet_ms * (1 + (self.size >> 14 if self.left else 0))
        self._watch(4, self.packets + self.tail if partial else None, ms, allowed)
        if not idle or self.pinging or not self.online or busy:
            return 0
        key = self.tail + self._alive
        if self._keys[5] != key:
            self._keys[5] = key
            self._ages[5] = 0
        else:
            self._ages[5] += ms
        if self._ages[5] + self.deadline() > idle:
            self._ages[5] = 0
            self.pinging = True
            return PING
        return 0

    def _watch(self, i: int, key: "int | None", ms: int, limit: int) -> None:
        if key is None or key != self._keys[i]:
            self._keys[i] = key
            self._ages[i] = 0
            return
        self._ages[i] += ms
        if self._ages[i] >= limit:
            raise ConnectionDroppedError("%s did not come within %d ms" % (_WATCHED[i], limit))
