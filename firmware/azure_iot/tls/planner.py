"""Chooses what a TLS connection asks for, says what it will cost and why, or refuses beforehand.

Responsible for: max_fragment_length (MFL, RFC 6066 section 4), cipher suites, expected buffers and
heap. Not for: what is known and remembered (profile.py), whether there is room (room.py), making
contexts (handshake.py).

Facts behind the rules (mbedTLS 3.6): MFL saves no memory by itself; it makes small buffers safe
and lets variable buffers shrink after the handshake. The client never notices that a server
ignored it. A server's handshake message is joined inside the input buffer whatever the MFL; the
client's own Certificate message is sent whole whatever the MFL.
"""

from micropython import const

from ..errors import ProtocolError

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .profile import Build, Host, TLSProfile

_SIZES = (512, 1024, 2048, 4096)
_FULL_RECORD = const(16384)
_RANGE = const(2048)
_JOINS = const(0x030603)  # mbedTLS 3.6.3 and later join fragmented handshake messages

# Heap of one connection in bytes, 32-bit, software crypto, beyond the two record buffers; measured
# by `taproot bench tls` with the chain that costs most (RSA-4096 root and intermediate).
_OVERHEAD = const(666)  # of both record buffers together
_PEAK = const(17900)
_PEAK_BIGNUM = const(10500)  # with the module tlsbignum
_STEADY = const(2400)
_PEAK_KEEP_PEER = const(3808)
_STEADY_KEEP_PEER = const(7776)
_CLIENT_CERT = const(3500)
_ROOT = const(2464)  # one loaded RSA-4096 root


class Plan:
    """One connection: what to ask for and what it will cost."""

    mfl = 0
    ciphers: list = []
    version = "TLS 1.2"
    in_limit = 0  # largest record that can be read once connected
    out_limit = 0
    peak = 0  # bytes of heap in the handshake
    connected = 0
    range_bytes = 0  # https: ask for ranges of this size; 0 = whole answers are fine

    def __init__(self) -> None:
        self.reasons = []

    @property
    def why(self) -> str:
        """The plan in words, for the REPL and the reported twin."""
        return "%s, %s, peak %d, connected %d: %s" % (
            self.version,
            "fragments of %d" % self.mfl if self.mfl else "no fragment length",
            self.peak,
            self.connected,
            "; ".join(self.reasons),
        )


def decide(profile: "TLSProfile", name: str, own: int, roots: int, mode: str) -> Plan:
    """Return the plan for host `name`; `own`: bytes of the device's Certificate message, `roots`:
    how many get loaded, `mode`: as in TLSProfile.

    Raises ProtocolError for what cannot work.
    """
    host = profile.host(name)
    plan = Plan()
    build = profile.build
    _fits("server's", host.certificate, "input", "IN", build.in_len)
    _fits("device's", own, "output", "OUT", build.out_len)
    plan.mfl = _choose(plan.reasons.append, profile, host, own)
    _buffers(plan, profile, host)
    _suites(plan, profile, host, mode)
    _cost(plan, build, own, 0 if build.ca_callback else roots)
    return plan


def _fits(whose: str, size: int, what: str, setting: str, limit: int) -> None:
    if size <= limit:
        return
    needed = 512
    while needed < size:
        needed *= 2
    raise ProtocolError(
        "the %s certificates take %d bytes, the %s buffer holds %d: build with "
        "CONFIG_MBEDTLS_SSL_%s_CONTENT_LEN=%d" % (whose, size, what, limit, setting, needed),
        "RECORD_SIZE",
    )


def _joins_fragments(build: "Build") -> bool:
    """True when a handshake message may come in several records."""
    number = 0
    for part in build.version.split(".")[:3]:
        number = number << 8 | int(part)
    return number >= _JOINS


def _works_without(build: "Build") -> bool:
    # Without MFL, variable buffers shrink to the smaller of the two and larger records fail.
    return not build.variable_buffer or build.in_len == build.out_len


def _choose(why: "object", profile: "TLSProfile", host: "Host", own: int) -> int:
    build = profile.build
    if not build.module:
        why("stock firmware: no fragment length, no resumption")
        return 0
    if build.tls13 or not build.mfl:
        why("no fragment length in this build or in TLS 1.3")
        return 0
    limit = min(build.in_len, build.out_len)
    sizes = [n for n in _SIZES if own <= n <= limit]
    if not _joins_fragments(build):
        sizes = [n for n in sizes if n == 4096]
        why("mbedTLS below 3.6.3 cannot join fragments, so not below 4096")
    if profile.mfl is not None:
        if profile.mfl and profile.mfl not in sizes:
            raise ProtocolError(
                "fragment length %d does not fit: buffers %d, device certificates %d bytes"
                % (profile.mfl, limit, own),
                "CONFIG",
            )
        why("fragment length set by configuration")
        return profile.mfl
    if not sizes:
        why("no fragment length fits the device's certificates")
        return 0
    if host.acknowledged is False:
        why("the server ignores the fragment length")
        return 0 if _works_without(build) else sizes[-1]
    if host.acknowledged is None and profile.name != "tiny":
        why("the server is unknown, so the largest fragment length")
        return sizes[-1]
    if not build.variable_buffer:
        why("smaller fragments save nothing with fixed buffers")
        return sizes[-1]
    if host.settled:
        sizes = [n for n in sizes if n >= host.acknowledged] or sizes[-1:]
    why("the smallest that buffers, certificates and server allow")
    return sizes[0]


def _buffers(plan: Plan, profile: "TLSProfile", host: "Host") -> None:
    build = profile.build
    plan.in_limit = build.in_len
    plan.out_limit = plan.mfl or build.out_len
    if build.variable_buffer:
        plan.in_limit = plan.mfl or min(build.in_len, build.out_len)
    if not plan.mfl and not _works_without(build):
        if profile.mfl == 0:
            raise ProtocolError(
                "variable buffers of unequal size need a fragment length: set "
                "CONFIG_MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH=n or equal content lengths",
                "CONFIG",
            )
        plan.reasons.append("records above %d cannot be read" % plan.in_limit)
    if plan.in_limit >= _FULL_RECORD or plan.mfl and host.acknowledged:
        return
    plan.range_bytes = _RANGE
    if host.acknowledged is False:
        needed = max(profile.largest_record, host.record)
        if needed > plan.in_limit:
            raise ProtocolError(
                "the server ignores the fragment length and sends records of %d bytes, the "
                "input limit is %d: build with CONFIG_MBEDTLS_SSL_IN_CONTENT_LEN=16384 and "
                "CONFIG_MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH=n" % (needed, plan.in_limit),
                "RECORD_SIZE",
            )
        plan.reasons.append("a record above %d would end it" % plan.in_limit)


def _suites(plan: Plan, profile: "TLSProfile", host: "Host", mode: str) -> None:
    if mode == "ecc":
        why = "ECDSA suites only, so the server presents its ECC chain"
    elif mode == "dps" and not host.wide:
        why = "DPS has RSA certificates only"
    else:
        why = "RSA first: verifying it takes a third of the work of ECDSA in software"
    plan.reasons.append(why)
    names = []
    if profile.build.tls13 or not profile.build.module:
        plan.version = "TLS 1.2 or 1.3"
        names += ["TLS1-3-AES-128-GCM-SHA256", "TLS1-3-AES-256-GCM-SHA384"]
    sizes = ("128-%s-SHA256", "256-%s-SHA384")
    if profile.build.module and not host.wide:
        # Many servers choose by an order of their own and would take SHA-384, whose 64-bit
        # arithmetic makes a resumed handshake cost half as much again.
        plan.reasons.append("AES-256 only if the server refuses AES-128")
        sizes = sizes[:1]
    for kind, other in (("RSA", "ecc"), ("ECDSA", "dps")):
        if mode != other or (mode == "dps" and host.wide):
            for how in ("GCM", "CBC"):
                for size in sizes:
                    names.append("TLS-ECDHE-%s-WITH-AES-%s" % (kind, size % how))
    plan.ciphers = names


def _cost(plan: Plan, build: "Build", own: int, roots: int) -> None:
    buffers = build.in_len + build.out_len + _OVERHEAD
    kept = roots * _ROOT + (_CLIENT_CERT + own if own else 0)
    plan.peak = buffers + (_PEAK_BIGNUM if build.bignum else _PEAK) + kept
    if build.variable_buffer:
        buffers = plan.in_limit + plan.out_limit + _OVERHEAD
    plan.connected = buffers + _STEADY + kept
    if build.keep_peer:
        plan.peak += _PEAK_KEEP_PEER
        plan.connected += _STEADY_KEEP_PEER
