"""Chooses what a TLS connection asks for, says what it will cost and why, or refuses beforehand.

Responsible for: max_fragment_length (MFL, RFC 6066 section 4), cipher suites, expected buffers and
heap, and what is remembered per host. Not for: making contexts (context.py).

    profile = TLSProfile(build=build_of(tlsopt))     # build.py
    plan = profile.plan("hub.azure-devices.net")     # plan.mfl, plan.peak, plan.why
    profile.learn("hub.azure-devices.net", acknowledged=4096, certificate=3800)

Facts behind the rules (mbedTLS 3.6): MFL saves no memory by itself; it makes small buffers safe
and lets variable buffers shrink after the handshake. The client never notices that a server
ignored it. A server's handshake message is joined inside the input buffer whatever the MFL; the
client's own Certificate message is sent whole whatever the MFL.
"""

from micropython import const

from ..errors import ConnectionFailedError, ProtocolError
from .build import Build, Host

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

_SIZES = (512, 1024, 2048, 4096)
_FULL_RECORD = const(16384)
_RANGE = const(2048)
_HOSTS = const(4)

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

_RSA = (
    "TLS-ECDHE-RSA-WITH-AES-128-GCM-SHA256",
    "TLS-ECDHE-RSA-WITH-AES-256-GCM-SHA384",
    "TLS-ECDHE-RSA-WITH-AES-128-CBC-SHA256",
    "TLS-ECDHE-RSA-WITH-AES-256-CBC-SHA384",
)
_ECDSA = (
    "TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256",
    "TLS-ECDHE-ECDSA-WITH-AES-256-GCM-SHA384",
    "TLS-ECDHE-ECDSA-WITH-AES-128-CBC-SHA256",
    "TLS-ECDHE-ECDSA-WITH-AES-256-CBC-SHA384",
)
_TLS13 = ("TLS1-3-AES-128-GCM-SHA256", "TLS1-3-AES-256-GCM-SHA384")


class Plan:
    """One connection: what to ask for and what it will cost."""

    def __init__(self) -> None:
        self.mfl = 0
        self.ciphers = ()
        self.version = "TLS 1.2"
        self.in_limit = 0  # largest record that can be read once connected
        self.out_limit = 0
        self.peak = 0  # bytes of heap in the handshake
        self.connected = 0
        self.block = 0  # largest single block
        self.range_bytes = 0  # https: ask for ranges of this size; 0 = whole answers are fine
        self.reasons = []

    @property
    def why(self) -> str:
        """The plan in words, for the REPL and the reported twin."""
        fragment = "no fragment length" if not self.mfl else "fragments of %d" % self.mfl
        return "%s, %s, peak %d, connected %d: %s" % (
            self.version,
            fragment,
            self.peak,
            self.connected,
            "; ".join(self.reasons),
        )


class TLSProfile:
    """Policy of a device's connections, and its memory of hosts.

    `name`: "default", "tiny" (smallest buffers from the first connection on) or "stock".
    `mode`: "hub" (RSA and ECDSA chains), "ecc" (ECDSA only) or "dps" (RSA only).
    `mfl`: a fixed fragment length instead of the chosen one. `memory()` returns
    (free bytes, largest free block or 0) of the heap TLS lives on.
    """

    def __init__(
        self,
        name: str = "default",
        *,
        build: Build | None = None,
        mode: str = "hub",
        mfl: int | None = None,
        memory: "Callable[[], tuple[int, int]] | None" = None,
        largest_record: int = 0,
    ) -> None:
        if name not in ("default", "tiny", "stock") or mode not in ("hub", "ecc", "dps"):
            raise ValueError("no profile '%s' with mode '%s'" % (name, mode))
        if mfl is not None and mfl != 0 and mfl not in _SIZES:
            raise ValueError("fragment length: 0, 512, 1024, 2048 or 4096")
        self.name = name
        self.build = Build() if build is None or name == "stock" else build
        self.mode = mode
        self.memory = memory
        self.largest_record = largest_record
        self._mfl = mfl
        self._hosts = {}

    def host(self, name: str) -> Host:
        """Return what is known of host `name`."""
        found = self._hosts.get(name)
        if found is None:
            if len(self._hosts) >= _HOSTS:
                self._hosts.clear()
            found = self._hosts[name] = Host()
        return found

    def learn(
        self,
        name: str,
        *,
        acknowledged: "int | bool | None" = None,
        certificate: int = 0,
        record: int = 0,
        via: str | None = None,
    ) -> None:
        """Remember what a handshake (or the file of `taproot probe`) showed of a host."""
        host = self.host(name)
        if acknowledged is not None:
            host.acknowledged = acknowledged
        host.certificate = certificate or host.certificate
        host.record = max(record, host.record)
        host.via = via or host.via

    def plan(self, name: str, *, client_certificate: int = 0, roots: int = 0) -> Plan:
        """Return the plan for a connection to host `name`.

        `client_certificate`: bytes of the device's Certificate message, 0 without; `roots`: how
        many roots get loaded (none with the certificate callback).
        Raises ProtocolError or ConnectionFailedError ("memory") for what cannot work.
        """
        build = self.build
        host = self.host(name)
        plan = Plan()
        self._check_messages(host, client_certificate)
        plan.mfl = self._choose(plan, host, client_certificate)
        self._buffers(plan, host)
        self._suites(plan)
        self._cost(plan, client_certificate, 0 if build.ca_callback else roots)
        self._check_memory(plan)
        return plan

    def _check_messages(self, host: Host, client_certificate: int) -> None:
        build = self.build
        if host.certificate > build.in_len:
            raise ProtocolError(
                "the server's certificates take %d bytes, the input buffer holds %d: build with "
                "CONFIG_MBEDTLS_SSL_IN_CONTENT_LEN=%d"
                % (host.certificate, build.in_len, _next(host.certificate)),
                "RECORD_SIZE",
            )
        if client_certificate > build.out_len:
            raise ProtocolError(
                "the device's certificates take %d bytes, the output buffer holds %d: build with "
                "CONFIG_MBEDTLS_SSL_OUT_CONTENT_LEN=%d"
                % (client_certificate, build.out_len, _next(client_certificate)),
                "RECORD_SIZE",
            )

    def _choose(self, plan: Plan, host: Host, client_certificate: int) -> int:
        build = self.build
        why = plan.reasons.append
        if not build.module:
            why("stock firmware: no fragment length, no resumption")
            return 0
        if not build.mfl:
            why("this build has no fragment length")
            return 0
        if build.tls13:
            why("mbedTLS has no fragment length in TLS 1.3")
            return 0
        limit = min(build.in_len, build.out_len)
        sizes = [n for n in _SIZES if client_certificate <= n <= limit]
        if not build.joins_fragments:
            sizes = [n for n in sizes if n == 4096]
            why("mbedTLS below 3.6.3 cannot join fragments, so not below 4096")
        if self._mfl is not None:
            if self._mfl and self._mfl not in sizes:
                raise ProtocolError(
                    "fragment length %d does not fit: buffers %d, device certificates %d bytes"
                    % (self._mfl, limit, client_certificate),
                    "CONFIG",
                )
            why("fragment length set by configuration")
            return self._mfl
        if not sizes:
            why("no fragment length fits the device's certificates")
            return 0
        if host.acknowledged is False and self._works_without():
            why("the server ignores the fragment length")
            return 0
        if host.acknowledged is None and self.name != "tiny":
            why("the server is unknown, so the largest fragment length")
            return sizes[-1]
        if host.acknowledged is False:
            why("the server ignores the fragment length, this build needs one")
            return sizes[-1]
        if not build.variable_buffer:
            why("the server agrees; smaller ones save nothing with fixed buffers")
            return sizes[-1]
        why("the smallest that buffers and certificates allow")
        return sizes[0]

    def _works_without(self) -> bool:
        # Without MFL, variable buffers shrink to the smaller of the two and larger records fail.
        return not self.build.variable_buffer or self.build.in_len == self.build.out_len

    def _buffers(self, plan: Plan, host: Host) -> None:
        build = self.build
        small = min(build.in_len, build.out_len)
        plan.in_limit = build.in_len
        plan.out_limit = plan.mfl or build.out_len
        if build.variable_buffer:
            plan.in_limit = plan.mfl or small
        if not self._works_without() and not plan.mfl:
            if self._mfl == 0:
                raise ProtocolError(
                    "variable buffers of unequal size need a fragment length: set "
                    "CONFIG_MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH=n or equal content lengths",
                    "CONFIG",
                )
            plan.reasons.append("records above %d cannot be read" % plan.in_limit)
        obeyed = plan.mfl and host.acknowledged
        if not obeyed and plan.in_limit < _FULL_RECORD:
            plan.range_bytes = _RANGE
            needed = max(self.largest_record, host.record)
            if host.acknowledged is False and needed > plan.in_limit:
                raise ProtocolError(
                    "the server ignores the fragment length and sends records of %d bytes, the "
                    "input limit is %d: build with CONFIG_MBEDTLS_SSL_IN_CONTENT_LEN=16384 and "
                    "CONFIG_MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH=n" % (needed, plan.in_limit),
                    "RECORD_SIZE",
                )
            if host.acknowledged is False:
                plan.reasons.append("a record above %d would end it" % plan.in_limit)

    def _suites(self, plan: Plan) -> None:
        why = plan.reasons.append
        if self.mode == "ecc":
            plan.ciphers = _ECDSA
            why("ECDSA suites only, so the server presents its ECC chain")
        elif self.mode == "dps":
            plan.ciphers = _RSA
            why("DPS has RSA certificates only")
        else:
            plan.ciphers = _RSA + _ECDSA
            why("RSA first: verifying it takes a third of the work of ECDSA in software")
        if self.build.tls13 or not self.build.module:
            plan.version = "TLS 1.2 or 1.3"
            plan.ciphers = _TLS13 + plan.ciphers

    def _cost(self, plan: Plan, client_certificate: int, roots: int) -> None:
        build = self.build
        buffers = build.in_len + build.out_len + _OVERHEAD
        plan.block = max(build.in_len, build.out_len) + _OVERHEAD // 2 + 16
        plan.peak = buffers + (_PEAK_BIGNUM if build.bignum else _PEAK) + roots * _ROOT
        if client_certificate:
            plan.peak += _CLIENT_CERT + client_certificate
        if build.variable_buffer:
            buffers = plan.in_limit + plan.out_limit + _OVERHEAD
        plan.connected = buffers + _STEADY + roots * _ROOT
        if client_certificate:
            plan.connected += _CLIENT_CERT + client_certificate
        if build.keep_peer:
            plan.peak += _PEAK_KEEP_PEER
            plan.connected += _STEADY_KEEP_PEER

    def _check_memory(self, plan: Plan) -> None:
        if self.memory is None:
            return
        free, block = self.memory()
        if free < plan.peak or 0 < block < plan.block:
            raise ConnectionFailedError(
                "TLS needs %d bytes of heap (one block of %d), %d are free (largest block %s): "
                "free memory, or build with smaller CONFIG_MBEDTLS_SSL_IN_CONTENT_LEN"
                % (plan.peak, plan.block, free, block or "unknown"),
                "memory",
            )


def _next(size: int) -> int:
    """Return the smallest power of two that holds `size` bytes."""
    found = 512
    while found < size:
        found *= 2
    return found
