"""The one table from an mbedTLS or MicroPython error to our exception and its remedy.

Responsible for: naming a failed TLS connection, choosing its class, adding the facts around it
(who was presented, which roots were held). Loaded for the moment by context.py. Not for: telling a
shortage of memory by the count of failed allocations (context.py does).

MicroPython's `tls` reports certificate verdicts as ValueError with lines of text, everything else
as OSError: numbers below -255 are mbedTLS codes (RFC 5246 alerts arrive as one code without their
number), others are errno. Texts differ per build, so numbers and single words are matched.

    error = explain(context, exc, False)     # error.verdict is a name of the table
"""

import time
from hashlib import sha256

from micropython import const

from ..errors import (
    AzureIoTError,
    ClockError,
    ConnectionDroppedError,
    ConnectionFailedError,
    CredentialError,
    ProtocolError,
    TrustError,
)
from .presented import common_name, dates

try:
    import tlsopt
except ImportError:  # stock firmware
    tlsopt = None

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .context import TLSContext

# Class (T trust, C clock, K credential, N no connection, P protocol), name, keys, sentence.
# Keys: hex digits of mbedTLS's high-level code (ssl.h, x509.h, pk.h, each positive), e with an
# errno, a with an alert (RFC 5246 section 7.2, RFC 6066, RFC 8446), or a word that only this
# verdict's line of MBEDTLS_X509_CRT_ERROR_INFO_LIST has. Of several lines the first row decides.
_TABLE = (
    # 2700: more verdicts than the text buffer holds
    "T|UNTRUSTED|trusted 2700|no trusted root signs the server's chain; update the trust store",
    "P|NO_CERT|missing 7480|the server sent no certificate",
    "T|REVOKED|revoked|a certificate of the chain is revoked",
    "T|WEAK|unacceptable|a key or hash of the chain is too weak; the server must replace it",
    "T|USAGE|Usage 7A00|a certificate's usage extensions forbid this use",
    "T|HOSTNAME|(CN)|the server's certificate is for another host name; check the host",
    "T|EXPIRED|expired|a certificate of the chain, or our own root, has expired",
    "C|FUTURE|future|a certificate is valid only in the future; set the clock",
    "P|NO_HOST|server_hostname 5D80|a host name is needed to verify",
    "T|BAD_ROOT|cert|a stored root cannot be read; install the bundle again",
    "K|BAD_KEY|key 7600|the device's private key or certificate cannot be read",
    "T|BAD_CERT||a certificate of the server cannot be read",
    "T|NO_ROOTS|7680|no root is stored for this connection; install a bundle",
    # e12: ENOMEM, e16: EBUSY, which is mbedTLS's MPI_ALLOC_FAILED (-0x10)
    "N|MEMORY|7F00 2880 3F80 1180 4D80 5180 6180 e12 e16|",
    "K|CLIENT_CERT|a42 a43 a44 a45 a46 a48 a49 a51 a116|the server refuses the device's "
    "certificate; check or renew it",
    "P|CIPHER|6E80 6E00 5F00 a40 a70 a71 a86|no common TLS version or cipher suite; a server "
    "setting has changed",
    "P|NAME_UNKNOWN|7800 a112|the server does not serve this host name",
    "P|ALERT|7780|the server ended the handshake with an alert",
    "N|PEER_INTERNAL|a80|the server reports an internal error; try later",
    "P|RECORD_SIZE|7100|a record or message is larger than the TLS buffers of this build",
    "P|CLIENT_CERT_SIZE|a22|the device's certificate exceeds the fragment length agreed",
    "P|FRAGMENTS|7080|mbedTLS below 3.6.3 cannot join fragmented handshake messages",
    "P|PSS|6600|mbedTLS 3.6.6 with TLS 1.3 rejects RSA-PSS in 1.2; build without TLS 1.3",
    "P|NOT_TLS|7200|the peer does not speak TLS: a captive portal, proxy or wrong port",
    "P|HANDSHAKE|a10 a47 a50 a109 a110|the server broke the TLS protocol",
    "P|TAMPERED|7180 a20|a record failed its integrity check",
    "P|CONFIG|5E80|this firmware does not know a configured cipher suite",
    "N|CLOSED|7280 7880 a0 a90|the server closed the connection in the handshake",
    # EPIPE, ECONNABORTED, ECONNRESET, ENOTCONN
    "N|RESET|e32 e103 e104 e107|the connection was reset in the handshake",
    "N|TIMEOUT|6800 e110 e116|the server did not answer in time",  # e116: ESP32's C library
    "N|REFUSED|e111|the server refuses connections on this port",
    "N|NETWORK||the network failed",
    "N|DNS||the host name cannot be resolved",
    "P|CHAIN|3000|the server's chain is too long to verify; the server must shorten it",
    "N|INTERNAL|6C00|mbedTLS failed inside",
)
_ALERTS = (
    "0 close_notify 10 unexpected_message 20 bad_record_mac 22 record_overflow 40 "
    "handshake_failure 42 bad_certificate 43 unsupported_certificate 44 certificate_revoked 45 "
    "certificate_expired 46 certificate_unknown 47 illegal_parameter 48 unknown_ca 49 "
    "access_denied 50 decode_error 51 decrypt_error 70 protocol_version 71 insufficient_security "
    "80 internal_error 86 inappropriate_fallback 90 user_canceled 109 missing_extension 110 "
    "unsupported_extension 112 unrecognized_name 116 certificate_required"
)
_KINDS = (TrustError, ClockError, CredentialError, ProtocolError, ConnectionFailedError)  # TCKPN
_FULL_RECORD = const(16384)
_ASN1_ALLOC_FAILED = const(0x6A)
_MPI_ALLOC_FAILED = const(0x10)


def explain(context: "TLSContext", exc: Exception, moved: "bool | None") -> AzureIoTError:
    """Return our exception for `exc`; `moved`: an allocation failed (None: nobody counts them).

    Raises MemoryError when memory was what failed.
    """
    fault = exc
    if not isinstance(exc, AzureIoTError) and not context.established:
        fault = context.callback_error
    if isinstance(fault, TrustError) and not hasattr(fault, "verdict"):
        return named(TrustError, "BAD_ROOT", "a stored root cannot be read: %s" % fault, fault)
    if isinstance(exc, AzureIoTError):
        return exc
    seen = None
    if tlsopt is not None and context.context is not None:
        seen = tlsopt.seen(context.context)
    alert = seen.alert if seen and not context.established else None
    name = _name(context, exc, seen, alert)
    if moved or name == "MEMORY":
        # A failed allocation inside chain verification passes for a bad signature: nothing that
        # happened in this handshake proves anything about the server.
        raise MemoryError(exc)
    letter, _, _, text = _row(1, name).split("|")
    kind = _KINDS["TCKPN".find(letter)]
    if letter == "N" and context.established:
        kind = ConnectionDroppedError
    elif name == "EXPIRED" and not context.clock_trusted:
        kind = ClockError
        text += "; the clock is not confirmed, so repair the time first"
    elif name == "UNTRUSTED" and moved is None:
        text += "; this firmware cannot tell that from a shortage of memory"
    elif name == "ALERT" and tlsopt is None:
        text += " (this firmware cannot name it)"
    if alert is not None:
        text += " (alert %s)" % alert_name(alert)
    text += _facts(context, name, seen)
    return named(kind, name, "%s: %s" % (context.host or "TLS", text), exc)


def named(kind: "type", name: str, text: str, cause: "object" = None) -> AzureIoTError:
    """Make an exception whose `verdict` is `name`."""
    if kind is ConnectionFailedError:
        error = kind(text, name.lower(), cause)
    elif kind in (TrustError, ProtocolError):
        error = kind(text, name, cause)
    else:
        error = kind(text, cause)
    error.verdict = name  # type: ignore[attr-defined]
    return error


def alert_name(alert: int) -> str:
    """Return the name of a TLS alert, its number for an unknown one."""
    words = _ALERTS.split(" ")
    number = str(alert)
    return words[words.index(number) + 1] if number in words else number


def _row(column: int, *keys: str) -> str:
    """Return the first row that has one of `keys` in `column`, an empty one without."""
    for row in _TABLE:
        words = row.split("|")[column].split(" ")
        for key in keys:
            if key in words:
                return row
    return "|"


def _by(otherwise: str, *keys: str) -> str:
    return _row(2, *keys).split("|")[1] or otherwise


def _name(context: "TLSContext", exc: Exception, seen: "object", alert: int | None) -> str:
    if isinstance(exc, ValueError):
        # MicroPython drops the text of an exception it has no memory for.
        words = str(exc).split()
        return _by("BAD_CERT", *words) if words else "MEMORY"
    if not isinstance(exc, OSError):
        return "MEMORY" if isinstance(exc, MemoryError) else "INTERNAL"
    number = exc.args[0] if exc.args else 0
    if not isinstance(number, int):
        return "DNS"  # unix: OSError("[addrinfo error -2]")
    by_alert = _by("ALERT", "a%d" % alert) if alert is not None else ""
    if number >= -255:
        name = _by("NETWORK", "e%d" % abs(number))
        # A refusal of the certificate races with our own writing and may come as a reset.
        return by_alert if alert and name == "RESET" else name
    low = -number & 0x7F
    if low in (_ASN1_ALLOC_FAILED, _MPI_ALLOC_FAILED):
        return "MEMORY"
    high = -number - low
    of_certificate = 0x2080 <= high < 0x3000 or 0x3880 <= high < 0x3F80
    name = _by("BAD_CERT" if of_certificate else "HANDSHAKE", "%X" % high)
    if name == "CHAIN" and context.callback_error is not None:
        name = "INTERNAL"
    if name == "ALERT":
        name = by_alert or ("CLIENT_CERT" if context.credential is not None else name)
    return _narrowed(context, name, seen)


def _narrowed(context: "TLSContext", name: str, seen: "object") -> str:
    """Tell apart what mbedTLS has one code for."""
    if seen is None:
        return name
    if name == "CIPHER" and seen.certificate:
        return "CLIENT_CERT"  # version and suite were agreed: it is about what we answered
    if name == "RECORD_SIZE" and not context.established:
        return (
            name if max(seen.message, seen.record) > context.profile.build.in_len else "HANDSHAKE"
        )
    # Builds with tlsopt leave TLS 1.3 out, so it is a genuine violation.
    return "HANDSHAKE" if name == "PSS" else name


def _facts(context: "TLSContext", name: str, seen: "object") -> str:
    chain = context.presented
    if name == "RECORD_SIZE" and seen is not None:
        return _too_large(context, seen.message)
    if name == "NOT_TLS" and seen is not None and seen.first == 0x48:
        return " (it answered with HTTP)"
    if name == "INTERNAL" and context.callback_error is not None:
        return "; the stored roots could not be read: %s" % context.callback_error
    if name in ("CIPHER", "ALERT", "CLOSED", "RESET", "HANDSHAKE"):
        _offer(context, name, seen)
    if name == "UNTRUSTED" and chain:
        issuer = chain[0][3]
        if not context.profile.build.ca_callback and context.named is None:
            # The issuer is not authenticated: it only chooses among the roots we hold.
            context.named = issuer
            wanted = list(context.roots(issuer)) or list(context.roots)
            context.retry = any(sha256(root).digest() not in context.loaded for root in wanted)
        return "; signed by %s; roots held: %d" % (common_name(issuer), len(context.roots))
    if name in ("EXPIRED", "FUTURE"):
        text = "; the clock says %04d-%02d-%02d %02d:%02d UTC" % tuple(time.gmtime()[:5])
        if chain:
            begins, ends = max(dates(chain, 0)), min(dates(chain, 1))
            text += "; valid from %d to %d (Unix time)" % (begins, ends)
        return text
    return ""


def _offer(context: "TLSContext", name: str, seen: "object") -> None:
    """Make another offer from now on to a server that did not answer the ClientHello."""
    profile = context.profile
    host = profile.host(context.host)
    if seen is None:  # only what DPS is offered can be widened there
        late = context.presented or (context.mode or profile.mode) != "dps"
    else:
        late = seen.message
    if not late and not host.wide:
        host.wide = True  # every suite
        host.settled = bool(host.acknowledged)  # no length that it never agreed to
        profile.changes += 1
        context.retry = name not in ("CLOSED", "RESET")  # those may have been the network


def _too_large(context: "TLSContext", size: int) -> str:
    profile = context.profile
    limit = profile.build.in_len
    if context.established:
        # The server sends records larger than this connection can read.
        profile.learn(context.host, record=_FULL_RECORD)
        return "; build with CONFIG_MBEDTLS_SSL_IN_CONTENT_LEN=16384"
    if size > limit:
        profile.learn(context.host, certificate=size)
        return "; a message of %d bytes, CONFIG_MBEDTLS_SSL_IN_CONTENT_LEN is %d" % (size, limit)
    return ""
