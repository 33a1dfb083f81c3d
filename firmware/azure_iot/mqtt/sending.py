"""The sending half of a session: the ring of messages and PUBLISH in the out buffer.

Responsible for: numbers and packet ids, the window, encoding, what a PUBACK frees, SUBSCRIBE ids.
Not responsible for: parsing (receiving.py), time and the lost connection (session.py, where the
theory of operation stands and the attributes are made).
Spec: MQTT 3.1.1 sections 2.3.1, 3.3, 4.3.2, 4.4, 4.6.
"""

from micropython import const

from azure_iot.errors import ProtocolError
from azure_iot.mqtt import packet

_LAP = const(268431360)  # 65535 * 4096


class Sender:
    """Half of a Session; uses the attributes that Session makes."""

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
            qos = end & self._mask
            self._topics[qos] = topic
            self._payloads[qos] = payload
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
        """Return the next accepted message as PUBLISH; a tuple (topic, source, head, number) where
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
            if not isinstance(payload, bytes):
                return topic, payload, 0x30, i
            return self._encode(0x30, topic, payload, 0)
        head = 0x32
        if i < self._again:
            head = 0x3A
            self.resent += 1
        if not isinstance(payload, bytes):
            return topic, payload, head, i
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

    def begin(self, head: int, topic: str, size: int, number: int) -> tuple:
        """Write the start of a PUBLISH whose body goes through the out buffer after it; return
        (the buffer, where the packet starts, where its body starts)."""
        if topic != self._topic:
            self._set_topic(topic)
        out = self._out
        at = self._at
        if head & 2:
            number = number % 65535 + 1
            out[at] = number >> 8
            out[at + 1] = number & 255
            at += 2
        self._topic = None  # the body will overwrite it
        size += at - 5
        start = 4 - packet.length_size(size)
        out[start] = head
        packet.put_length(out, start + 1, size)
        return self._out_view, start, at

    def _long(self, payload: bytes, end: int) -> memoryview:
        """Put `payload` before `end`, the header before the topic; return the packet.

        Hot path for up to 16 KB; at most eleven places, see publish.
        """
        out = self._out
        at = end - len(payload)
        size = end - 5
        if end > len(out):
            end = len(out)
            payload = memoryview(payload)
            self.rest = payload[end - at :]
            payload = payload[: end - at]
        out[at:end] = payload
        at = out[3]
        if 127 < size < 16384:
            out[2] = at
            out[3] = size & 127 | 128
            out[4] = size >> 7
            at = 2
        else:
            out[4 - packet.length_size(size)] = at
            at = 4 - packet.length_size(size)
            packet.put_length(out, at + 1, size)
        if size != self._packet_size or end != self._packet_end:
            self._packet_size = size
            self._packet_end = end
            self._packet = self._out_view[at:end]
        return self._packet

    def _other_ack(self, pid: int) -> None:
        """Handle a PUBACK that is not for the oldest message in flight."""
        if not self.online:  # the fast path of next() comes here first
            raise ProtocolError("PUBACK before CONNACK", "MQTT-3.2.0-1")
        if not pid:
            raise ProtocolError("packet id 0", "MQTT-2.3.1-1")
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
