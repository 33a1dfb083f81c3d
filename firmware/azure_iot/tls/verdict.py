"""The one table from an mbedTLS or MicroPython error to our exception and its remedy.

Responsible for: naming a failed TLS connection and choosing its class. Not for: the facts around
it (who was presented, which roots were held): context.py adds those.

MicroPython's `tls` reports certificate verdicts as ValueError with lines of text, everything else
as OSError: numbers below -255 are mbedTLS codes (RFC 5246 alerts arrive as one code without their
number), others are errno. Texts differ per build, so numbers and whole lines are matched.

    name, kind, text = verdict(error, variant=True, failed_allocs_moved=False)
"""

from micropython import const

from ..errors import (
    ClockError,
    ConnectionDroppedError,
    ConnectionFailedError,
    CredentialError,
    ProtocolError,
    TrustError,
)

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from ..errors import AzureIoTError

# name, class (T trust, C clock, K credential, N no connection, D dropped, P protocol), sentence
_SENTENCES = (
    ("UNTRUSTED", "T", "no trusted root signs the server's chain; update the trust store"),
    ("HOSTNAME", "T", "the server's certificate is for another host name; check the host"),
    ("EXPIRED", "T", "a certificate of the chain, or our own root, has expired"),
    ("FUTURE", "C", "a certificate is valid only in the future; set the clock"),
    ("WEAK", "T", "the chain uses a key or hash too weak to trust; the server must replace it"),
    ("USAGE", "T", "a certificate is used for what its usage extensions do not allow"),
    ("REVOKED", "T", "a certificate of the chain is revoked"),
    ("BAD_CERT", "T", "a certificate of the server cannot be read"),
    ("NO_CERT", "P", "the server sent no certificate"),
    ("NO_ROOTS", "T", "no root is stored for this connection; install a bundle"),
    ("BAD_ROOT", "T", "a stored root cannot be read; install the bundle again"),
    ("BAD_KEY", "K", "the device's private key or certificate cannot be read"),
    ("NO_HOST", "P", "a host name is needed: it is what gets verified"),
    ("MEMORY", "N", "not enough memory for the handshake; this says nothing about the server"),
    ("CLIENT_CERT", "K", "the server refuses the device's certificate; check or renew it"),
    ("CIPHER", "P", "no common TLS version or cipher suite; a server setting has changed"),
    ("NAME_UNKNOWN", "P", "the server does not serve this host name"),
    ("ALERT", "P", "the server ended the handshake with an alert"),
    ("PEER_INTERNAL", "N", "the server reports an internal error; try again later"),
    ("RECORD_SIZE", "P", "a record or message is larger than the TLS buffers of this build"),
    ("CLIENT_CERT_SIZE", "P", "the device's certificate exceeds the fragment length agreed"),
    ("FRAGMENTS", "P", "this mbedTLS (below 3.6.3) cannot join fragmented handshake messages"),
    ("PSS", "P", "mbedTLS 3.6.6 with TLS 1.3 rejects RSA-PSS in TLS 1.2; build without TLS 1.3"),
    ("NOT_TLS", "P", "the peer does not speak TLS: a captive portal, proxy or wrong port"),
    ("HANDSHAKE", "P", "the server broke the TLS protocol"),
    ("TAMPERED", "P", "a record failed its integrity check"),
    ("CONFIG", "P", "this firmware does not know a configured cipher suite"),
    ("CLOSED", "N", "the server closed the connection in the handshake"),
    ("RESET", "N", "the connection was reset in the handshake"),
    ("TIMEOUT", "N", "the server did not answer in time"),
    ("REFUSED", "N", "the server refuses connections on this port"),
    ("NETWORK", "N", "the network failed"),
    ("DNS", "N", "the host name cannot be resolved"),
    ("INTERNAL", "N", "mbedTLS failed inside"),
)

# Whole lines of mbedTLS (MBEDTLS_X509_CRT_ERROR_INFO_LIST), the most telling first: of several
# lines the first of this table decides.
_LINES = (
    ("The certificate is not correctly signed by the trusted CA", "UNTRUSTED"),
    ("Certificate was missing", "NO_CERT"),
    ("The certificate has been revoked (is on a CRL)", "REVOKED"),
    ("The certificate is signed with an unacceptable hash.", "WEAK"),
    (
        "The certificate is signed with an unacceptable key (eg bad curve, RSA too short).",
        "WEAK",
    ),
    ("The certificate is signed with an unacceptable PK alg (eg RSA vs ECDSA).", "WEAK"),
    ("Usage does not match the keyUsage extension", "USAGE"),
    ("Usage does not match the extendedKeyUsage extension", "USAGE"),
    ("Usage does not match the nsCertType extension", "USAGE"),
    ("The certificate Common Name (CN) does not match with the expected CN", "HOSTNAME"),
    ("The certificate validity has expired", "EXPIRED"),
    ("The certificate validity starts in the future", "FUTURE"),
    ("CERT_REQUIRED requires server_hostname", "NO_HOST"),
    ("invalid cert", "BAD_ROOT"),
    ("invalid key", "BAD_KEY"),
)

# High-level codes of mbedTLS 3.6, positive (ssl.h, x509.h, pk.h).
_CODES = (
    (0x7F00, "MEMORY"),
    (0x2880, "MEMORY"),
    (0x3F80, "MEMORY"),
    (0x1180, "MEMORY"),
    (0x4D80, "MEMORY"),
    (0x5180, "MEMORY"),
    (0x6180, "MEMORY"),
    (0x7780, "ALERT"),
    (0x7800, "NAME_UNKNOWN"),
    (0x7680, "NO_ROOTS"),
    (0x7A00, "USAGE"),
    (0x7100, "RECORD_SIZE"),
    (0x7080, "FRAGMENTS"),
    (0x6600, "PSS"),
    (0x7200, "NOT_TLS"),
    (0x7280, "CLOSED"),
    (0x7880, "CLOSED"),
    (0x6E80, "CIPHER"),
    (0x6E00, "CIPHER"),
    (0x5F00, "CIPHER"),
    (0x7480, "NO_CERT"),
    (0x7180, "TAMPERED"),
    (0x5E80, "CONFIG"),
    (0x6800, "TIMEOUT"),
    (0x2700, "UNTRUSTED"),  # more verdicts than the text buffer holds
    (0x3000, "INTERNAL"),
    (0x6C00, "INTERNAL"),
    (0x5D80, "NO_HOST"),
    (0x7600, "BAD_KEY"),
)

_ERRNOS = (
    (12, "MEMORY"),  # ENOMEM
    (16, "MEMORY"),  # mbedTLS's MPI_ALLOC_FAILED (-0x10), which passes for EBUSY
    (32, "RESET"),  # EPIPE
    (103, "RESET"),  # ECONNABORTED
    (104, "RESET"),  # ECONNRESET
    (107, "RESET"),  # ENOTCONN
    (110, "TIMEOUT"),  # ETIMEDOUT
    (116, "TIMEOUT"),  # ETIMEDOUT of ESP32's C library
    (111, "REFUSED"),  # ECONNREFUSED
)

# RFC 5246 section 7.2, RFC 6066, RFC 8446: number, name, verdict
_ALERTS = (
    (0, "close_notify", "CLOSED"),
    (10, "unexpected_message", "HANDSHAKE"),
    (20, "bad_record_mac", "TAMPERED"),
    (22, "record_overflow", "CLIENT_CERT_SIZE"),
    (40, "handshake_failure", "CIPHER"),
    (42, "bad_certificate", "CLIENT_CERT"),
    (43, "unsupported_certificate", "CLIENT_CERT"),
    (44, "certificate_revoked", "CLIENT_CERT"),
    (45, "certificate_expired", "CLIENT_CERT"),
    (46, "certificate_unknown", "CLIENT_CERT"),
    (47, "illegal_parameter", "HANDSHAKE"),
    (48, "unknown_ca", "CLIENT_CERT"),
    (49, "access_denied", "CLIENT_CERT"),
    (50, "decode_error", "HANDSHAKE"),
    (51, "decrypt_error", "CLIENT_CERT"),
    (70, "protocol_version", "CIPHER"),
    (71, "insufficient_security", "CIPHER"),
    (80, "internal_error", "PEER_INTERNAL"),
    (86, "inappropriate_fallback", "CIPHER"),
    (90, "user_canceled", "CLOSED"),
    (109, "missing_extension", "HANDSHAKE"),
    (110, "unsupported_extension", "HANDSHAKE"),
    (112, "unrecognized_name", "NAME_UNKNOWN"),
    (116, "certificate_required", "CLIENT_CERT"),
)

_LOW = const(0x7F)
_ASN1_ALLOC_FAILED = const(0x6A)
_MPI_ALLOC_FAILED = const(0x10)


def alert_name(alert: int) -> str:
    """Return the name of a TLS alert, `alert 123` for an unknown one."""
    for number, name, _ in _ALERTS:
        if number == alert:
            return name
    return "alert %d" % alert


def verdict(
    exc: Exception,
    *,
    variant: bool = True,
    failed_allocs_moved: bool | None = False,
    clock_trusted: bool = True,
    alert: int | None = None,
    credential: bool = False,
    chain_seen: bool = False,
    oversized: bool | None = None,
    established: bool = False,
) -> tuple:
    """Return `(name, class, sentence)` for what a TLS connection raised.

    `variant`: the firmware has `tlsopt`. `failed_allocs_moved`: an allocation failed since the
    socket was wrapped (None: this firmware cannot tell). `alert`: number of the alert received,
    when known. `credential`: the device offered a certificate. `chain_seen`: the server presented
    its chain, so version and suite were agreed. `oversized`: it sent more
    than the buffers hold (None: not known). `established`: the handshake was
    over, so a lost connection is a dropped one.
    """
    name = _name(exc, alert, credential)
    if name == "PSS" and variant:
        name = "HANDSHAKE"  # builds with tlsopt leave TLS 1.3 out, so it is a genuine violation
    if name == "RECORD_SIZE" and oversized is False:
        name = "HANDSHAKE"  # mbedTLS has one code for both
    if name == "CIPHER" and chain_seen:
        name = "CLIENT_CERT"  # handshake_failure after that is about what the device answered
    if failed_allocs_moved:
        # A failed allocation inside chain verification passes for a bad signature: nothing that
        # happened in this handshake proves anything about the server.
        name = "MEMORY"
    letter, text = _sentence(name)
    kind = _kind(letter)
    if name == "EXPIRED" and not clock_trusted:
        kind = ClockError
        text += "; the clock is not confirmed, so repair the time first"
    elif name == "UNTRUSTED" and failed_allocs_moved is None:
        text += "; this firmware cannot tell that from a shortage of memory"
    elif letter == "N" and established and name != "MEMORY":
        kind = ConnectionDroppedError
    if alert is not None and name != "MEMORY":
        text += " (alert %s)" % alert_name(alert)
    elif name == "ALERT" and not variant:
        text += " (this firmware cannot name it)"
    return name, kind, text


def _sentence(name: str) -> tuple:
    for found, letter, text in _SENTENCES:
        if found == name:
            return letter, text
    return "P", name


def _kind(letter: str) -> "type[AzureIoTError]":
    if letter == "T":
        return TrustError
    if letter == "C":
        return ClockError
    if letter == "K":
        return CredentialError
    return ConnectionFailedError if letter == "N" else ProtocolError


def _name(exc: Exception, alert: int | None, credential: bool) -> str:
    if isinstance(exc, MemoryError):
        return "MEMORY"
    if isinstance(exc, ValueError):
        return _by_line(str(exc))
    if not isinstance(exc, OSError):
        return "INTERNAL"
    number = exc.args[0] if exc.args else 0
    if not isinstance(number, int):
        return "DNS"  # unix: OSError("[addrinfo error -2]")
    if number >= -255:
        name = _by_number(_ERRNOS, abs(number), "NETWORK")
        # A refusal of the certificate races with our own writing and may come as a reset.
        return _by_alert(alert) if alert and name == "RESET" else name
    low = -number & _LOW
    if low == _ASN1_ALLOC_FAILED or low == _MPI_ALLOC_FAILED:
        return "MEMORY"
    high = -number - low
    if 0x2080 <= high < 0x3000 or 0x3880 <= high < 0x3F80:
        name = _by_number(_CODES, high, "BAD_CERT")
    else:
        name = _by_number(_CODES, high, "HANDSHAKE")
    if name == "ALERT":
        if alert is not None:
            return _by_alert(alert)
        return "CLIENT_CERT" if credential else name
    return name


def _by_line(text: str) -> str:
    if not text.strip():
        return "MEMORY"  # MicroPython drops the text of an exception it has no memory for
    lines = [line.strip() for line in text.split("\n")]
    for line, name in _LINES:
        if line in lines:
            return name
    return "BAD_CERT"


def _by_number(table: tuple, number: int, otherwise: str) -> str:
    for found, name in table:
        if found == number:
            return name
    return otherwise


def _by_alert(alert: int) -> str:
    for number, _, name in _ALERTS:
        if number == alert:
            return name
    return "ALERT"
