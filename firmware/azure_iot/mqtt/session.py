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

from ..deadlines import Deadlines
from ..errors import ConnectionDroppedError
from .packet import words
from .receiving import Receiver
from .sending import Sender


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
        Sender.__init__(self, window, buffer_out)
        Receiver.__init__(self, buffer_in, max_packet, clean)
        self.keepalive_s = keepalive_s
        d = deadlines or Deadlines
        self._limits = (d.connack_ms, d.puback_ms, d.suback_ms, d.pingresp_ms, d.packet_ms)
        self._ages = [0] * 6
        self.lost()

    def lost(self) -> None:
        """Start again: nothing received counts, everything in flight is to be sent again."""
        self._again = max(self._again, self.sent)
        self.queued += self.sent - self.tail
        self.sent = self.tail
        self.until = 0  # numbers below may be sent without asking room()
        self._pos = self._end = 0  # unread part of the buffer
        self.left = 0  # of a large message; below 0: of an overlong topic
        self.space = self._in
        self.more = True
        self.rest = None  # what of the last packet did not fit the out buffer
        self._pending = {}  # packet id of SUBSCRIBE (True) and UNSUBSCRIBE (False) in flight
        self.online = self.pinging = False
        self._keys = bytes(6)

    def deadline(self) -> int:
        """Return after how many milliseconds at the latest elapse() wants to be called."""
        ms = min(self._limits) // 4
        if self.keepalive_s:
            ms = min(ms, self.keepalive_s * 125)
        return max(ms, 50)

    def elapse(self, ms: int, busy: bool = False, deaf: bool = False) -> bool:
        """Let `ms` pass; tell whether a PING is due. Raises ConnectionDroppedError.

        `busy`: a packet is being written, `deaf`: nothing is being read. Either way no answer can
        be expected.

        Each answer waited for has a key, not 0, that changes with progress: the age of an
        unchanged key is compared, so no packet has to read a clock. Found late by two calls at
        most.
        """
        self._advance()
        tail = self.tail
        alive = self._alive
        pinging = self.pinging
        partial = not deaf and (self.left or self._end)
        # A PING is due after 5/8 of the keep alive without a round trip, its answer within 1/4:
        # with the sampling a dead peer is found within 1.375 times the keep alive.
        idle = self.keepalive_s * 625
        keys = (
            not self.online,
            tail != self.sent and tail + 1,
            self._pending and alive + 1,
            pinging and not partial,
            partial and self.packets + tail + 1,
            idle and self.online and not pinging and tail + alive + 1,
        )
        if busy or deaf:
            keys = (keys[0], 0, 0, 0, keys[4], deaf and not busy and keys[5])
        limits = list(self._limits)
        limits[3] = min(limits[3], self.keepalive_s * 250)
        if self.left > 0:  # one allowance per 16 KB; `left` shrinks, so the size counts
            limits[4] *= 1 + (self.size >> 14)
        ages = self._ages
        for i in range(6):
            ages[i] += ms
            if not keys[i] or keys[i] != self._keys[i]:
                ages[i] = 0
            elif i < 5 and ages[i] >= limits[i]:
                raise ConnectionDroppedError(words("late%d" % i, limits[i]))
        self._keys = keys
        if not keys[5] or ages[5] + self.deadline() <= idle:
            return False
        self.pinging = True
        return True
