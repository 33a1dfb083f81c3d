"""Certificates and private keys as people have them: PEM and DER in any mix.

Responsible for: the chain in the order TLS wants, whether key and certificate belong together.
Loaded for that, and forgotten. Source: RFC 5280, RFC 8017 A.1.2, RFC 5915, RFC 5958.
"""

import binascii

from micropython import const

from .errors import CredentialError
from .tls.presented import common_name
from .trust import der
from .trust.errors import RefusedError

_MAX_CERTIFICATES = const(4)
_SEQUENCE = const(0x30)
_INTEGER = const(0x02)
_OCTET_STRING = const(0x04)
_PUBLIC_POINT = const(0xA1)
_BEGIN = b"-----BEGIN "


def read(cert: "bytes | str", key: "bytes | str", intermediates: "list | tuple") -> tuple:
    """Return (certificates, key, (common name, not before, not after)).

    The certificates are the leaf's DER, or the PEM of the whole chain; the key is DER. Raises
    CredentialError in words for material that cannot work.
    """
    found = _certificates(cert)
    for more in intermediates:
        found.extend(_certificates(more))
    if len(found) > _MAX_CERTIFICATES:
        raise CredentialError("the device's chain has more than four certificates")
    private = _key(key)
    facts = _read(found[0])
    if facts.is_ca and len(found) > 1:
        raise CredentialError("the first certificate is a CA: the device's own must come first")
    _match(private, facts.public_key)
    _order(found, facts)
    chain = found[0] if len(found) == 1 else _pem(found)
    return chain, private, (common_name(facts.subject), facts.not_before, facts.not_after)


def _bytes(data: "bytes | str") -> bytes:
    return data.encode() if isinstance(data, str) else bytes(data)


def _blocks(data: bytes) -> list:
    """Split PEM into (label, DER); DER alone gives one block without a label."""
    if _BEGIN not in data:
        return [("", data)]
    found = []
    for part in data.split(_BEGIN)[1:]:
        label, _, rest = part.partition(b"-----")
        body, end, _ = rest.partition(b"-----END " + label)
        if not end:
            raise CredentialError("a PEM block has no end: it was cut")
        if b":" in body:
            raise CredentialError("the private key is encrypted: store it without a passphrase")
        try:
            found.append((label.decode(), binascii.a2b_base64(b"".join(body.split()))))
        except (ValueError, UnicodeError) as error:
            raise CredentialError("a PEM block is not base64", error)
    return found


def _certificates(data: "bytes | str") -> list:
    found = [raw for label, raw in _blocks(_bytes(data)) if label in ("", "CERTIFICATE")]
    if not found or not found[0]:
        raise CredentialError("no certificate in what was given as certificate")
    return found


def _key(data: "bytes | str") -> bytes:
    for label, raw in _blocks(_bytes(data)):
        if label == "ENCRYPTED PRIVATE KEY":
            raise CredentialError("the private key is encrypted: store it without a passphrase")
        if label in ("", "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"):
            return raw
    raise CredentialError("no private key in what was given as key")


def _read(raw: bytes) -> "der.Facts":
    try:
        return der.read(raw)
    except RefusedError as error:
        raise CredentialError("the device's certificate cannot be read: %s" % error, error)


def _match(key: bytes, public_key: bytes) -> None:
    """Compare the public half inside the private key with the certificate's."""
    try:
        public = _public_half(key)
    except RefusedError as error:
        raise CredentialError("the private key cannot be read: it was cut or is no key", error)
    if public and public not in public_key:
        raise CredentialError("the private key does not belong to the certificate")


def _public_half(key: bytes) -> bytes:
    """Give the RSA modulus or EC point within a private key, b"" when it carries none."""
    whole = der.Walk(key, 0, len(key)).step(_SEQUENCE)
    if whole.end != len(key):
        raise CredentialError("bytes after the private key: it was pasted with something else")
    parts = whole.inside()
    version = parts.step(_INTEGER).value()
    parts.step()
    if parts.tag == _INTEGER:
        return parts.value()  # PKCS#1: the modulus follows the version
    if parts.tag == _SEQUENCE:
        inner = parts.step(_OCTET_STRING).value()
        return _public_half(inner)  # PKCS#8
    if parts.tag == _OCTET_STRING and version == b"\x01":
        while parts.more():
            parts.step()
            if parts.tag == _PUBLIC_POINT:
                return parts.value()[4:]  # BIT STRING head, then 04 || x || y without the 04
        return b""
    raise CredentialError("the private key is neither RSA nor EC")


def _order(found: list, leaf: "der.Facts") -> None:
    """Put the intermediates in the order of issuing; refuse one that issues nothing here."""
    wanted = leaf.issuer
    rest = found[1:]
    del found[1:]
    while rest:
        for raw in rest:
            facts = _read(raw)
            if facts.subject == wanted:
                break
        else:
            raise CredentialError("an intermediate certificate does not belong to the chain")
        rest.remove(raw)
        wanted = facts.issuer
        if facts.issuer != facts.subject:  # a root adds nothing: the server holds it
            found.append(raw)


def _pem(found: list) -> bytes:
    parts = []
    for raw in found:
        parts.append(b"-----BEGIN CERTIFICATE-----\n")
        parts.append(binascii.b2a_base64(raw))
        parts.append(b"-----END CERTIFICATE-----\n")
    return b"".join(parts)
