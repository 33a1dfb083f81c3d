"""Why a package, a key-set or a bundle is refused: one class, a closed list of codes.

Responsible for: the exception; `code` is what the twin reports as `trust.last_error.code`. Not
for: TLS verdicts (tls/verdict.py).
Each code has its sentence and its remedy in firmware/docs/trust-errors.md: MALFORMED, TOO_LARGE,
BAD_SIGNATURE, THRESHOLD, KEY_CHAIN, FLEET, ROLLBACK, EXPIRED, NOT_CA, DUPLICATE, DISTRUSTED,
NO_ROOTS, STORAGE, MEMORY, UNMANAGED, DEMO_HOST, DOWNLOAD, NO_RANGE.
"""

from azure_iot.errors import TrustError


class RefusedError(TrustError):
    """A package was not installed; state, floors and roots in use are unchanged."""

    version = 0  # of the bundle, once it is known

    def __init__(
        self, text: str, code: str = "MALFORMED", cause: "Exception | None" = None
    ) -> None:
        TrustError.__init__(self, text, code, cause)
