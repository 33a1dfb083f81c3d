"""Keeps TLS sessions for resumption, bound to everything a resumed handshake does not check.

Responsible for: which saved session may be offered to whom, and its form in RTC memory.
Not for: getting or offering sessions (handshake.py), where the bytes rest (the `kv` object).

A resumed handshake shows no certificate: mbedTLS checks neither host name, nor chain, nor dates
again. So a session is bound to host, port, trust bundle, credential and profile, ends with the
earliest certificate of its chain, and ends when the root that anchored it is no longer trusted.

A session holds the master secret: it stays in RAM, or in RTC memory (which deep sleep keeps and
power loss does not) through `kv`, never in flash. There is one, in one place, so that a new one
overwrites it and what no longer fits is erased. Form, at most 512 bytes: version 1, expiry 4,
binding 16, root 32, session n, HMAC-SHA256 truncated to 16.
"""

from hashlib import sha256

from micropython import const

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

_VERSION = const(1)
_HEAD = const(53)  # version, expiry, binding, root
_MAC = const(16)
_MAX_RECORD = const(512)
_MAX_AGE_S = const(86400)
_KEY = "tls"


def binding(host: str, port: int, bundle: int, credential: str, profile: str) -> bytes:
    """Return the digest of all a session belongs to; any change makes another digest."""
    text = "%s\n%d\n%d\n%s\n%s" % (host, port, bundle, credential, profile)
    return sha256(text.encode()).digest()[:16]


class Sessions:
    """The newest session of one client. `kv` is RTC memory or None for RAM alone.

    `mac_key`: secret of this device (its SAS key, for instance) that protects what rests in `kv`;
    without one nothing is written there. `still_trusted(root)`: says whether the root with that
    SHA-256 may still anchor a connection.
    """

    why_not_kept = ""

    def __init__(
        self,
        clock: "object",
        kv: "object | None" = None,
        mac_key: bytes = b"",
        still_trusted: "Callable[[bytes], bool] | None" = None,
        max_age_s: int = _MAX_AGE_S,
    ) -> None:
        self._clock = clock
        self._kv = kv if mac_key else None
        self._mac_key = mac_key
        self._max_age_s = max_age_s
        self.still_trusted = still_trusted
        self._record: bytes | None = None

    def put(self, bound: bytes, blob: bytes, root: bytes, not_after: int) -> bool:
        """Keep a session of a fully verified connection; False when it cannot be kept.

        `root` is the SHA-256 of the anchoring root, `not_after` the end of the chain's validity.
        """
        now = self._clock.unix_time()
        expires = min(not_after, now + self._max_age_s)
        if expires <= now or len(root) != 32 or expires >> 32:
            self.why_not_kept = "no root or no validity known"
            return False
        record = bytes((_VERSION,)) + expires.to_bytes(4, "big") + bound + root + blob
        self._record = record
        self.why_not_kept = ""
        if self._kv is not None:
            if len(record) + _MAC > _MAX_RECORD:
                self.why_not_kept = (
                    "a session of %d bytes is too large for RTC memory; build with "
                    "CONFIG_MBEDTLS_SSL_KEEP_PEER_CERTIFICATE=n" % len(blob)
                )
                self._kv.delete(_KEY)
            else:
                try:
                    self._kv.set(_KEY, record + self._seal(record))
                except (OSError, ValueError) as error:  # no room beside what others keep there
                    self.why_not_kept = str(error)
        return True

    def get(self, bound: bytes) -> bytes | None:
        """Return the session to offer, None when there is none that may be: then it is erased."""
        if self._record is None and self._kv is not None:
            try:
                sealed = self._kv.get(_KEY)
            except (OSError, ValueError):  # what rests there is not ours
                sealed = None
            if not sealed:
                return None
            self._record = self._unseal(sealed)
        root, expires = self.anchor(bound)
        now = self._clock.unix_time()
        # A saved age beyond the limit means the clock went back: do not trust either.
        fresh = root is not None and now < expires <= now + self._max_age_s
        if not fresh or (self.still_trusted is not None and not self.still_trusted(root)):
            self.drop_all()
            return None
        return self._record and self._record[_HEAD:]

    def anchor(self, bound: bytes) -> tuple:
        """Return `(SHA-256 of the root, Unix time of the end)` of the session in RAM, or Nones."""
        record = self._record
        if record is None or record[5:21] != bound:
            return None, None
        return record[21:_HEAD], int.from_bytes(record[1:5], "big")

    def drop_all(self) -> None:
        """Forget and erase what is kept, also what an earlier boot left."""
        self._record = None
        if self._kv is not None:
            self._kv.delete(_KEY)

    def _unseal(self, sealed: bytes) -> bytes | None:
        if not _HEAD + _MAC < len(sealed) <= _MAX_RECORD:
            return None
        record = sealed[:-_MAC]
        differs = 0
        for a, b in zip(self._seal(record), sealed[-_MAC:]):
            differs |= a ^ b
        if differs or record[0] != _VERSION:
            return None
        return bytes(record)

    def _seal(self, record: bytes) -> bytes:
        from ..sas import hmac_sha256

        return hmac_sha256(self._mac_key, b"tls-session\x00" + record)[:_MAC]
