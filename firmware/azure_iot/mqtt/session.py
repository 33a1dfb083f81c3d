"""The state of an MQTT 3.1.1 client without any I/O, clock or task.

Responsible for: the state, keep alive, deadlines, and starting again after a lost connection;
its halves send (sending.py) and receive (receiving.py). Not responsible for: sockets, waiting,
reconnecting (client.py); CONNECT and SUBSCRIBE bytes (packet.py). QoS 2 is absent.
Spec: MQTT Version 3.1.1, OASIS Standard; a violation raises ProtocolError naming the rule
(4.8.0-1, "close on a violation", where the text numbers none).

Theory of operation. Messages to send sit in a ring, numbered upwards for ever:

    tail .. sent               in flight, at most `window`; the packet id is number % 65535 + 1
    sent .. sent + queued      accepted, not sent yet (no connection, or the window was full)

PUBACKs arrive in order (MQTT-4.6.0-2), so the next one belongs to `tail`; one out of order
leaves a hole that `tail` jumps later. Losing the connection sets `sent` back to `tail`:
everything is sent again in order, with DUP where it was sent before. One list is the ring: the
payload of slot i is at i, None once it is finished; its topic is at ~i, counted from the end.

Received bytes are parsed where they were read. A packet larger than the buffer comes out as
BEGIN and CHUNKs. Nothing is allocated per packet while topic and sizes repeat: then both
directions skip the parsing and building, and only the packet id and the payload are new.
`payload` is valid until next() is called again.

    event = session.next(read_into(session.space))
    while event: …; event = session.next() if session.more else 0   # session.topic, .payload, …
"""

from micropython import const

from azure_iot.deadlines import Deadlines
from azure_iot.errors import ConnectionDroppedError
from azure_iot.mqtt.receiving import Receiver
from azure_iot.mqtt.sending import Sender

PING = const(1)

_WATCHED = ("CONNACK", "PUBACK", "SUBACK", "PINGRESP", "the rest of a packet")
_NONE = (None,) * 6


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
        # what runs per packet first: early names keep their own place in the attribute table
        self.tail = self.sent = self.queued = 0
        size = 8
        while size < window:
            size *= 2
        self._ring = [None] * (2 * size)
        self._mask = size - 1
        self._out = bytearray(buffer_out) if isinstance(buffer_out, int) else buffer_out
        self._topic = None  # the one in the out buffer; length and QoS prepared there
        self._kind = -1
        self._at = 0  # end of that topic
        self._body = self._packet = None  # where the payload goes, and the view to be written
        self.due = 0
        self.more = True
        self._in = self.space = memoryview(
            bytearray(buffer_in) if isinstance(buffer_in, int) else buffer_in
        )
        self._whole = -1  # length of the last message, alone in the buffer; what it began with
        self._start, self._known = None, b""
        self._pid_at = self.pid = self.packets = 0  # packets received but PUBACKs
        self.ack = bytearray(b"\x40\x02\0\0")  # PUBACK for the last message
        self.topic = self.payload = self._topic_bytes = None
        self.window = window
        self._pos = self._end = 0  # unread part of the buffer
        self.left = 0  # of a large message; below 0: of an overlong topic
        self._again = 0  # numbers below this have been sent before
        self.resent = self.strangers = 0  # messages sent again; PUBACKs for nothing in flight
        self._pending = {}  # packet id of SUBSCRIBE (True) and UNSUBSCRIBE (False) in flight
        self.clean = clean
        self.keepalive_s = keepalive_s
        self._max = max_packet
        self.deadlines = deadlines or Deadlines
        self.rest = None  # what of the last packet did not fit the out buffer
        self.online = self.pinging = self.present = False
        self.qos = self.size = self.code = self.dup = self._alive = 0
        self._ages: list = [0] * 6 + [_NONE]

    def lost(self) -> None:
        """Start again: nothing received counts, everything in flight is to be sent again."""
        self._again = max(self._again, self.sent)
        n = self.sent - self.tail
        self.sent -= n
        self.queued += n
        self._pos = self._end = self.left = 0
        self._pending = {}
        self.online = self.pinging = False
        self.more = True
        self.space = self._in
        self.rest = None
        self._ages[6] = _NONE

    def deadline(self) -> int:
        """Return after how many milliseconds at the latest elapse() wants to be called."""
        d = self.deadlines
        ms = min(d.connack_ms, d.puback_ms, d.suback_ms, d.pingresp_ms, d.packet_ms) // 4
        if self.keepalive_s:
            ms = min(ms, self.keepalive_s * 125)
        return max(ms, 50)

    def elapse(self, ms: int, busy: bool = False, deaf: bool = False) -> int:
        """Let `ms` pass; return PING when one is due. Raises ConnectionDroppedError.

        `busy`: a packet is being written, `deaf`: nothing is being read. Either way no answer can
        be expected.

        Each answer waited for has a key that changes with progress: the age of an unchanged key
        is compared, so no packet has to read a clock. Found late by two calls at most.
        """
        self._advance()
        d = self.deadlines
        tail = self.tail
        online = self.online
        pinging = self.pinging
        partial = not deaf and (self.left or self._end)
        silent = busy or deaf
        # A PING is due after 5/8 of the keep alive without a round trip, its answer within 1/4:
        # with the sampling a dead peer is found within 1.375 times the keep alive.
        idle = self.keepalive_s * 625
        keys = (
            None if online else 1,
            None if silent or tail == self.sent else tail,
            None if silent or not self._pending else self._alive,
            None if silent or partial or not pinging else 1,
            self.packets + tail if partial else None,
            None if busy or pinging or not online or not idle else tail + self._alive,
        )
        limits = (
            d.connack_ms,
            d.puback_ms,
            d.suback_ms,
            min(d.pingresp_ms, self.keepalive_s * 250),
            # one allowance per 16 KB; `left` shrinks, so the size counts
            d.packet_ms * (1 + (self.size >> 14 if self.left > 0 else 0)),
        )
        ages = self._ages
        for i in range(6):
            ages[i] += ms
            if keys[i] is None or keys[i] != ages[6][i]:
                ages[i] = 0
            elif i < 5 and ages[i] >= limits[i]:
                raise ConnectionDroppedError(
                    "%s did not come within %d ms" % (_WATCHED[i], limits[i])
                )
        ages[6] = keys
        if keys[5] is None or ages[5] + self.deadline() <= idle:
            return 0
        self.pinging = True
        return PING
