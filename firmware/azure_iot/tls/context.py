"""Contexts that verify: tls.SSLContext from trusted roots, a profile and a credential.

Responsible for: CERT_REQUIRED with a host name on every connection, which roots mbedTLS sees,
what the server presented, and turning an exception of the connection into ours.
Not for: sockets and deadlines (transport.py), the choice of settings (profile.py), the table of
errors (verdict.py), the store of roots (trust/store.py).

    context = TLSContext([root_der, …])
    tls = context.wrap(sock, "hub.azure-devices.net")   # handshake at the first read or write
    try: …
    except (OSError, ValueError) as error:
        raise context.explain(error)

The callback that sees the certificates must never raise (the exception would unwind through C)
and must not keep the memoryview it is given (it lies on the C stack).
"""

import time
from hashlib import sha256

import tls
from micropython import const

from ..errors import ConnectionFailedError, ProtocolError, TrustError
from ..trust import der
from . import verdict as _verdict

try:
    import tlsopt
except ImportError:  # stock firmware
    tlsopt = None

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import AzureIoTError
    from .profile import TLSProfile

_MAX_PRESENTED = const(8)  # certificates remembered of a chain


class Presented:
    """One certificate of the server's chain: raw `issuer` name, dates, SHA-256 of cert and key."""

    def __init__(self, raw: bytes, depth: int) -> None:
        facts = der.read(raw)
        self.depth = depth
        self.issuer = facts.issuer
        self.not_before = facts.not_before
        self.not_after = facts.not_after
        self.key_sha256 = sha256(facts.public_key).digest()
        self.sha256 = sha256(raw).digest()


class TLSContext:
    """Verified client connections of one kind.

    `roots` is a list of DER certificates, or a finder: issuer name (DER) -> list of DER.
    `credential` has `.cert` and `.key` (DER or PEM) when the device proves itself by X.509.
    """

    def __init__(
        self,
        roots: "list[bytes] | Callable[[bytes], list[bytes]]",
        *,
        profile: "TLSProfile | None" = None,
        credential: "object | None" = None,
    ) -> None:
        self._roots = roots
        self.profile = profile
        self._credential = credential
        self.clock_trusted = True
        self.host = ""
        self._context = None
        self._fails = 0
        self._wrapped = False
        self._forget()

    def _forget(self) -> None:
        self.presented = []
        self.callback_error = None
        self._deepest = -1

    def wrap(self, sock: "object", host: str) -> "tls.SSLSocket":
        """Return a TLS socket over `sock`; the handshake runs in its first reads and writes.

        Raises the package's errors when the context cannot be made.
        """
        self._forget()
        self.host = host
        self._wrapped = False
        self._fails = tlsopt.failed_allocs() if hasattr(tlsopt, "failed_allocs") else 0
        try:
            if self._context is None:
                self._context = self._make()
            wrapped = self._context.wrap_socket(
                sock, server_hostname=host, do_handshake_on_connect=False
            )
        except (OSError, ValueError, MemoryError) as error:
            self._context = None
            raise self.explain(error)
        self._wrapped = True
        return wrapped

    def _make(self) -> "tls.SSLContext":
        context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
        if context.verify_mode != tls.CERT_REQUIRED:
            raise TrustError("this build's tls module does not verify by default", "INTERNAL")
        self._load_roots(context)
        if self._credential is not None:
            context.load_cert_chain(self._credential.cert, self._credential.key)
        context.verify_callback = self._seen
        return context

    def _load_roots(self, context: "tls.SSLContext") -> None:
        roots = self._roots
        if callable(roots):
            roots = roots(b"")
        for root in roots:
            context.load_verify_locations(root)

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

    @property
    def via(self) -> str | None:
        """SHA-256 (hex) of the root that anchored the chain, None after a resumed handshake.

        Meaningful once application data went through: only then the chain was accepted.
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

    @property
    def missing_issuer(self) -> bytes | None:
        """Raw name of who signed the top of the presented chain; unauthenticated, a hint only."""
        return self.presented[0].issuer if self.presented else None

    def explain(self, exc: Exception) -> "AzureIoTError":
        """Return our exception for what a read, write or wrap raised."""
        moved = None
        if hasattr(tlsopt, "failed_allocs"):
            moved = tlsopt.failed_allocs() != self._fails
        name, kind, text = _verdict.verdict(
            exc,
            variant=tlsopt is not None,
            failed_allocs_moved=moved,
            clock_trusted=self.clock_trusted,
            credential=self._credential is not None,
        )
        text = "%s: %s%s" % (self.host or "TLS", text, self._facts(name))
        if kind is TrustError:
            return TrustError(text, name, exc)
        if kind is ConnectionFailedError:
            return ConnectionFailedError(text, name.lower(), exc)
        if kind is ProtocolError:
            return ProtocolError(text, name, exc)
        return kind(text, exc)

    def _facts(self, name: str) -> str:
        if name == "UNTRUSTED" and self.presented:
            held = "" if callable(self._roots) else "; roots held: %d" % len(self._roots)
            return "; signed by %s%s" % (common_name(self.presented[0].issuer), held)
        if name in ("EXPIRED", "FUTURE"):
            now = time.gmtime()
            text = "; the clock says %04d-%02d-%02d %02d:%02d UTC" % tuple(now[:5])
            if self.presented:
                text += "; valid from %d to %d (Unix time)" % (
                    max([c.not_before for c in self.presented]),
                    min([c.not_after for c in self.presented]),
                )
            return text
        return ""

    def info(self, sock: "tls.SSLSocket") -> dict:
        """Return what the connection settled on; only after application data went through."""
        suite, version = sock.cipher()
        return {"version": version, "suite": suite}


def common_name(name: bytes) -> str:
    """Return the common name within a raw DER name, `?` when there is none."""
    at = name.rfind(b"\x06\x03\x55\x04\x03")  # 2.5.4.3
    if at < 0 or at + 7 > len(name):
        return "?"
    text = name[at + 7 : at + 7 + name[at + 6]]
    return "".join([chr(c) if 32 <= c < 127 else "?" for c in text])


def _hex(data: bytes) -> str:
    return "".join(["%02x" % c for c in data])
