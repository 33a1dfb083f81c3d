"""The state of an MQTT 3.1.1 client without any I/O, clock or task.

Responsible for: PUBLISH both ways, packet ids, the in-flight window, resending, keep alive,
deadlines, and checking everything a server may send. Not responsible for: sockets, waiting,
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

from azure_iot.deadlines import Deadlines
from azure_iot.errors import ConnectionDroppedError, ProtocolError
from azure_iot.mqtt import packet
from micropython import const

MESSAGE = const(1)  # topic, payload, qos, pid, dup
BEGIN = const(2)  # a large message: topic (None if longer than the buffer), size, qos, pid, dup
CHUNK = const(3)  # payload; `left` bytes follow
CONNACK = const(4)  # present, code
SUBACK = const(5)  # pid, code
UNSUBACK = const(6)  # pid

PING = const(1)

_LAP = const(268431360)  # 65535 * 4096
_RULE = "MQTT-4.8.0-1"
_NO_ID = "MQTT-2.3.1-1"
_WATCHED = ("CONNACK", "PUBACK", "SUBACK", "PINGRESP", "the rest of a packet")


class Session:
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
        while size <= window:
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

    # Sending

    def room(self) -> bool:
        """Tell whether a QoS 1 message may be sent at once."""
        return self.sent == self.head and self.sent - self.tail < self.window

    def publish(self, topic: str, payload: bytes, qos: int) -> memoryview:
        """Return PUBLISH, in flight if `qos` is 1; needs room(). `rest` follows it on the wire.

        Hot path: 48 B on a 32-bit heap, less when the length repeats. Eleven names and stack
        places at most: with more, every call takes a frame from the heap.
        """
        if topic != self._topic:
            self._set_topic(topic)
        at = self._at
        out = self._out
        if qos:
            end = self.head
            if self._pending:
                end = self._next_free(end)
            self._topics[end & self._mask] = topic
            self._payloads[end & self._mask] = payload
            self.head = self.sent = end + 1
            end = end % 65535 + 1
            out[at] = end >> 8
            out[at + 1] = end & 255
            at += 2
            qos = 2
        out[3] = 0x30 | qos
        end = at + len(payload)
        if end > 132 or end >= len(out):  # remaining length above 127: more than one byte
            return self._long(payload, end)
        out[at:end] = payload
        out[4] = end - 5
        if end != self._packet_end:
            self._packet_end = end
            self._packet = self._out_view[3:end]
        return self._packet

    def enqueue(self, topic: str, payload: "bytes | tuple") -> int:
        """Accept a message for later; return its number. A tuple is (qos, payload, …)."""
        if topic != self._topic:
            self._set_topic(topic)
        i = self.head
        if self._pending:
            i = self._next_free(i)
        if i - self.tail > self._mask:
            self._grow()
        self._topics[i & self._mask] = topic
        self._payloads[i & self._mask] = payload
        self.head = i + 1
        return i

    def send_next(self) -> "memoryview | tuple | None":
        """Return the next accepted message as PUBLISH; a tuple (topic, source, head, pid) where
        it comes from a reader; None when there is none or the window is full."""
        self._settle()
        i = self.sent
        if i == self.head or i - self.tail >= self.window:
            return None
        self.sent = i + 1
        j = i & self._mask
        topic, payload = self._topics[j], self._payloads[j]
        qos = 1
        if isinstance(payload, tuple):
            qos, payload = payload
        if not qos:  # sent once, then forgotten
            self._topics[j] = self._payloads[j] = None
            self._advance()
            return self._encode(0x30, topic, payload, 0)
        head = 0x32
        if i < self._again:
            head = 0x3A
            self.resent += 1
        if not isinstance(payload, bytes):
            return topic, payload, head, i % 65535 + 1
        return self._encode(head, topic, payload, i % 65535 + 1)

    def _settle(self) -> None:
        """Step over numbers that are finished already."""
        while self.sent != self.head and self._topics[self.sent & self._mask] is None:
            self.sent += 1
            self._advance()

    def pending_bytes(self) -> int:
        """Return the payload bytes held for messages not acknowledged yet."""
        n = 0
        for payload in self._payloads:
            if isinstance(payload, tuple):
                payload = payload[1]
            if isinstance(payload, bytes):
                n += len(payload)
        return n

    def done(self, number: int) -> bool:
        """Tell whether the message with that number has been acknowledged."""
        if not self.tail <= number < self.head:
            number -= _LAP
            if not self.tail <= number < self.head:
                return True
        return self._topics[number & self._mask] is None

    def forget(self, number: int) -> None:
        """Give up a message that cannot be sent any more (its reader has changed)."""
        if not self.done(number):
            number &= self._mask
            self._topics[number] = self._payloads[number] = None
            self._advance()

    def puback(self, pid: int) -> bytearray:
        """Return PUBACK for a message received; one buffer, so write it at once."""
        ack = self._ack
        ack[2] = pid >> 8
        ack[3] = pid & 255
        return ack

    def subscribe(self, wanted: str, qos: int) -> bytearray:
        """Return SUBSCRIBE and keep its packet id in `pid`."""
        self.pid = pid = self._control_id()
        out = packet.subscribe(pid, wanted, qos)
        self._pending[pid] = True
        return out

    def unsubscribe(self, wanted: str) -> bytearray:
        """Return UNSUBSCRIBE and keep its packet id in `pid`."""
        self.pid = pid = self._control_id()
        out = packet.unsubscribe(pid, wanted)
        self._pending[pid] = False
        return out

    def _control_id(self) -> int:
        """Return a packet id half a lap away from the messages' ones."""
        n = self.head + 32767
        while n % 65535 + 1 in self._pending:
            n += 1
        return n % 65535 + 1

    def _next_free(self, i: int) -> int:
        """Return the first number from `i` whose packet id no SUBSCRIBE in flight has."""
        while i % 65535 + 1 in self._pending:
            if i - self.tail > self._mask:
                self._grow()
            self._topics[i & self._mask] = None
            i += 1
            if self.sent == self.head:
                self.sent = i
            self.head = i
            self._advance()
        if i - self.tail > self._mask:
            self._grow()
        return i

    def _grow(self) -> None:
        """Double the ring."""
        old, size = self._mask, (self._mask + 1) * 2
        topics, payloads = [None] * size, [None] * size
        for i in range(self.tail, self.head):
            topics[i & (size - 1)] = self._topics[i & old]
            payloads[i & (size - 1)] = self._payloads[i & old]
        self._topics, self._payloads, self._mask = topics, payloads, size - 1

    def _set_topic(self, topic: str) -> None:
        """Put `topic` where every following PUBLISH expects it. Raises ValueError."""
        name = packet.topic_name(topic)
        n = len(name)
        if n + 9 > len(self._out):
            raise ValueError("topic of %d bytes: the out buffer holds %d" % (n, len(self._out)))
        self._at = 7 + n
        self._out[5] = n >> 8
        self._out[6] = n & 255
        self._out[7 : 7 + n] = name
        self._topic = topic

    def _encode(self, head: int, topic: str, payload: bytes, pid: int) -> memoryview:
        """Return a PUBLISH that was accepted before; what does not fit is left in `rest`."""
        if topic != self._topic:
            self._set_topic(topic)
        at = self._at
        if pid:
            self._out[at] = pid >> 8
            self._out[at + 1] = pid & 255
            at += 2
        self._out[3] = head
        return self._long(payload, at + len(payload))

    def _long(self, payload: bytes, end: int) -> memoryview:
        """Put `payload` before `end`, the header before the topic; return the packet."""
        out = self._out
        at = end - len(payload)
        head = out[3]
        size = end - 5
        if end > len(out):
            end = len(out)
            payload = memoryview(payload)
            self.rest = payload[end - at :]
            payload = payload[: end - at]
        out[at:end] = payload
        at = 4 - packet.length_size(size)
        out[at] = head
        packet.put_length(out, at + 1, size)
        if size != self._packet_size or end != self._packet_end:
            self._packet_size = size
            self._packet_end = end
            self._packet = self._out_view[at:end]
        return self._packet

    # Receiving

    def space(self) -> memoryview:
        """Return where to read into; never empty. Only after next() returned 0."""
        n = self._end
        if not n:
            return self._all
        pos = self._pos
        if pos:
            n -= pos
            self._in[0:n] = self._all[pos : pos + n]
            self._pos = 0
            self._end = n
        return self._all[n:]

    def feed(self, data: "bytes | memoryview") -> int:
        """Copy in as much of `data` as there is space for; return how much."""
        mv = self.space()
        n = min(len(mv), len(data))
        mv[:n] = data[:n]
        self._end += n
        return n

    def next(self, n: int = 0) -> int:
        """Take over `n` bytes read into space(); return the next event, 0 when there is none.

        PUBACKs are dealt with here. Hot path: nothing allocated while topic and sizes repeat,
        eleven places at most (see publish).
        """
        at = self._pos
        n += self._end
        self._end = n
        data = self._in
        while True:
            while n - at >= 4 and data[at] == 0x40 and data[at + 1] == 2 and not self.left:
                tail = self.tail
                if tail != self.sent and data[at + 2] << 8 | data[at + 3] == tail % 65535 + 1:
                    self.tail = tail + 1
                    self._payloads[tail & self._mask] = None
                else:
                    self._other_ack(data[at + 2] << 8 | data[at + 3])
                at += 4
            if at == n:
                self._pos = self._end = 0
                return 0
            self._pos = at
            tail = self._other(at)
            if tail >= 0:
                return tail
            at = self._pos

    def _other(self, at: int) -> int:
        """Handle what is not a whole PUBACK; -1 = look again."""
        if self.left:
            return self._next_chunk()
        if self._end - at < 2:
            return 0
        data = self._in
        size = data[at + 1]
        if size > 127:
            size = self._length(at)
            if size < 0:
                return 0
            body = self._body
        else:
            body = at + 2
        at = data[at]
        if at & 0xF0 == 0x30:
            return self._publish(at, body, body + size)
        if at == 0x40:
            if size != 2:
                raise ProtocolError("PUBACK of %d bytes" % size, _RULE)
            return 0
        return self._control(at, body, body + size)

    def _length(self, at: int) -> int:
        """Decode a remaining length of two to four bytes; -1 when it is not all there."""
        data = self._in
        size = shift = 0
        for i in range(at + 1, at + 5):
            if i >= self._end:
                return -1
            size |= (data[i] & 127) << shift
            shift += 7
            if data[i] < 128:
                if size > self._max:
                    raise ProtocolError(
                        "packet of %d bytes, more than a hub sends (%d)" % (size, self._max), _RULE
                    )
                self._body = i + 1
                return size
        raise ProtocolError("remaining length of more than four bytes", _RULE)

    def _other_ack(self, pid: int) -> None:
        """Handle a PUBACK that is not for the oldest message in flight."""
        if not self.online:
            raise ProtocolError("PUBACK before CONNACK", "MQTT-3.2.0-1")
        if not pid:
            raise ProtocolError("packet id 0", _NO_ID)
        self._advance()
        ahead = (pid - 1 - self.tail) % 65535
        if ahead < self.sent - self.tail:
            i = (self.tail + ahead) & self._mask
            if self._topics[i] is not None:
                self._topics[i] = self._payloads[i] = None
                self._advance()
                return
        self.strangers += 1  # answered twice, or by a server that remembers more than we do

    def _advance(self) -> None:
        """Move `tail` over what is finished."""
        while self.tail != self.sent and self._topics[self.tail & self._mask] is None:
            self.tail += 1

    def _publish(self, head: int, body: int, end: int) -> int:
        """Handle PUBLISH, `end` being where it will end. At most eleven places, as above."""
        if end > self._end or end - body < 2 or not self.online:
            return self._partial(head, body, end)
        data = self._in
        start = data[body] << 8 | data[body + 1]
        body += 2
        start += body  # end of the topic
        at = start
        if head & 6:
            at += 2
            if at > end or head & 4:
                self._refuse(head)
            self.qos = 1
            self.pid = data[start] << 8 | data[start + 1]
            if not self.pid:
                raise ProtocolError("packet id 0", _NO_ID)
        else:
            if at > end or head & 8:
                self._refuse(head)
            self.qos = self.pid = 0
        self.dup = head & 8
        if start != self._name_end or body != self._name_at or self._name_view != self._name:
            self._new_name(body, start)
        self._pos = end
        self.packets += 1
        if at != self._view_at or end != self._view_end:
            self._view_at = at
            self._view_end = end
            self._view = self._all[at:end]
        self.payload = self._view
        return MESSAGE

    def _refuse(self, head: int) -> None:
        """Say what is wrong with a PUBLISH."""
        if head & 6 == 6:
            raise ProtocolError("QoS 3", "MQTT-3.3.1-4")
        if head & 4:
            raise ProtocolError("QoS 2, which was never asked for", "MQTT-3.8.4-6")
        if head & 8 and not head & 2:
            raise ProtocolError("DUP with QoS 0", "MQTT-3.3.1-2")
        raise ProtocolError("PUBLISH shorter than its topic", _RULE)

    def _partial(self, head: int, body: int, end: int) -> int:
        """Wait for the rest of a PUBLISH, or begin one that is larger than the buffer."""
        if not self.online:
            raise ProtocolError("PUBLISH before CONNACK", "MQTT-3.2.0-1")
        start = 2 + (head & 2)
        if body + 2 <= self._end:
            start += self._in[body] << 8 | self._in[body + 1]
        if head & 4 or head & 10 == 8 or body + start > end:
            self._refuse(head)
        if end - self._pos <= len(self._in) or body + 2 > self._end:
            return 0
        data = self._in
        body += 2
        start = body + (data[body - 2] << 8 | data[body - 1])
        self.qos = head >> 1 & 3
        self.dup = head & 8
        self._skip = start + 2 * self.qos - body
        if body + self._skip > self._end:
            if self._skip + body - self._pos <= len(data):
                self._skip = 0
                return 0  # topic and packet id will fit
            self.topic = None
        else:
            self._new_name(body, start)
            self._skip = 2 * self.qos
            body = start
        self.left = end - body
        self._pos = body
        if not self._skip:
            self.pid = 0
            return self._begin(0)
        return self._next_chunk()

    def _new_name(self, at: int, end: int) -> None:
        """Decode a topic and remember the view it came in."""
        self._name_at = self._name_end = -1
        view = self._all[at:end]
        self.topic = packet.received_topic(view)
        self._name = bytes(view)
        self._name_view = view
        self._name_at = at
        self._name_end = end

    def _next_chunk(self) -> int:
        """Hand out what is there of a large message."""
        have = self._end - self._pos
        if self._skip:  # an overlong topic, then the packet id
            keep = 2 * self.qos
            n = max(0, min(have, self._skip - keep))
            self._skip -= n
            self._pos += n
            self.left -= n
            if self._skip > keep or have - n < keep:
                return 0
            self.pid = 0
            if keep:
                self.pid = self._in[self._pos] << 8 | self._in[self._pos + 1]
                if not self.pid:
                    raise ProtocolError("packet id 0", _NO_ID)
            return self._begin(keep)
        if not have:
            return 0
        n = min(have, self.left)
        self.payload = self._all[self._pos : self._pos + n]
        self._pos += n
        self.left -= n
        if not self.left:
            self.packets += 1
        return CHUNK

    def _begin(self, n: int) -> int:
        """Announce a large message, `n` bytes of packet id being read."""
        self._pos += n
        self._skip = 0
        self.left -= n
        self.size = self.left
        if not self.left:
            self.packets += 1
        return BEGIN

    def _control(self, head: int, body: int, end: int) -> int:
        """Handle what is neither PUBLISH nor PUBACK; -1 = nothing to tell, 0 = not all there."""
        size = end - body
        kind = head >> 4
        if not self.online and head != 0x20:
            raise ProtocolError("packet 0x%02x before CONNACK" % head, "MQTT-3.2.0-1")
        if kind not in (2, 9, 11, 13):
            raise ProtocolError("packet 0x%02x is none for a client" % head, _RULE)
        if head & 15:
            raise ProtocolError("flags of packet 0x%02x" % head, "MQTT-2.2.2-2")
        if size != (2, 3, 2, 0)[(kind - 1) >> 2 if kind != 9 else 1]:
            raise ProtocolError("packet 0x%02x of %d bytes" % (head, size), _RULE)
        if end > self._end:
            return 0
        self._pos = end
        self.packets += 1
        if kind == 13:
            self.pinging = False
            self._alive += 1
            return -1
        first, second = self._in[body], self._in[body + 1]
        if kind == 2:
            return self._connack(first, second)
        pid = first << 8 | second
        if self._pending.pop(pid, None) is not (kind == 9):
            raise ProtocolError(
                "answer to an unknown packet id %d" % pid,
                "MQTT-3.8.4-2" if kind == 9 else "MQTT-3.10.4-4",
            )
        self._alive += 1
        self.pid = pid
        if kind == 11:
            return UNSUBACK
        self.code = self._in[body + 2]
        if self.code not in (0, 1, 128):
            raise ProtocolError("SUBACK code 0x%02x" % self.code, "MQTT-3.9.3-2")
        return SUBACK

    def _connack(self, flags: int, code: int) -> int:
        if self.online:
            raise ProtocolError("a second CONNACK", _RULE)
        if flags > 1:
            raise ProtocolError("CONNACK flags 0x%02x" % flags, _RULE)
        if code > 5:
            raise ProtocolError("CONNACK code %d" % code, _RULE)
        if flags and code:
            raise ProtocolError("session present in a refusal", "MQTT-3.2.2-4")
        if flags and self.clean:
            raise ProtocolError("session present after clean session", "MQTT-3.2.2-1")
        self.present = bool(flags)
        self.code = code
        self.online = not code
        return CONNACK

    # Connection and time

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
