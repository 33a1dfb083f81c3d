"""Contexts that verify: tls.SSLContext from trusted roots, a profile and a credential.

Responsible for: CERT_REQUIRED with a host name on every connection, which roots mbedTLS sees,
what the server presented, sessions offered and kept, and turning an exception of the connection
into ours. Not for: sockets and deadlines (transport.py), the choice of settings (profile.py), the
table of errors (verdict.py), the store of roots (trust/store.py).

    context = TLSContext([root_der, …])
    tls = context.wrap(sock, "hub.azure-devices.net")   # handshake at the first read or write
    try: …handshake…
    except (OSError, ValueError) as error:
        raise context.explain(error)     # context.retry: the other roots deserve one more attempt
    context.finished(tls)

Roots reach mbedTLS by name, when a chain asks for its signer (`tlsopt.roots`): none is held while
connected. Stock firmware has to load roots: the one that anchored the host last time, then, after
a verdict of UNTRUSTED, those with the name that the presented chain asks for.

The callback that sees the certificates must never raise (the exception would unwind through C)
and must not keep the memoryview it is given (it lies on the C stack).
"""

import time
from hashlib import sha256

import tls
from micropython import const

from ..errors import (
    AzureIoTError,
    ConnectionFailedError,
    CredentialError,
    ProtocolError,
    TrustError,
)
from ..trust import der
from . import verdict as _verdict
from .build import build_of
from .presented import Presented, RootList, certificate_message, common_name
from .profile import TLSProfile
from .sessions import binding

try:
    import tlsopt
except ImportError:  # stock firmware
    tlsopt = None

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .sessions import Sessions

_MAX_PRESENTED = const(8)  # certificates remembered of a chain
_FULL_RECORD = const(16384)


def default_profile() -> TLSProfile:
    """Return a profile of this firmware's own build; keep it, it remembers hosts."""
    return TLSProfile(build=build_of(tlsopt))


class TLSContext:
    """Verified client connections of one kind.

    `roots`: a list of DER certificates, or an object that is iterable and callable with a raw
    issuer name (trust/roots.py). `credential` has `.cert` and `.key` (DER or PEM) when the device
    proves itself by X.509. `sessions` (sessions.py) allows resumption; `bundle` (version of the
    trust bundle) and `credential_id` are what a saved session is bound to besides host and port.
    """

    def __init__(
        self,
        roots: "list[bytes] | Callable[[bytes], Iterable[bytes]]",
        *,
        profile: TLSProfile | None = None,
        credential: "object | None" = None,
        sessions: "Sessions | None" = None,
        bundle: int = 0,
        credential_id: str = "",
    ) -> None:
        self.roots = roots if callable(roots) else RootList(roots)
        self.profile = profile or default_profile()
        self.clock_trusted = True
        self.host = ""
        self.port = 8883  # open_tls sets it; a saved session belongs to host and port
        self.plan = None
        self.retry = False
        self._credential = credential
        self._sessions = sessions if tlsopt is not None else None
        self._bundle = bundle
        self._credential_id = credential_id
        self._bound = b""
        self._context = None
        self._fails = 0
        self._named = None  # issuer whose roots the next attempt loads (stock firmware)
        self._loaded = ()
        self._established = False
        self._forget()

    def _forget(self) -> None:
        self.presented = []
        self.callback_error = None
        self.retry = False
        self._deepest = -1
        self._established = False

    def wrap(self, sock: "object", host: str) -> "tls.SSLSocket":
        """Return a TLS socket over `sock`; the handshake runs in its first reads and writes.

        Raises the package's errors when the connection cannot work or the context not be made.
        """
        self._forget()
        self.host = host
        self._context = None
        self._fails = tlsopt.failed_allocs() if tlsopt is not None else 0
        size = 0
        if self._credential is not None:
            size = certificate_message(self._credential.cert)
        if not len(self.roots):
            raise _named(
                TrustError("%s: no root is stored for this connection" % host, "NO_ROOTS"),
                "NO_ROOTS",
            )
        self.plan = self.profile.plan(host, client_certificate=size, roots=1)
        try:
            self._context = self._make(host)
            self._offer(host)
            return self._context.wrap_socket(
                sock, server_hostname=host, do_handshake_on_connect=False
            )
        except (OSError, ValueError, MemoryError, AzureIoTError) as error:
            raise self.explain(error)

    def _make(self, host: str) -> "tls.SSLContext":
        context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
        if context.verify_mode != tls.CERT_REQUIRED:
            raise TrustError("this build's tls module does not verify by default", "INTERNAL")
        if tlsopt is not None:
            tlsopt.configure(context, mfl=self.plan.mfl, tickets=self._sessions is not None)
        self._set_ciphers(context)
        if self.profile.build.ca_callback:
            tlsopt.roots(context, self._find)
        else:
            self._load(context, host)
        if self._credential is not None:
            try:
                context.load_cert_chain(self._credential.cert, self._credential.key)
            except ValueError as error:
                raise _named(CredentialError("the device's %s" % error, error), "BAD_KEY")
        context.verify_callback = self._seen
        return context

    def _set_ciphers(self, context: "tls.SSLContext") -> None:
        ciphers = self.plan.ciphers
        if tlsopt is None:
            # Whether stock firmware has TLS 1.3 shows in the names it knows.
            known = context.get_ciphers()
            ciphers = [name for name in ciphers if name in known]
        context.set_ciphers(ciphers)

    def _offer(self, host: str) -> None:
        if self._sessions is None:
            return
        # Servers resume a session with its own fragment length; mbedTLS then refuses another one.
        profile = "%s %s %d" % (self.profile.name, self.profile.mode, self.plan.mfl)
        self._bound = binding(host, self.port, self._bundle, self._credential_id, profile)
        tlsopt.offer(self._context, self._sessions.get(self._bound))

    def _find(self, issuer: bytes) -> list:
        try:
            return self.roots(issuer)
        except Exception as error:
            self.callback_error = error
            raise

    def _load(self, context: "tls.SSLContext", host: str) -> None:
        via = self.profile.host(host).via
        if self._named is not None:
            chosen = list(self.roots(self._named)) or list(self.roots)
        else:
            first = self.roots.get(bytes.fromhex(via)) if via else None
            if first is None:
                first = next(iter(self.roots))
            # With its namesakes: a renewed root stands beside the expiring one.
            chosen = self.roots(der.read(first).subject)
        for root in chosen:
            context.load_verify_locations(root)
        self._loaded = tuple([sha256(root).digest() for root in chosen])

    def _seen(self, cert: memoryview, depth: int) -> int:
        # Called by C once per certificate, deepest first; a raise here would leak the handshake.
        try:
            if depth > self._deepest:
                self.presented = []
            self._deepest = depth
            if len(self.presented) < _MAX_PRESENTED:
                self.presented.append(Presented(bytes(cert), depth))
        except Exception as error:
            self.callback_error = error
        return 0

    def finished(self, sock: "tls.SSLSocket") -> None:
        """Note what a finished handshake showed: for the next plan, and for resumption."""
        self._established = True
        if tlsopt is None:
            self.profile.learn(self.host, via=self.via)
            return
        info = tlsopt.info(sock)
        seen = tlsopt.seen(self._context)
        self.profile.learn(
            self.host,
            acknowledged=info.mfl_acknowledged if info.mfl_asked else None,
            certificate=seen.message if seen.certificate else 0,
            via=self.via,
        )
        if self._sessions is None:
            return
        root = self._sessions.root_of(self._bound)
        ends = 0xFFFFFFFF
        if self.presented:
            root = self.presented[0].sha256
            ends = min([cert.not_after for cert in self.presented])
        elif root is None:
            return
        else:
            ends = self._sessions.expires_of(self._bound)
        try:
            blob = tlsopt.session(sock)
        except (OSError, MemoryError) as error:
            self._sessions.why_not_kept = "no memory to save the session: %s" % error
            return
        if blob is not None:
            self._sessions.put(self._bound, blob, root, ends)

    @property
    def via(self) -> str | None:
        """SHA-256 (hex) of the root that anchored the chain, None after a resumed handshake.

        Meaningful once the handshake is over: only then the chain was accepted.
        """
        if not self.presented or self.callback_error is not None:
            return None
        return _hex(self.presented[0].sha256)

    @property
    def not_before(self) -> int | None:
        """Unix time from which the leaf is valid: the present is later than that."""
        if self.presented and self.presented[-1].depth == 0:
            return self.presented[-1].not_before
        return None

    def explain(self, exc: Exception) -> AzureIoTError:
        """Return our exception for what a read, write or wrap raised.

        Its `verdict` is the name in verdict.py's table.
        """
        if isinstance(exc, AzureIoTError):
            return exc if hasattr(exc, "verdict") else self._bad_root(exc)
        if isinstance(self.callback_error, TrustError) and not self._established:
            return self._bad_root(self.callback_error)
        moved = alert = None
        first = 0
        chain_seen = False
        oversized = None
        if tlsopt is not None:
            moved = tlsopt.failed_allocs() != self._fails
            if self._context is not None:
                seen = tlsopt.seen(self._context)
                alert, first, chain_seen = seen.alert, seen.first, seen.certificate > 0
                if not self._established:
                    oversized = max(seen.message, seen.record) > self.profile.build.in_len
        name, kind, text = _verdict.verdict(
            exc,
            variant=tlsopt is not None,
            failed_allocs_moved=moved,
            clock_trusted=self.clock_trusted,
            alert=None if self._established else alert,
            chain_seen=chain_seen,
            oversized=oversized,
            credential=self._credential is not None,
            established=self._established,
        )
        if name == "RECORD_SIZE":
            text += self._too_large()
        elif name == "NOT_TLS" and first == 0x48:
            text += " (it answered with HTTP)"
        elif name == "INTERNAL" and self.callback_error is not None:
            text += "; the stored roots could not be read: %s" % self.callback_error
        self._consider_retry(name)
        text = "%s: %s%s" % (self.host or "TLS", text, self._facts(name))
        if kind is TrustError:
            error = TrustError(text, name, exc)
        elif kind is ConnectionFailedError:
            error = ConnectionFailedError(text, name.lower(), exc)
        elif kind is ProtocolError:
            error = ProtocolError(text, name, exc)
        else:
            error = kind(text, exc)
        return _named(error, name)

    def _bad_root(self, error: AzureIoTError) -> AzureIoTError:
        text = "%s: a stored root cannot be read: %s" % (self.host, error)
        return _named(TrustError(text, "BAD_ROOT", error), "BAD_ROOT")

    def _consider_retry(self, name: str) -> None:
        if name != "UNTRUSTED" or self.profile.build.ca_callback or self._named is not None:
            return
        if not self.presented:
            return
        # The issuer is not authenticated: it only chooses among the roots we hold.
        self._named = self.presented[0].issuer
        wanted = list(self.roots(self._named)) or list(self.roots)
        self.retry = any(sha256(root).digest() not in self._loaded for root in wanted)

    def _too_large(self) -> str:
        if tlsopt is None:
            return ""
        build = self.profile.build
        if self._established:
            # The server sends records larger than this connection can read.
            self.profile.learn(self.host, record=_FULL_RECORD)
            if self.profile.host(self.host).acknowledged is False:
                return (
                    "; the server ignores the fragment length: build with "
                    "CONFIG_MBEDTLS_SSL_IN_CONTENT_LEN=16384"
                )
            return ""
        size = tlsopt.seen(self._context).message if self._context is not None else 0
        if size > build.in_len:
            self.profile.learn(self.host, certificate=size)
            return "; a message of %d bytes, CONFIG_MBEDTLS_SSL_IN_CONTENT_LEN is %d" % (
                size,
                build.in_len,
            )
        return ""

    def _facts(self, name: str) -> str:
        if name == "UNTRUSTED" and self.presented:
            return "; signed by %s; roots held: %d" % (
                common_name(self.presented[0].issuer),
                len(self.roots),
            )
        if name in ("EXPIRED", "FUTURE"):
            now = time.gmtime()
            text = "; the clock says %04d-%02d-%02d %02d:%02d UTC" % tuple(now[:5])
            if self.presented:
                text += "; valid from %d to %d (Unix time)" % (
                    max([cert.not_before for cert in self.presented]),
                    min([cert.not_after for cert in self.presented]),
                )
            return text
        return ""

    def info(self, sock: "tls.SSLSocket") -> dict:
        """Return what the connection settled on, for the reported twin; after the handshake."""
        suite, version = sock.cipher()
        found = {"version": version, "suite": suite, "plan": self.plan.why}
        found["mfl_asked"] = found["heap_peak"] = found["heap_connected"] = 0
        found["mfl_acknowledged"] = found["resumed"] = False
        if tlsopt is None:
            return found
        info = tlsopt.info(sock)
        found["mfl_asked"] = info.mfl_asked
        found["mfl_acknowledged"] = bool(info.mfl_acknowledged)
        found["resumed"] = bool(info.resumed)
        found["heap_peak"] = self.plan.peak
        found["heap_connected"] = self.plan.connected
        if hasattr(tlsopt, "mem"):
            found["heap_connected"], found["heap_peak"] = tlsopt.mem()[:2]
        return found


def _hex(data: bytes) -> str:
    return "".join(["%02x" % c for c in data])


def _named(error: AzureIoTError, name: str) -> AzureIoTError:
    error.verdict = name
    return error
