"""The sending half of a session: the ring of messages and PUBLISH in the out buffer.

Responsible for: numbers and packet ids, the window, encoding, what a PUBACK frees, SUBSCRIBE ids.
Not responsible for: parsing (receiving.py), time and the lost connection (session.py, where the
theory of operation stands).
Spec: MQTT 3.1.1 sections 2.3.1, 3.3, 4.3.2, 4.4, 4.6.
"""

from . import packet

_len = len  # per message: a builtin is searched for one by one


class Sender:
    """Half of a Session."""

    def __init__(self, window: int, buffer: "int | bytearray") -> None:
        # what runs per packet first: early names keep their own place in the attribute table
        self.tail = self.sent = self.queued = 0
        size = 8
        while size < window:
            size *= 2
        self._ring = [None] * (2 * size)
        self._mask = size - 1
        self._out = bytearray(buffer) if isinstance(buffer, int) else buffer
        self._topic = None  # the one in the out buffer; length and QoS prepared there
        self._kind = -1
        self._at = 0  # end of that topic
        self._body = self._packet = None  # where the payload goes, and the view to be written
        self.due = 0
        self.window = window
        self._again = 0  # numbers below this have been sent before
        self.resent = self.strangers = 0  # messages sent again; PUBACKs for nothing in flight

    def publish(self, topic: str, payload: bytes, qos: int) -> memoryview:
        """Return PUBLISH, in flight if `qos` is 1; needs room(), or sent below `until`. `rest`
        follows it on the wire, `due` is the length of both.

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

    def _first(self, topic: str, payload: bytes, qos: int) -> "object":
        """Publish the first of its kind."""
        self.enqueue(topic, payload if qos else (0, payload))
        return self.send_next()

    def __getitem__(self, part: slice) -> slice:
        """Return the slice itself: MicroPython has no slice()."""
        return part

    def room(self) -> bool:
        """Tell whether a message may be sent at once, and set `until`: while `sent` is below it,
        that holds without asking again."""
        self.until = 0 if self.queued else self.tail + self.window
        return self.sent < self.until

    def enqueue(self, topic: str, payload: "bytes | tuple") -> int:
        """Accept a message for later; return its number. A tuple is (qos, payload).

        Leaves the out buffer alone: a packet may be on its way out of it.
        """
        if topic is not self._topic:
            self._name(topic)
        self.until = 0
        number = self.sent + self.queued
        while number % 65535 + 1 in self._pending:  # has the id of a SUBSCRIBE: left out
            number += 1
        while number - self.tail > self._mask:
            self._grow()
        self.queued = number + 1 - self.sent
        at = number & self._mask
        self._ring[at] = payload
        self._ring[~at] = topic
        return number

    def send_next(self) -> "memoryview | tuple | None":
        """Return the next accepted message as PUBLISH; a tuple (topic, source, head, number) where
        it comes from a reader; None when there is none or the window is full."""
        payload = None
        while payload is None:  # otherwise finished, or left out
            self._advance()
            i = self.sent
            if not self.queued or i - self.tail >= self.window:
                return None
            self.sent = i + 1
            self.queued -= 1
            at = i & self._mask
            payload = self._ring[at]
        topic = self._ring[~at]
        qos = 1
        if isinstance(payload, tuple):
            qos, payload = payload
        head = 0x30 | qos << 1
        if not qos:  # sent once, then forgotten
            self.forget(i)
        elif i < self._again:
            head = 0x3A
            self.resent += 1
        if not isinstance(payload, bytes):
            return topic, payload, head, i
        return self._encode(head, topic, payload, i)

    def _advance(self) -> None:
        """Move `tail` over what is finished."""
        while self.tail != self.sent and self.done(self.tail):
            self.tail += 1

    def held(self) -> int:
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
        pid = (self.sent + self.queued + 32767) % 65535 + 1  # half a lap from the messages' ones
        while pid in self._pending:
            pid = pid % 65535 + 1
        out = packet.subscribe(pid, wanted, qos)
        self.pid = pid
        self._pending[pid] = qos >= 0
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
        """Return a topic that fits the out buffer, as topic_name(). Raises ValueError."""
        name = packet.topic_name(topic)
        if len(name) + 7 > len(self._out):
            raise ValueError(packet.words("buffer", len(name) - 2, len(self._out)))
        return name

    def frame(self, head: int, topic: str, size: int, number: int) -> tuple:
        """Write what stands before `size` bytes of payload into the out buffer; return where it
        starts and where it ends."""
        out = self._out
        self._kind = -1
        if topic is not self._topic:
            name = self._name(topic)
            self._at = 5 + len(name)
            out[5 : self._at] = name
            self._topic = topic
        at = self._at
        if head & 2:
            number = number % 65535 + 1
            out[at] = number >> 8
            out[at + 1] = number & 255
            at += 2
        return packet.put_head(out, 5, head, size + at - 5), at

    def _encode(self, head: int, topic: str, payload: bytes, number: int) -> memoryview:
        """Return a PUBLISH; what does not fit the out buffer is left in `rest`. Where all fits
        and more of its kind may follow, the buffer is prepared for them."""
        n = len(payload)
        start, at = self.frame(head, topic, n, number)
        end = at + n
        self.due = end - start
        out = memoryview(self._out)
        if end > len(out):
            end = len(out)
            view = memoryview(payload)
            self.rest = view[end - at :]
            payload = view[: end - at]
        elif not self._pending and not head & 8:
            self._kind = n << 1 | head >> 1 & 1
            self._body = self[at:end]
            self._packet = out[start:end]
        out[at:end] = payload
        return out[start:end]

    def _acked(self, pid: int) -> None:
        """Handle a PUBACK."""
        self._advance()
        number = self.tail + (pid - 1 - self.tail) % 65535
        if number < self.sent and not self.done(number):
            self.forget(number)
        else:
            self.strangers += 1  # answered twice, or by a server that remembers more than we do
