"""The device's side of a trust update: what the operator wishes in the twin becomes an install.

Responsible for: the desired property `trust` (an address or chunks), download to flash, digest
check, install, retry of downloads. Not for: judging a package (trust/), reconnecting (client.py).
Source: contracts.md sections 1 and 5.

    {"trust": {"version": 7, "sha256": "<64 hex>", "size": 12345, "url": "https://…"}}
    {"trust": {"version": 7, "sha256": "<64 hex>", "size": 12345, "chunks": 4, "c0": "…", …}}
"""

import asyncio

from micropython import const

from . import log
from .backoff import Backoff
from .errors import AzureIoTError, ConnectionFailedError, TrustError
from .https import Fetcher
from .tls.context import TLSContext
from .trust.errors import RefusedError
from .trust.files import FileSource, PackageFile, read_bytes, write_bytes
from .trust.sources import read_full

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .trust.manager import TrustManager
    from .twin import DesiredChange

_LIMIT = const(32768)
_MAX_CHUNKS = const(32)
_PIECE = const(256)
_DIGEST = const(64)


class Updater:
    """Follows the desired property `trust` until nothing is left to do.

    `on_result()` is called after each attempt. `wishes` is what the next one goes on with: the
    desired object, the digest of the package that was installed or refused for good, the last probe.
    """

    def __init__(
        self, trust: "TrustManager", random: "object", wishes: tuple, *, profile: object = None
    ) -> None:
        self.trust = trust
        self.fetcher = Fetcher(check=trust.require_host)
        self.on_result = None
        self.client = None  # gives its memory away where an install or a download needs it
        self._wanted, self._settled, self._probed = wishes
        self._profile = profile
        self._due = False
        self._backoff = Backoff(5000, 900_000, random)

    def on_desired(self, change: "DesiredChange") -> None:
        """Take a desired change; only its member `trust` matters here."""
        wish = change.patch.get("trust")
        if change.complete:
            self._wanted = {}
        if "trust" in change.patch and not isinstance(wish, dict):
            self._wanted = {}
        if isinstance(wish, dict):
            for name, value in wish.items():
                if value is None:
                    self._wanted.pop(name, None)
                else:
                    self._wanted[name] = value
            self._backoff.reset()
            self._due = True

    @property
    def wishes(self) -> tuple:
        """What the next Updater is made with."""
        return self._wanted, self._settled, self._probed

    async def run(self) -> None:
        """Handle wishes one after the other until none is left."""
        while self._due:
            self._due = False
            probe = self._wanted.get("probe")
            upkeep = self.client.upkeep if self.client is not None else None
            if isinstance(probe, dict) and probe != self._probed and upkeep is not None:
                self._probed = probe
                upkeep.queue(("probe", probe, None))
            if "sha256" in self._wanted and self._wanted["sha256"] != self._settled:
                await self._try(dict(self._wanted))

    async def _try(self, wish: dict) -> None:
        if self._is_in_use(wish):
            self._settled = wish["sha256"]
            return
        try:
            source = await self._obtain(wish)
            channel = "url" if "url" in wish else "twin"
            if self.client is None:
                version = self.trust.install(source, channel)
            else:
                version = await self.client.install_package(source, channel)
            self._settled = wish["sha256"]
            log.info("trust package: version %d is installed", version)
            write_bytes(self._mark(), self._settled.encode())
        except TrustError as error:
            self._note(error, wish)
            if error.code == "DOWNLOAD":
                await self._again()
            else:
                self._settled = wish["sha256"]
        except AzureIoTError as error:
            code = "NO_RANGE" if getattr(error, "rule", "") == "NO_RANGE" else "DOWNLOAD"
            self._note(RefusedError("%s" % error, code, error), wish)
            if code == "DOWNLOAD":
                await self._again()
            else:
                self._settled = wish["sha256"]
        if self.on_result is not None:
            self.on_result()

    def _mark(self) -> str:
        """Name the file with the digest of the package that was installed last."""
        return self.trust.store.path("wish")

    def _is_in_use(self, wish: dict) -> bool:
        """Tell whether this very package is confirmed: the twin names it after every start."""
        good = self.trust.store.state.good
        if good is None or good.version != wish.get("version"):
            return False
        return read_bytes(self._mark(), _DIGEST) == str(wish["sha256"]).encode()

    def _note(self, error: TrustError, wish: dict) -> None:
        log.warning("trust package %s: %s", wish.get("version"), error)
        setattr(error, "version", wish.get("version", 0))  # noqa: B010 (what the report names)
        self.trust.note(error)

    async def _again(self) -> None:
        if self.on_result is not None:
            self.on_result()
        await asyncio.sleep_ms(self._backoff.next())
        self._due = True

    async def _obtain(self, wish: dict) -> "FileSource":
        """Bring the package to flash and compare it with the announced digest and size."""
        digest, size = wish["sha256"], wish.get("size")
        if not isinstance(digest, str) or not isinstance(size, int) or len(digest) != 64:
            raise RefusedError("the desired property trust lacks sha256 or size")
        if size > _LIMIT:
            raise RefusedError("package larger than %d bytes" % _LIMIT, "TOO_LARGE")
        self.trust.store.make_folder()
        if "chunks" in wish:
            # A twin merges patches: an address of an earlier package may stand beside the chunks.
            try:
                return await self._bring(wish, digest, size, None)
            except TrustError:
                if "url" not in wish:
                    raise
        return await self._bring(wish, digest, size, wish.get("url"))

    async def _bring(self, wish: dict, digest: str, size: int, url: "str | None") -> "FileSource":
        sink = PackageFile(self.trust.store.path("package.new"))
        try:
            if url is None:
                _join(wish, sink, self.trust.store)
            else:
                await self._download(url, sink)
        except BaseException:
            sink.abort()
            raise
        found = sink.digest.digest().hex()
        source = sink.done()
        if sink.size != size or found != digest.lower():
            raise RefusedError(
                "the package has %d bytes and digest %s…, announced were %d and %s…"
                % (sink.size, found[:16], size, digest[:16]),
                "DOWNLOAD",
            )
        return source

    async def _download(self, url: str, sink: PackageFile) -> None:
        if not isinstance(url, str):
            raise RefusedError("the package's address is no text")
        context = None
        if url.startswith("https://"):
            attempt = self.trust.attempt("https")
            context = TLSContext(attempt.roots, profile=self._profile)
        try:
            await self.fetcher.fetch(url, sink, _LIMIT, context=context, redirects=2, chunked=True)
        except ConnectionFailedError as error:
            # A second TLS context did not fit beside the hub's: it was refused before connecting.
            if error.reason != "memory" or self.client is None or sink.size:
                raise
            async with self.client.quiet():
                await self.fetcher.fetch(
                    url, sink, _LIMIT, context=context, redirects=2, chunked=True
                )


def _join(wish: dict, sink: PackageFile, store: object) -> None:
    count = wish.get("chunks")
    if not isinstance(count, int) or not 1 <= count <= _MAX_CHUNKS:
        raise RefusedError("the desired property trust has neither url nor chunks")
    for number in range(count):
        chunk = wish.get("c%d" % number)
        if isinstance(chunk, str):
            sink.write(chunk.encode())
        elif isinstance(chunk, int) and chunk:
            _append(sink, store.path("c%d.new" % number), chunk)  # desired.py put it there
        else:
            raise RefusedError("chunk c%d is missing" % number)


def _append(sink: PackageFile, path: str, size: int) -> None:
    source = FileSource(path)
    try:
        buffer = memoryview(bytearray(_PIECE))
        while size:
            view = buffer[: min(size, _PIECE)]
            if read_full(source, view) != len(view):
                raise RefusedError("%s is shorter than the chunk was" % path)
            sink.write(view)
            size -= len(view)
    finally:
        source.close()
