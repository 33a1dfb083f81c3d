"""From a channel to the install procedure: copying what cannot be read twice, telling the outcome.

Responsible for: one procedure for every channel. Not for: judging a package (update.py), what the
caller is told of a refusal (manager.py).
"""

import gc

from micropython import const

from . import stored, update
from .errors import RefusedError
from .files import PackageFile, remove

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .files import FileSource
    from .manager import TrustManager
    from .sources import Source

_COPY = const(512)


def install(trust: "TrustManager", source: "Source", channel: str) -> tuple:
    if hasattr(source, "seek"):
        return _judge(trust, source, channel)
    path = trust.store.path("package.tmp")
    copy = _copy(trust, source, path)
    try:
        return _judge(trust, copy, channel)
    finally:
        copy.close()
        remove(path)


def _judge(trust: "TrustManager", source: "Source", channel: str) -> tuple:
    store = trust.store
    loader = trust.config.get("loader")

    def load(der: bytes) -> None:
        loader(der)
        gc.collect()  # what that took lies outside of the heap on some ports

    rules = update.Rules(
        trust.clock.unix_time(),
        trust.clock.synchronised,
        trust.config.get("uses", ("hub",)),
        load if loader is not None else None,
        channel if channel in ("inbox", "recovery") else "ota",
        stored.verifier(store),
    )
    keys = store.state.kver
    distrust = store.state.distrust
    try:
        return update.install(store, source, rules)
    finally:
        # Also after a refusal: a key-set may have been accepted, a slot overwritten.
        trust._previous = None
        if store.state.kver != keys:
            trust.changed("keys")
        if store.state.distrust != distrust:
            trust.changed("distrust")


def _copy(trust: "TrustManager", source: "Source", path: str) -> "FileSource":
    trust.store.make_folder()
    sink = PackageFile(path)
    buffer = bytearray(_COPY)
    left = source.size
    try:
        while left > 0:
            n = source.readinto(memoryview(buffer)[: min(_COPY, left)])
            if not n:
                raise RefusedError("package ended %d bytes early" % left, "DOWNLOAD")
            sink.write(memoryview(buffer)[:n])
            left -= n
        return sink.done()
    except OSError as error:
        raise RefusedError("package could not be read", "DOWNLOAD", error)
    finally:
        sink.abort()
