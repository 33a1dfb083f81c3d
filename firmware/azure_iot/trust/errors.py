"""Why a package, a key-set or a bundle is refused: the closed list of codes.

Responsible for: one exception class per code; `code` is what the twin reports as
`trust.last_error.code`. Not for: TLS verdicts (tls/verdict.py).
Each code has its sentence and its remedy in firmware/docs/trust-errors.md.
"""

from azure_iot.errors import TrustError


class RefusedError(TrustError):
    """A package was not installed; state, floors and roots in use are unchanged."""

    CODE = "MALFORMED"

    def __init__(self, text: str, cause: Exception | None = None) -> None:
        TrustError.__init__(self, text, self.CODE, cause)
        self.version = 0  # of the bundle, once it is known


class MalformedError(RefusedError):
    """The text is not what the specification allows at this place."""


class TooLargeError(RefusedError):
    """A size or count limit is exceeded."""

    CODE = "TOO_LARGE"


class BadSignatureError(RefusedError):
    """A signature by a key of the role does not verify, and the threshold is not reached."""

    CODE = "BAD_SIGNATURE"


class ThresholdError(RefusedError):
    """Fewer keys of the role have signed than the threshold asks for."""

    CODE = "THRESHOLD"


class KeyChainError(RefusedError):
    """The key-sets do not continue the chain this device has walked."""

    CODE = "KEY_CHAIN"


class FleetError(RefusedError):
    """Signed for another fleet."""

    CODE = "FLEET"


class RollbackError(RefusedError):
    """Not newer than what this device has confirmed, or tried and given up."""

    CODE = "ROLLBACK"


class ExpiredError(RefusedError):
    """Past its `expires`, or issued in the future."""

    CODE = "EXPIRED"


class NotCAError(RefusedError):
    """A listed certificate cannot act as a root."""

    CODE = "NOT_CA"


class DuplicateError(RefusedError):
    """Something that must be unique occurs twice."""

    CODE = "DUPLICATE"


class DistrustedError(RefusedError):
    """A bundle lists a root that it distrusts."""

    CODE = "DISTRUSTED"


class NoRootsError(RefusedError):
    """No root is left for a kind of connection this device needs."""

    CODE = "NO_ROOTS"


class StorageError(RefusedError):
    """The file system refused a write, or gave back other bytes than were written."""

    CODE = "STORAGE"


class MemoryShortError(RefusedError):
    """Memory ran out while a package was examined."""

    CODE = "MEMORY"


class UnmanagedError(RefusedError):
    """This device has no key-set: nobody can update its roots over the air."""

    CODE = "UNMANAGED"


class DemoHostError(RefusedError):
    """A demo fleet met a host that is neither loopback nor private."""

    CODE = "DEMO_HOST"


class DownloadError(RefusedError):
    """The package did not arrive whole: size or digest differ from what was announced."""

    CODE = "DOWNLOAD"


class NoRangeError(RefusedError):
    """The server must answer Range requests for a buffer this small, and does not."""

    CODE = "NO_RANGE"
