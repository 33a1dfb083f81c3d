"""What the firmware's mbedTLS offers, and what is remembered of a host.

Responsible for: the facts that a plan rests on. Not for: the plan (profile.py).
"""

from micropython import const

_JOINS = const(0x03060300)  # mbedTLS 3.6.3 and later join fragmented handshake messages


class Build:
    """What the firmware offers. The default is stock MicroPython, of which little is known."""

    def __init__(
        self,
        *,
        module: bool = False,
        in_len: int = 16384,
        out_len: int = 4096,
        variable_buffer: bool = False,
        keep_peer: bool = True,
        mfl: bool = False,
        ca_callback: bool = False,
        tls13: bool = False,
        bignum: bool = False,
        version: str = "",
    ) -> None:
        self.module = module
        self.in_len = in_len
        self.out_len = out_len
        self.variable_buffer = variable_buffer
        self.keep_peer = keep_peer
        self.mfl = mfl
        self.ca_callback = ca_callback
        self.tls13 = tls13
        self.bignum = bignum
        self.version = version

    @property
    def joins_fragments(self) -> bool:
        """True when a handshake message may come in several records (mbedTLS 3.6.3 and later)."""
        number = 0
        for part in self.version.split(".")[:3]:
            number = number << 8 | int(part)
        return number << 8 >= _JOINS


def build_of(module: "object | None") -> Build:
    """Return the build behind the C module `tlsopt`, or stock firmware for None."""
    if module is None:
        return Build()
    return Build(
        module=True,
        in_len=module.IN_CONTENT_LEN,
        out_len=module.OUT_CONTENT_LEN,
        variable_buffer=module.VARIABLE_BUFFER,
        keep_peer=module.KEEP_PEER_CERTIFICATE,
        mfl=module.MFL,
        ca_callback=module.CA_CALLBACK,
        tls13=module.TLS13,
        bignum=getattr(module, "BIGNUM", False),
        version=module.MBEDTLS_VERSION,
    )


class Host:
    """What earlier connections showed of one host."""

    def __init__(self) -> None:
        self.acknowledged = None  # None unknown, False ignored, else the fragment length
        self.certificate = 0  # bytes of its Certificate message
        self.record = 0  # its largest record
        self.via = None  # digest of the root that anchored it
