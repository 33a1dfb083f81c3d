"""The receiving half of a session: parses in place everything a server may send.

Responsible for: packet boundaries, PUBLISH small and large, CONNACK, SUBACK, UNSUBACK, PINGRESP,
and refusing what breaks a rule. Not responsible for: the ring that PUBACKs free (sending.py),
time (session.py, where the theory of operation stands).
Spec: MQTT 3.1.1 sections 2.2, 3.2 to 3.13, 4.8.
"""

from micropython import const

from .packet import broken, received_topic

MESSAGE = const(1)  # topic, payload, qos, pid
BEGIN = const(2)  # a large message: topic (None if longer than the buffer), size, qos, pid
CHUNK = const(3)  # payload; `left` bytes follow
CONNACK = const(4)  # present, code
SUBACK = const(5)  # pid, code
UNSUBACK = const(6)  # pid

# By the type of a packet: the length of those that have only one, else 255 (MQTT section 2.2.1).
_SIZES = const(b"\xff\xff\2\xff\2\xff\xff\xff\xff\3\xff\2\xff\0\xff\xff")


class Receiver:
    """Half of a Session; the other one handles PUBACKs."""

    def __init__(self, buffer: "int | bytearray", max_packet: int, clean: bool) -> None:
        # what runs per packet first: early names keep their own place in the attribute table
        self._in = memoryview(bytearray(buffer) if isinstance(buffer, int) else buffer)
        self._whole = -1  # length of the last message, alone in the buffer; what it began with
        self._start, self._known = None, b""
        self._pid_at = self.pid = self.packets = 0  # packets received but PUBACKs
        self.ack = bytearray(b"\x40\x02\0\0")  # PUBACK for the last message
        self.topic = self.payload = self._raw = None
        self._max = max_packet
        self.clean = clean
        self.present = self.dup = False  # dup: the message may have come before
        self.qos = self.size = self.code = self._alive = 0

    def next(self, n: int = 0) -> int:
        """Take over `n` bytes read into `space`; return the next event, 0 when there is none.

        While `more` is true call it again before reading. PUBACKs are dealt with here. Hot path:
        nothing allocated for PUBACKs, and for messages while topic and length repeat. Eleven
        names and stack places at most: with more, every call takes a frame from the heap.
        """
        if self.more:
            return self._slow(n)
        data = self._in
        if data[0] == 0x40:  # PUBACKs, as long as they come in order
            tail = self.tail
            into, mask = self._ring, self._mask
            at = 0
            while n - at >= 4 and data[at + 1] == 2 and tail != self.sent:
                if data[at + 2] << 8 | data[at + 3] != tail % 65535 + 1:
                    break
                into[tail & mask] = None
                tail += 1
                at += 4
                if at == n:
                    self.tail = tail
                    return 0
                if data[at] != 0x40:
                    break
            self.tail = tail
            self._pos = at
        elif n == self._whole and self._start == self._known:  # the last one's kind again
            at = self._pid_at
            if at:
                into = self.ack
                into[2] = data[at]
                into[3] = data[at + 1]
                self.pid = at = into[2] << 8 | into[3]
                if not at:
                    return self._slow(n)
            self.packets += 1
            return MESSAGE
        return self._slow(n)

    def _slow(self, n: int) -> int:
        """Look at every packet from its beginning."""
        self._end += n
        event = -1
        while event < 0:
            event = self._parse()
        n = self._end - self._pos
        if not n:
            self._pos = self._end = 0
            self.space = self._in
        elif not event:
            self._in[:n] = self._in[self._pos : self._end]
            self._pos = 0
            self._end = n
            self.space = self._in[n:]
        self.more = n or self.left or not self.online
        if event and not self.left:
            self.packets += 1
        return event

    def _parse(self) -> int:
        """Handle one packet; -1 = look again, 0 = it is not all there."""
        if self.left:
            return self._chunk()
        data = self._in
        at = self._pos
        if at == self._end:
            return 0
        head = data[at]
        if not self.online and head != 0x20:
            raise broken("3.2.0-1", head)
        size = shift = 0
        while True:
            at += 1
            if at == self._end:
                return 0
            size |= (data[at] & 127) << shift
            shift += 7
            if data[at] < 128:
                break
            if shift == 28:
                raise broken("4.8.0-1 length")
        if size > self._max:
            raise broken("4.8.0-1 limit", size, self._max)
        at += 1
        if head >> 4 == 3:
            return self._publish(head, at, at + size)
        return self._control(head, at, size)

    def _publish(self, head: int, at: int, end: int) -> int:
        """Handle PUBLISH whose variable header is at `at`, also where it is not all there."""
        if head & 4:
            raise broken("3.3.1-4" if head & 2 else "3.8.4-6")
        if head & 10 == 8:
            raise broken("3.3.1-2")
        data = self._in
        start = self._pos
        there = self._end
        at += 2
        name = at
        if at <= there:
            name += data[at - 2] << 8 | data[at - 1]
        body = name + (head & 2)
        if body > end:
            raise broken("4.8.0-1 topic")
        for need in (end, body, at):  # the packet if the buffer holds it, else as much as it can
            if need - start <= len(data):
                break
        if need > there:
            return 0
        self.qos = head >> 1 & 1
        self.dup = head & 8 > 0
        self.size = end - body
        if body > there:
            self._pos = min(name, there)
            self.left = self._pos - name - 1
            self.topic = self._raw = None
            return -1
        view = data[at:name]
        if view != self._raw:
            self.topic = received_topic(view)
            self._raw = bytes(view)
        if end > there:
            return self._begin(name)
        self._take_id(name)
        self._pos = end
        self.payload = data[body:end]
        self._known = b""
        if self._whole == end and not start:  # the second of this length in the same place
            self._start = data[:name]
            self._known = bytes(self._start)
            self._pid_at = name if self.qos else 0
        self._whole = end
        return MESSAGE

    def _id(self, at: int) -> int:
        """Return the packet id at `at`."""
        pid = self._in[at] << 8 | self._in[at + 1]
        if not pid:
            raise broken("2.3.1-1")
        return pid

    def _take_id(self, at: int) -> None:
        """Take the packet id of a PUBLISH from `at`, 0 where it has none."""
        self.pid = self.qos and self._id(at)
        self.puback(self.pid)

    def _begin(self, at: int) -> int:
        """Announce a large message, whose packet id is at `at`."""
        self._take_id(at)
        self._pos = at + 2 * self.qos
        self._whole = -1
        self.left = self.size
        return BEGIN

    def _chunk(self) -> int:
        """Hand out what is there of a large message."""
        at = self._pos
        n = self._end - at
        if self.left < 0:  # the rest of an overlong topic (and 1), then the packet id
            part = min(n, -1 - self.left)
            self._pos = at = at + part
            self.left += part
            if self.left < -1 or n - part < 2 * self.qos:
                return 0
            return self._begin(at)
        if not n:
            return 0
        n = min(n, self.left)
        self._pos = at + n
        self.payload = self._in[at : at + n]
        self.left -= n
        return CHUNK

    def _control(self, head: int, at: int, size: int) -> int:
        """Handle what is not PUBLISH; -1 = nothing to tell, 0 = not all there."""
        kind = head >> 4
        if _SIZES[kind] == 255:
            raise broken("4.8.0-1 kind", head)
        if head & 15:
            raise broken("2.2.2-2", head)
        if size != _SIZES[kind]:
            raise broken("4.8.0-1 size", head, size)
        if at + size > self._end:
            return 0
        self._pos = at + size
        if kind == 13:
            self.packets += 1
            self.pinging = False
            self._alive += 1
            return -1
        data = self._in
        if kind == 2:
            return self._connack(data[at], data[at + 1])
        pid = self._id(at)
        if kind == 4:
            self._acked(pid)
            return -1
        if self._pending.pop(pid, None) is not (kind == 9):
            raise broken("3.8.4-2" if kind == 9 else "3.10.4-4", pid)
        self._alive += 1
        self.pid = pid
        self._whole = -1  # a message like the last one would be taken for one with this id
        if kind == 11:
            return UNSUBACK
        self.code = data[at + 2]
        if self.code not in b"\0\1\x80":
            raise broken("3.9.3-2", self.code)
        return SUBACK

    def _connack(self, flags: int, code: int) -> int:
        if self.online or flags > 1 or code > 5:
            raise broken("4.8.0-1 connack", flags, code)
        if flags and code:
            raise broken("3.2.2-4")
        if flags and self.clean:
            raise broken("3.2.2-1")
        self.present = flags > 0
        self.code = code
        self.online = not code
        return CONNACK
