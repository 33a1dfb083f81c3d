"""What the firmware's mbedTLS offers, what is known of hosts, and the plan that follows.

Responsible for: the facts and what of them stays loaded. Not for: the rules (planner.py, loaded
while a plan is made), contexts (context.py).

    profile = TLSProfile(build=build_of(tlsopt))
    plan = profile.plan("hub.azure-devices.net")     # plan.mfl, plan.peak, plan.why
    profile.learn("hub.azure-devices.net", acknowledged=4096, certificate=3800)
"""

from micropython import const

from ..transient import Transient

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .planner import Plan

_HOSTS = const(4)


class Build:
    """What the firmware offers. The default is stock MicroPython, of which little is known."""

    module = False
    in_len = 16384
    out_len = 4096
    variable_buffer = False
    keep_peer = True
    mfl = False
    ca_callback = False
    tls13 = False
    bignum = False
    version = ""

    def __init__(self, **settings: "int | str") -> None:
        for name in settings:
            setattr(self, name, settings[name])


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
        bignum=module.BIGNUM,
        version=module.MBEDTLS_VERSION,
    )


class Host:
    """What earlier connections showed of one host."""

    acknowledged = None  # None unknown, False ignored or broken, else the smallest one agreed to
    settled = False  # it did not agree to one: stay with what it agrees to
    certificate = 0  # bytes of its Certificate message
    record = 0  # its largest record
    wide = False  # it shares no AES-128 suite with us
    via = None  # SHA-256 (hex) of the root that anchored it

    def planned(self) -> tuple:
        """Return what plans depend on."""
        return self.acknowledged and True, self.settled, self.certificate, self.record


class TLSProfile:
    """Policy of a device's connections, and its memory of hosts.

    `name`: "default", "tiny" (smallest buffers from the first connection on) or "stock".
    `mode`: "hub" (RSA and ECDSA chains), "ecc" (ECDSA only) or "dps" (RSA only, until the server
    refuses that).
    `mfl`: a fixed fragment length instead of the chosen one. `memory()` returns
    (free bytes, largest free block or 0) of the heap TLS lives on, True asks the platform, None
    leaves it to the allocations; room.py looks before a byte is sent.
    """

    def __init__(
        self,
        name: str = "default",
        build: Build | None = None,
        mode: str = "hub",
        mfl: int | None = None,
        memory: "object | None" = None,
        largest_record: int = 0,
    ) -> None:
        if name not in ("default", "tiny", "stock") or mode not in ("hub", "ecc", "dps"):
            raise ValueError("no profile '%s' with mode '%s'" % (name, mode))
        if mfl not in (None, 0, 512, 1024, 2048, 4096):
            raise ValueError("fragment length: 0, 512, 1024, 2048 or 4096")
        self.name = name
        self.build = Build() if build is None or name == "stock" else build
        self.mode = mode
        self.mfl = mfl
        self.memory = memory
        self.largest_record = largest_record
        self.changes = 0  # of what plans depend on
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
        acknowledged: "int | bool | None" = None,
        certificate: int = 0,
        record: int = 0,
        via: str | None = None,
    ) -> None:
        """Remember what a handshake (or the file of `taproot probe`) showed of a host."""
        host = self.host(name)
        known = host.planned()
        before = host.acknowledged
        host.record = max(record, host.record)
        if acknowledged is False:
            if host.settled or not before:
                host.acknowledged = False
            host.settled = True
        elif acknowledged is not None:
            host.acknowledged = min(acknowledged, before or acknowledged)
        if host.acknowledged and host.record > host.acknowledged:
            host.acknowledged = False  # it agrees and sends larger records all the same
        host.certificate = certificate or host.certificate
        host.via = via or host.via
        if known != host.planned():
            self.changes += 1

    def plan(self, name: str, client_certificate: int = 0, roots: int = 0) -> "Plan":
        """Return the plan for a connection to host `name`.

        `client_certificate`: bytes of the device's Certificate message, 0 without; `roots`: how
        many roots get loaded (none with the certificate callback).
        Raises ProtocolError for what cannot work.
        """
        with Transient():
            from .planner import decide

            return decide(self, name, client_certificate, roots, self.mode)
