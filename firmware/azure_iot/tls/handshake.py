"""What comes before and after a handshake: the tls.SSLContext, what was learnt.

Loaded for the moment by context.py, so that a connected device holds none of it. Responsible for:
turning a TLSContext into a tls.SSLContext, sessions offered and kept. Not for: what runs during
the handshake (context.py), what went wrong (verdict.py).
"""

from hashlib import sha256

import tls
from micropython import const

from ..errors import CredentialError, TrustError
from .planner import decide

try:
    import tlsopt
except ImportError:  # stock firmware
    tlsopt = None

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from ..errors import AzureIoTError
    from .context import TLSContext


def prepare(self: "TLSContext") -> None:
    """Plan the connection and make the context for it."""
    own = self.credential
    if not len(self.roots):  # type: ignore[arg-type]
        text = "%s: no root is stored for this connection; install a bundle" % self.host
        raise _refusal(TrustError, "NO_ROOTS", text)
    size = 0
    if own is not None:
        from .presented import certificate_message

        size = certificate_message(own.cert)
    mode = self.mode or self.profile.mode
    plan = decide(self.profile, self.host, size, 1, mode)
    self.plan = plan.why, plan.mfl, plan.peak, plan.connected
    made = self.context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    if made.verify_mode != tls.CERT_REQUIRED:
        raise _refusal(TrustError, "INTERNAL", "this build's tls module does not verify")
    ciphers = plan.ciphers
    if tlsopt is not None:
        tlsopt.configure(made, mfl=plan.mfl, tickets=self.sessions is not None)
    if not self.profile.build.module:
        # Whether stock firmware has TLS 1.3 shows in the names it knows.
        known = made.get_ciphers()
        ciphers = [name for name in ciphers if name in known]
    made.set_ciphers(ciphers)
    if self.profile.build.ca_callback:
        tlsopt.roots(made, self.find)
    else:
        _load(self)
    if own is not None:
        try:
            made.load_cert_chain(own.cert, own.key)
        except ValueError as error:
            raise _refusal(CredentialError, "BAD_KEY", "the device's %s" % error, error)
    made.verify_callback = self.seen
    if self.sessions is not None:
        from .sessions import binding

        # Servers resume a session with its own fragment length; mbedTLS refuses another one then.
        about = "%s %s %d" % (self.profile.name, mode, plan.mfl)
        who = self.credential_id
        if own is not None:
            who += " %r" % sha256(own.cert).digest()
        self.bound = binding(self.host, self.port, self.bundle, who, about)
        tlsopt.offer(made, self.sessions.get(self.bound))


def _refusal(*what: object) -> "AzureIoTError":
    from .verdict import named

    return named(*what)


def _load(self: "TLSContext") -> None:
    if self.named is not None:
        chosen = list(self.roots(self.named)) or list(self.roots)
    else:
        via = self.profile.host(self.host).via
        first = self.roots.get(bytes.fromhex(via)) if via else None
        if first is None:
            first = next(iter(self.roots))  # type: ignore[arg-type]
        from ..trust import der

        # With its namesakes: a renewed root stands beside the expiring one.
        chosen = self.roots(der.read(first).subject)
    for root in chosen:
        self.context.load_verify_locations(bytes(root))
    self.loaded = [sha256(root).digest() for root in chosen]


def finished(self: "TLSContext", sock: "tls.SSLSocket") -> None:
    """Note what a finished handshake showed."""
    via = None
    ends = 0
    if self.presented and self.callback_error is None:
        from .presented import dates

        chain = self.presented
        root = chain[0][1]
        via = self.via = "".join(["%02x" % c for c in root])
        ends = min(dates(chain, 1))
        if chain[-1][0] == 0:
            self.not_before = dates(chain, 0)[-1]
    self.presented = ()  # nobody asks any more: 900 bytes
    if tlsopt is None:
        self.profile.learn(self.host, via=via)
        return
    if self.credential is not None:
        tlsopt.forget_key(sock)  # every connection makes a context of its own
    info, seen = tlsopt.info(sock), tlsopt.seen(self.context)
    self.profile.learn(
        self.host,
        info.mfl_acknowledged if info.mfl_asked else None,
        seen.message if seen.certificate else 0,
        0,
        via,
    )
    sessions = self.sessions
    if sessions is None:
        return
    if via is None:
        root, ends = sessions.anchor(self.bound)
        if root is None:
            return
    try:
        blob = tlsopt.session(sock)
    except (OSError, MemoryError) as error:
        sessions.why_not_kept = "no memory to save the session: %s" % error
        return
    if blob is not None:
        sessions.put(self.bound, blob, root, ends)


def info(self: "TLSContext", sock: "tls.SSLSocket") -> dict:
    """Return what the connection settled on, for the reported twin."""
    suite, version = sock.cipher()
    why, _, peak, held = self.plan
    found = {"version": version, "suite": suite, "plan": why}
    asked = acknowledged = resumed = 0
    if tlsopt is not None:
        asked, acknowledged, _, _, resumed = tlsopt.info(sock)
        if hasattr(tlsopt, "mem"):
            held, peak = tlsopt.mem()[:2]
    found["mfl_asked"] = asked
    found["mfl_acknowledged"] = bool(acknowledged)
    found["resumed"] = bool(resumed)
    found["heap_peak"] = peak
    found["heap_connected"] = held
    return found
