"""Contexts that verify: what stays loaded while a handshake runs.

Responsible for: CERT_REQUIRED with a host name on every connection, finding the roots mbedTLS asks
for, noting what the server presents. What comes before and after a handshake is in handshake.py,
loaded for the moment. Not for: sockets and deadlines (transport.py), the choice of settings
(profile.py), the table of errors (verdict.py), the store of roots (trust/store.py).

    context = TLSContext([root_der, …])
    tls = context.wrap(sock, "hub.azure-devices.net")   # handshake at the first read or write
    try: …handshake…
    except (OSError, ValueError) as error:
        raise context.explain(error)     # context.retry: one more attempt, other roots or suites
    context.finished(tls)

A context that has connected serves the next connection to the same place too: then nothing is
planned or loaded, and a resumed handshake costs little more than its records. Not with a client
certificate, whose key is let go of after the handshake, and not on stock firmware.

Roots reach mbedTLS by name, when a chain asks for its signer (`tlsopt.roots`): none is held while
connected. Stock firmware has to load roots: the one that anchored the host last time, then, after
a verdict of UNTRUSTED, those with the name that the presented chain asks for.

The callback that sees the certificates must never raise (the exception would unwind through C)
and must not keep the memoryview it is given (it lies on the C stack).
"""

from hashlib import sha256

from micropython import const

from ..errors import AzureIoTError, ConnectionFailedError
from ..transient import Transient
from .profile import TLSProfile, build_of

try:
    import tlsopt
except ImportError:  # stock firmware
    tlsopt = None

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import tls

    from .sessions import Sessions

_MAX_PRESENTED = const(8)  # certificates noted of a chain
_VERSION = const(0xA0)  # tag of a certificate's version, which comes first and may be absent


def load_root(der: bytes) -> None:
    """Let the TLS library read a root, alone (trust store, R-29). Raises ValueError."""
    import tls

    tls.SSLContext(tls.PROTOCOL_TLS_CLIENT).load_verify_locations(der)


def default_profile() -> TLSProfile:
    """Return a profile of this firmware's own build; keep it, it remembers hosts."""
    return TLSProfile(build=build_of(tlsopt), memory=True)


class TLSContext:
    """Verified client connections of one kind.

    `roots`: a list of DER certificates, or an object that is iterable and callable with a raw
    issuer name (trust/roots.py). `credential` has `.cert` and `.key` (DER or PEM) when the device
    proves itself by X.509. `sessions` (sessions.py) allows resumption; `bundle` (version of the
    trust bundle), `credential_id` (a name and which key it has) and the certificate are what a
    saved session is bound to besides host and port.
    """

    clock_trusted = True
    mode = ""  # "dps": other suites than the profile's
    port = 8883  # open_tls sets it; a saved session belongs to host and port
    plan: tuple = ()  # why, fragment length, peak and lasting bytes of heap
    retry = False
    host = ""
    # In the handshake: (depth, SHA-256, SHA-256 of the key, issuer, dates), the root first.
    presented = ()
    via = None  # SHA-256 (hex) of the root that anchored the chain, None after a resumption
    not_before = None  # Unix time from which the leaf is valid: the present is later than that
    callback_error = None
    established = False
    context = None  # the tls.SSLContext
    _made_for = None  # host, port and profile.changes that it was planned with
    bound = b""  # what a session of this connection belongs to
    named = None  # issuer whose roots the next attempt loads (stock firmware)
    loaded = ()
    _fails = 0

    def __init__(
        self,
        roots: "list[bytes] | Callable[[bytes], Iterable[bytes]]",
        profile: TLSProfile | None = None,
        credential: "object | None" = None,
        sessions: "Sessions | None" = None,
        bundle: int = 0,
        credential_id: str = "",
    ) -> None:
        if not callable(roots):
            from .presented import RootList

            roots = RootList(roots)
        self.roots = roots
        self.profile = profile or default_profile()
        self.credential = credential
        self.sessions = sessions if tlsopt is not None else None
        self.bundle = bundle
        self.credential_id = credential_id

    def require_room(self, host: str) -> None:
        """Refuse a connection that has no room, before anything is sent.

        Raises ConnectionFailedError ("memory").
        """
        self.host = host
        if self.profile.memory is not None:
            try:
                with Transient():
                    from .room import check

                    check(self.profile)
            except MemoryError as error:
                raise self.explain(error)

    def wrap(self, sock: "object", host: str) -> "tls.SSLSocket":
        """Return a TLS socket over `sock`; the handshake runs in its first reads and writes.

        Raises the package's errors when the connection cannot work or the context not be made.
        """
        again = self.established and self._made_for == (host, self.port, self.profile.changes)
        self.host = host
        self.presented = []
        self.via = self.not_before = self.callback_error = None
        self.retry = self.established = False
        self._fails = tlsopt.failed_allocs() if tlsopt is not None else 0
        try:
            if again:
                if self.sessions is not None:
                    tlsopt.offer(self.context, self.sessions.get(self.bound))
            else:
                self.context = self._made_for = None
                with Transient():
                    from .handshake import prepare

                    prepare(self)
                if tlsopt is not None and self.credential is None:
                    self._made_for = host, self.port, self.profile.changes
            return self.context.wrap_socket(
                sock, server_hostname=host, do_handshake_on_connect=False
            )
        except (OSError, ValueError, MemoryError, AzureIoTError) as error:
            raise self.explain(error)

    def find(self, issuer: bytes) -> list:
        """Return the roots named `issuer`; mbedTLS asks in the middle of a handshake."""
        try:
            return self.roots(issuer)
        except Exception as error:
            self.callback_error = error
            raise

    def seen(self, cert: memoryview, depth: int) -> int:
        """Note a certificate; called by C once for each, deepest first, after it was parsed."""
        try:
            if not self.presented or depth > self.presented[-1][0]:
                self.presented = []
            if len(self.presented) < _MAX_PRESENTED:
                at, _ = _inside(cert, _inside(cert, 0)[0])
                if cert[at] == _VERSION:
                    _, at = _inside(cert, at)
                ends = [at]
                for _ in range(6):  # serial, algorithm, issuer, dates, subject, key
                    ends.append(_inside(cert, ends[-1])[1])
                self.presented.append(
                    (
                        depth,
                        sha256(cert).digest(),
                        sha256(cert[ends[5] : ends[6]]).digest(),
                        bytes(cert[ends[2] : ends[3]]),
                        bytes(cert[ends[3] : ends[4]]),
                    )
                )
        except Exception as error:  # a raise here would leak the handshake
            self.callback_error = error
        return 0

    def finished(self, sock: "tls.SSLSocket") -> None:
        """Note what a finished handshake showed: for the next plan, and for resumption."""
        self.established = True
        try:
            with Transient():
                from .handshake import finished

                finished(self, sock)
        except MemoryError as error:
            raise self.explain(error)

    def explain(self, exc: Exception) -> AzureIoTError:
        """Return our exception for what a read, write or wrap raised.

        Its `verdict` is the name in verdict.py's table.
        """
        try:
            with Transient():
                from .verdict import explain

                return explain(self, exc, tlsopt and tlsopt.failed_allocs() != self._fails)
        except MemoryError:
            text = "%s: not enough memory for TLS; this says nothing about the server" % self.host
            error = ConnectionFailedError(text, "memory", exc)
            error.verdict = "MEMORY"
            return error

    def info(self, sock: "tls.SSLSocket") -> dict:
        """Return what the connection settled on, for the reported twin; after the handshake."""
        try:
            with Transient():
                from .handshake import info

                return info(self, sock)
        except MemoryError as error:
            raise self.explain(error)


def _inside(der: memoryview, at: int) -> tuple:
    """Return where the contents of the DER element at `at` begin and end."""
    size = der[at + 1]
    at += 2
    if size & 0x80:
        size, at = int.from_bytes(der[at : at + (size & 0x7F)], "big"), at + (size & 0x7F)
    return at, at + size
