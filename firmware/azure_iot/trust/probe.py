"""Would this device still connect if the hub rested on that root? (trust store, 8.2)

Responsible for: one verified handshake with a single named root, and what came of it. Not for:
connections that are used. A probe sends no CONNECT, no credential and no client certificate, it
offers and keeps no session, and neither a slot nor a floor nor a try changes (R-49).

    result = await probe(trust, {"host": …, "port": 8883, "root": "<64 hex>"}, opener)
"""

import gc

from micropython import const

from azure_iot.errors import (
    AzureIoTError,
    ClockError,
    ConnectionFailedError,
    ProtocolError,
    TrustError,
)

from .errors import RefusedError
from .roots import usable
from .sources import is_digest

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from .manager import TrustManager
    from .roots import RootSet

_MAX_HOST = const(253)


async def probe(trust: "TrustManager", request: dict, opener: "Callable") -> dict:
    """Make the probe asked for and return `{"root", "host", "result", "peak_heap", "at"}`.

    opener: `await opener(host, port, roots)` opens a TLS connection verified by `roots` alone,
    without credential and session, and raises typed errors; it is closed at once.
    Raises MALFORMED when the request itself is wrong.
    """
    host, port, name = _request(request)
    trust.require_host(host)
    roots = carried(trust, bytes.fromhex(name))
    gc.collect()
    before = gc.mem_alloc()
    if roots is None:
        result = "NOT_CARRIED"
        if bytes.fromhex(name) in trust.store.state.distrust:
            result = "DISTRUSTED"
    else:
        result = await _handshake(opener, host, port, roots)
    found = {
        "root": name,
        "host": host,
        "result": result,
        "peak_heap": max(0, gc.mem_alloc() - before),
        "at": trust.clock.unix_time(),
    }
    trust.note_probe(found)
    return found


def _request(request: dict) -> tuple:
    host = request.get("host")
    port = request.get("port")
    root = request.get("root")
    if not isinstance(host, str) or not 1 <= len(host) <= _MAX_HOST:
        raise RefusedError("probe: host missing")
    if type(port) is not int or not 1 <= port <= 65535:
        raise RefusedError("probe: port missing")
    if not isinstance(root, str) or not is_digest(root.encode()):
        raise RefusedError("probe: root must be 64 hexadecimal digits")
    return host, port, root


def carried(trust: "TrustManager", sha256: bytes) -> "RootSet | None":
    """Return the set of this one root if the device carries and does not distrust it."""
    store = trust.store
    slots = (store.state.good, store.state.trial)
    bundles = [store.facts(slot) for slot in slots if slot is not None]
    bundles.append(store.factory.bundle())
    for bundle in bundles:
        if bundle is not None:
            roots = usable(bundle, None, store.state.distrust).only(sha256)
            if len(roots):
                return roots
    return None


async def _handshake(opener: "Callable", host: str, port: int, roots: "RootSet") -> str:
    try:
        transport = await opener(host, port, roots)
    except MemoryError:
        return "MEMORY"
    except ClockError:
        return "CLOCK"
    except TrustError as error:
        return error.code
    except ConnectionFailedError as error:
        return (error.reason or "NETWORK").upper()
    except ProtocolError as error:
        return error.rule or "PROTOCOL"
    except AzureIoTError:
        return "DROPPED"
    await transport.close()
    return "ok"
