"""The receiving half of a session: parses in place everything a server may send.

Responsible for: packet boundaries, PUBLISH small and large, CONNACK, SUBACK, UNSUBACK, PINGRESP,
and refusing what breaks a rule. Not responsible for: the ring that PUBACKs free (sending.py),
time (session.py, where the theory of operation stands and the attributes are made).
Spec: MQTT 3.1.1 sections 2.2, 3.2 to 3.13, 4.8.
"""

from micropython import const

from azure_iot.errors import ProtocolError
from azure_iot.mqtt import packet

MESSAGE = const(1)  # topic, payload, qos, pid, dup
BEGIN = const(2)  # a large message: topic (None if longer than the buffer), size, qos, pid, dup
CHUNK = const(3)  # payload; `left` bytes follow
CONNACK = const(4)  # present, code
SUBACK = const(5)  # pid, code
UNSUBACK = const(6)  # pid

_RULE = "MQTT-4.8.0-1"
_NO_ID = "MQTT-2.3.1-1"


class Receiver:
    """Half of a Session; uses the attributes that Session makes."""

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
            self.topic = self._name = None
            self._name_at = -1
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
        if self._name is None or view != self._name:  # else the same one at another place
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
        if kind not in (2, 4, 9, 11, 13):
            raise ProtocolError("packet 0x%02x is none for a client" % head, _RULE)
        if head & 15:
            raise ProtocolError("flags of packet 0x%02x" % head, "MQTT-2.2.2-2")
        if size != (3 if kind == 9 else 0 if kind == 13 else 2):
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
        if kind == 4:  # in two pieces, or with a long form of its length
            self._other_ack(pid)
            return -1
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
