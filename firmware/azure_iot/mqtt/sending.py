"""The sending half of a session: the ring of messages and PUBLISH in the out buffer.

Responsible for: numbers and packet ids, the window, encoding, what a PUBACK frees, SUBSCRIBE ids.
Not responsible for: parsing (receiving.py), time and the lost connection (session.py, where the
theory of operation stands and the attributes are made).
Spec: MQTT 3.1.1 sections 2.3.1, 3.3, 4.3.2, 4.4, 4.6.
"""

from azure_iot.errors import ProtocolError
from azure_iot.mqtt import packet

_len = len  # per message: a builtin is searched for one by one


class Sender:
    """Half of a Session; uses the attributes that Session makes."""

    def publish(self, topic: str, payload: bytes, qos: int) -> memoryview:
        """Return PUBLISH, in flight if `qos` is 1; needs room(). `rest` follows it on the wire,
        `due` is the length of both.

        Hot path: no allocation while topic, length and QoS repeat. Eleven names and stack places
        at most: with more, every call takes a frame from the heap.
        """
        if topic is not self._topic or _len(payload) << 1 | qos != self._kind:
            return self._first(topic, payload, qos)
        if qos:
            qos = self.sent
            self.sent = qos + 1
            into = self._ring
            at = qos & self._mask
            into[at] = payload
            into[~at] = topic
            qos = qos % 65535 + 1
            into = self._out
            at = self._at
            into[at] = qos >> 8
            into[at + 1] = qos & 255
        else:
            into = self._out
        into[self._body] = payload
        return self._packet

    def _first(self, topic: str, payload: bytes, qos: int) -> memoryview:
        """Publish the first of its kind and prepare the out buffer for the next ones."""
        if not self._pending:  # else ids have to be compared
            start, at = self.frame(0x30 | qos << 1, topic, len(payload), 0)
            end = at + len(payload)
            if end <= len(self._out):
                self._kind = len(payload) << 1 | qos
                self._body = self[at:end]
                self._packet = memoryview(self._out)[start:end]
                self.due = end - start
                return self.publish(topic, payload, qos)
        if not qos:
            return self._encode(0x30, topic, payload, 0)
        self.enqueue(topic, payload)
        self._settle()
        return self._send()

    def __getitem__(self, part: slice) -> slice:
        """Return the slice itself: MicroPython has no slice()."""
        return part

    def room(self) -> bool:
        """Tell whether a QoS 1 message may be sent at once."""
        return not self.queued and self.sent - self.tail < self.window

    def enqueue(self, topic: str, payload: "bytes | tuple") -> int:
        """Accept a message for later; return its number. A tuple is (qos, payload).

        Leaves the out buffer alone: a packet may be on its way out of it.
        """
        if topic is not self._topic:
            self._name(topic)
        while True:
            i = self.sent + self.queued
            if i - self.tail > self._mask:
                self._grow()
            at = i & self._mask
            self.queued += 1
            if i % 65535 + 1 not in self._pending:
                break
            self._ring[at] = None  # a SUBSCRIBE in flight has this id
        self._ring[at] = payload
        self._ring[~at] = topic
        return i

    def send_next(self) -> "memoryview | tuple | None":
        """Return the next accepted message as PUBLISH; a tuple (topic, source, head, number) where
        it comes from a reader; None when there is none or the window is full."""
        self._settle()
        if not self.queued or self.sent - self.tail >= self.window:
            return None
        return self._send()

    def _send(self) -> "object":
        """Return the next message, whatever the window says; see send_next()."""
        i = self.sent
        self.sent = i + 1
        self.queued -= 1
        at = i & self._mask
        topic, payload = self._ring[~at], self._ring[at]
        head = 0x32
        if isinstance(payload, tuple):
            head, payload = payload
            head = 0x32 if head else 0x30
        if head == 0x30:  # sent once, then forgotten
            self._ring[at] = None
            self._advance()
        elif i < self._again:
            head = 0x3A
            self.resent += 1
        if not isinstance(payload, bytes):
            return topic, payload, head, i
        return self._encode(head, topic, payload, i)

    def _settle(self) -> None:
        """Step over numbers that are finished already."""
        while self.queued and self._ring[self.sent & self._mask] is None:
            self.sent += 1
            self.queued -= 1
        self._advance()

    def _advance(self) -> None:
        """Move `tail` over what is finished."""
        while self.tail != self.sent and self._ring[self.tail & self._mask] is None:
            self.tail += 1

    def pending_bytes(self) -> int:
        """Return the payload bytes held for messages not acknowledged yet."""
        n = 0
        for payload in self._ring:
            if isinstance(payload, tuple):
                payload = payload[1]
            if isinstance(payload, bytes):
                n += len(payload)
        return n

    def done(self, number: int) -> bool:
        """Tell whether the message with that number has been acknowledged."""
        return number < self.tail or self._ring[number & self._mask] is None

    def forget(self, number: int) -> None:
        """Give up a message that cannot be sent any more (its reader has changed)."""
        if number >= self.tail:
            self._ring[number & self._mask] = None
            self._advance()

    def puback(self, pid: int) -> bytearray:
        """Return PUBACK for a message received; one buffer, so write it at once."""
        ack = self.ack
        ack[2] = pid >> 8
        ack[3] = pid & 255
        return ack

    def subscribe(self, wanted: str, qos: int) -> memoryview:
        """Return SUBSCRIBE, UNSUBSCRIBE for QoS -1, and keep its packet id in `pid`."""
        n = self.sent + self.queued + 32767  # half a lap away from the messages' ones
        while n % 65535 + 1 in self._pending:
            n += 1
        self.pid = n % 65535 + 1
        out = packet.subscribe(self.pid, wanted, qos)
        self._pending[self.pid] = qos >= 0
        self._kind = self._whole = -1  # neither direction may take `pid` for a message's
        return out

    def _grow(self) -> None:
        """Double the ring."""
        old, new = self._mask, self._mask * 2 + 1
        ring = [None] * (2 * new + 2)
        for i in range(self.tail, self.sent + self.queued):
            ring[i & new] = self._ring[i & old]
            ring[~(i & new)] = self._ring[~(i & old)]
        self._ring, self._mask = ring, new

    def _name(self, topic: str) -> bytes:
        """Return a topic that fits the out buffer, checked. Raises ValueError."""
        name = packet.topic_name(topic)
        if len(name) + 9 > len(self._out):
            raise ValueError("topic of %d bytes for a buffer of %d" % (len(name), len(self._out)))
        return name

    def frame(self, head: int, topic: str, size: int, number: int) -> tuple:
        """Write what stands before `size` bytes of payload into the out buffer; return where it
        starts and where it ends."""
        out = self._out
        self._kind = -1
        if topic is not self._topic:
            name = self._name(topic)
            out[5] = len(name) >> 8
            out[6] = len(name) & 255
            self._at = 7 + len(name)
            out[7 : self._at] = name
            self._topic = topic
        at = self._at
        if head & 2:
            number = number % 65535 + 1
            out[at] = number >> 8
            out[at + 1] = number & 255
            at += 2
        return packet.put_head(out, 5, head, size + at - 5), at

    def _encode(self, head: int, topic: str, payload: bytes, number: int) -> memoryview:
        """Return a PUBLISH; what does not fit the out buffer is left in `rest`."""
        start, at = self.frame(head, topic, len(payload), number)
        end = at + len(payload)
        self.due = end - start
        out = memoryview(self._out)
        if end > len(out):
            end = len(out)
            view = memoryview(payload)
            self.rest = view[end - at :]
            payload = view[: end - at]
        out[at:end] = payload
        return out[start:end]

    def _acked(self, pid: int) -> None:
        """Handle a PUBACK."""
        if not pid:
            raise ProtocolError("packet id 0", "MQTT-2.3.1-1")
        self._advance()
        ahead = (pid - 1 - self.tail) % 65535
        at = (self.tail + ahead) & self._mask
        if ahead < self.sent - self.tail and self._ring[at] is not None:
            self._ring[at] = None
            self._advance()
        else:
            self.strangers += 1  # answered twice, or by a server that remembers more than we do
