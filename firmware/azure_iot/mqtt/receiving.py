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


class Receiver:
    """Half of a Session; uses the attributes that Session makes."""

    def next(self, n: int = 0) -> int:
        """Take over `n` bytes read into `space`; return the next event, 0 when there is none.

        While `more` is true call it again before reading. PUBACKs are dealt with here. Hot path:
        nothing allocated for PUBACKs, and for messages while topic and length repeat. Eleven
        names and stack places at most: with more, every call takes a frame from the heap.
        """
        if self.more:
            return self._slow(n)
        data = self._in
        tail = self.tail
        at = 0
        while n - at >= 4 and data[at] == 0x40 and data[at + 1] == 2 and tail != self.sent:
            if data[at + 2] << 8 | data[at + 3] != tail % 65535 + 1:
                break
            self._ring[tail & self._mask] = None
            tail += 1
            at += 4
        if at:
            self.tail = tail
            if at == n:
                return 0
            self._pos = at
        elif n == self._whole and self._start == self._known:  # the last one's kind again
            at = self._pid_at
            if not at:
                self.packets += 1
                return MESSAGE
            tail = self.ack
            tail[2] = data[at]
            tail[3] = data[at + 1]
            self.pid = at = tail[2] << 8 | tail[3]
            if at:
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
            raise ProtocolError("packet 0x%02x before CONNACK" % head, "MQTT-3.2.0-1")
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
                raise ProtocolError("remaining length of more than four bytes", _RULE)
        if size > self._max:
            raise ProtocolError("packet of %d bytes, the limit is %d" % (size, self._max), _RULE)
        at += 1
        if head >> 4 == 3:
            return self._publish(head, at, at + size)
        return self._control(head, at, size)

    def _publish(self, head: int, at: int, end: int) -> int:
        """Handle PUBLISH whose variable header is at `at`, also where it is not all there."""
        if head & 4:
            if head & 2:
                raise ProtocolError("QoS 3", "MQTT-3.3.1-4")
            raise ProtocolError("QoS 2, which was never asked for", "MQTT-3.8.4-6")
        if head & 10 == 8:
            raise ProtocolError("DUP with QoS 0", "MQTT-3.3.1-2")
        data = self._in
        at += 2
        body = name = at
        if at <= self._end:
            name += data[at - 2] << 8 | data[at - 1]
        body = name + (head & 2)
        if body > end:
            raise ProtocolError("PUBLISH shorter than its topic", _RULE)
        start = self._pos
        if at > self._end or end > self._end and end - start <= len(data):
            return 0
        if body > self._end and body - start <= len(data):
            return 0  # larger than the buffer, but topic and packet id will fit
        self.qos = head >> 1 & 1
        self.dup = head & 8
        self.size = end - body
        if body > self._end:
            self._pos = min(name, self._end)
            self.left = self._pos - name - 1
            self.topic = self._topic_bytes = None
            return -1
        view = data[at:name]
        if view != self._topic_bytes:
            self.topic = packet.received_topic(view)
            self._topic_bytes = bytes(view)
        self._pos = name
        self._take_id()
        if end > self._end:
            return self._begin()
        self._pos = end
        self.packets += 1
        self.payload = data[body:end]
        if self._whole == end and not start:  # the second of this length in the same place
            self._start = data[:name]
            self._known = bytes(self._start)
            self._pid_at = name if self.qos else 0
        else:
            self._known = b""
        self._whole = end
        return MESSAGE

    def _take_id(self) -> None:
        """Read the packet id of a PUBLISH, 0 where it has none."""
        self.pid = 0
        if self.qos:
            data = self._in
            at = self._pos
            self._pos = at + 2
            self.pid = data[at] << 8 | data[at + 1]
            if not self.pid:
                raise ProtocolError("packet id 0", "MQTT-2.3.1-1")
            self.puback(self.pid)

    def _begin(self) -> int:
        """Announce a large message."""
        self._whole = -1
        self.left = self.size
        self.packets += not self.left
        return BEGIN

    def _chunk(self) -> int:
        """Hand out what is there of a large message."""
        n = self._end - self._pos
        if self.left < 0:  # the rest of an overlong topic (and 1), then the packet id
            part = min(n, -1 - self.left)
            self._pos += part
            self.left += part
            if self.left < -1 or n - part < 2 * self.qos:
                return 0
            self._take_id()
            return self._begin()
        if not n:
            return 0
        n = min(n, self.left)
        self.payload = self._in[self._pos : self._pos + n]
        self._pos += n
        self.left -= n
        self.packets += not self.left
        return CHUNK

    def _control(self, head: int, at: int, size: int) -> int:
        """Handle what is not PUBLISH; -1 = nothing to tell, 0 = not all there."""
        kind = head >> 4
        if kind not in (2, 4, 9, 11, 13):
            raise ProtocolError("packet 0x%02x is none for a client" % head, _RULE)
        if head & 15:
            raise ProtocolError("flags of packet 0x%02x" % head, "MQTT-2.2.2-2")
        if size != (3 if kind == 9 else 0 if kind == 13 else 2):
            raise ProtocolError("packet 0x%02x of %d bytes" % (head, size), _RULE)
        if at + size > self._end:
            return 0
        self._pos = at + size
        if kind == 13:
            self.packets += 1
            self.pinging = False
            self._alive += 1
            return -1
        data = self._in
        pid = data[at] << 8 | data[at + 1]
        if kind == 4:
            self._acked(pid)
            return -1
        self.packets += 1
        if kind == 2:
            return self._connack(data[at], data[at + 1])
        if self._pending.pop(pid, None) is not (kind == 9):
            raise ProtocolError(
                "answer to an unknown packet id %d" % pid,
                "MQTT-3.8.4-2" if kind == 9 else "MQTT-3.10.4-4",
            )
        self._alive += 1
        self.pid = pid
        self._whole = -1  # a message like the last one would be taken for one with this id
        if kind == 11:
            return UNSUBACK
        self.code = data[at + 2]
        if self.code not in (0, 1, 128):
            raise ProtocolError("SUBACK code 0x%02x" % self.code, "MQTT-3.9.3-2")
        return SUBACK

    def _connack(self, flags: int, code: int) -> int:
        if self.online or flags > 1 or code > 5:
            raise ProtocolError("a CONNACK too many, or wrong: %d %d" % (flags, code), _RULE)
        if flags and code:
            raise ProtocolError("session present in a refusal", "MQTT-3.2.2-4")
        if flags and self.clean:
            raise ProtocolError("session present after clean session", "MQTT-3.2.2-1")
        self.present = flags > 0
        self.code = code
        self.online = not code
        return CONNACK
