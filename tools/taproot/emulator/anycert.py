"""Lets a TLS server ask for a client certificate and accept whatever comes.

IoT Hub asks every client for a certificate, completes the handshake and decides at CONNECT.
Python's `ssl` has no such mode, so OpenSSL's verify callback is set through ctypes. That rests
on CPython's object layout: `usable()` proves it once per process with an in-memory handshake,
and the emulator says so when it has to fall back to CERT_OPTIONAL.
OpenSSL's own verdict is worthless afterwards: `credentials.check_chain` is the judge.
"""

from __future__ import annotations

import _ssl
import contextlib
import ctypes
import functools
import ssl

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
_accept = _Callback(lambda ok, store: 1)  # referenced for as long as the process lives
_SSL_VERIFY_PEER = 1
_SET_MAX_SEND_FRAGMENT = 52


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_ssl.__file__)
        library.SSL_CTX_set_verify  # noqa: B018 - looked up, not called
    except (AttributeError, OSError):
        library = ctypes.CDLL("libssl.so.3")
    library.SSL_CTX_set_verify.argtypes = [ctypes.c_void_p, ctypes.c_int, _Callback]
    library.SSL_CTX_set_verify.restype = None
    library.SSL_CTX_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    library.SSL_CTX_ctrl.restype = ctypes.c_long
    return library


def _pointer(context: ssl.SSLContext) -> ctypes.c_void_p:
    return ctypes.c_void_p.from_address(id(context) + object.__basicsize__)


def request_any(context: ssl.SSLContext) -> None:
    """Make a server context ask for a certificate and accept any, or none."""
    context.verify_mode = ssl.CERT_OPTIONAL
    if usable():
        _set(context)


def _set(context: ssl.SSLContext) -> None:
    _library().SSL_CTX_set_verify(_pointer(context), _SSL_VERIFY_PEER, _accept)


def set_record_size(context: ssl.SSLContext, size: int) -> bool:
    """Limit the plaintext of the records a server sends (512 to 16384)."""
    return usable() and bool(
        _library().SSL_CTX_ctrl(_pointer(context), _SET_MAX_SEND_FRAGMENT, size, None)
    )


@functools.cache
def usable() -> bool:
    """Prove by a handshake in memory that a self-signed client certificate is let through."""
    try:
        _library()
    except (AttributeError, OSError):
        return False
    from taproot.emulator import chains  # the prover needs a context, contexts need this module
    from taproot.pki import Authority

    stranger = Authority.root("any-cert self-test", "p256").leaf("stranger", "p256", client=True)
    server = chains.bare_context(stranger)
    server.verify_mode = ssl.CERT_OPTIONAL
    _set(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE  # both ends are in this function; nothing is transported
    chains.load(client, stranger)
    return _handshake(server, client) == stranger.der


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> bytes | None:
    a, b, c, d = (ssl.MemoryBIO() for _ in range(4))
    there = server.wrap_bio(a, b, server_side=True)
    here = client.wrap_bio(c, d)
    for _ in range(6):
        for side in (here, there):
            with contextlib.suppress(ssl.SSLWantReadError):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    raise
                except ssl.SSLError:
                    return None
            a.write(d.read())
            c.write(b.read())
    return there.getpeercert(True)
