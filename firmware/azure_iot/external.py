"""Credentials whose secret is not in the device's hands: a ready token, a service, a chip.

Each has `await token(resource, expiry, policy="")`, like the device's own key (credentials.py).
No object here shows a secret in `repr`, and no error text carries one.
"""

from micropython import const

from .credentials import SymmetricKey
from .errors import CredentialError
from .sas import to_sign, token, token_expiry

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable


class SignerKey(SymmetricKey):
    """A key that never leaves its chip: `signer.sign(bytes)` returns HMAC-SHA256.

    The result may be a coroutine, for chips that take their time.
    """

    key_id = None  # who holds the chip holds the key

    def __init__(self, signer: object) -> None:
        self._signer = signer

    async def token(self, resource: str, expiry: int, policy: str = "") -> str:
        """Make a token valid until `expiry`, signed by the chip."""

        async def ask(message: bytes) -> bytes:
            signed = self._signer.sign(message)
            return await signed if hasattr(signed, "send") else signed

        signature = await ask(to_sign(resource, expiry))
        return token(resource, expiry, lambda message: signature, policy)

    def __repr__(self) -> str:
        return "<SignerKey>"


class StaticToken:
    """A token made elsewhere; it cannot be renewed here and ends when its `se` says so."""

    def __init__(self, text: str) -> None:
        if not text.startswith("SharedAccessSignature ") or not token_expiry(text):
            raise CredentialError(
                'the token is not a SAS token: it must begin with "SharedAccessSignature " '
                "and carry sr, sig and se"
            )
        self._text = text
        self.expiry = token_expiry(text)

    async def token(self, resource: str, expiry: int, policy: str = "") -> str:
        """Return the token as it was given."""
        return self._text

    def __repr__(self) -> str:
        return "<StaticToken until %d>" % self.expiry


class SasProvider:
    """Asks for each token: `provide(resource, expiry) -> str`, a function or coroutine function.

    The token-service pattern: the key lives in a service, the device asks for short-lived
    tokens. `deadline_s` bounds one call; a failed call is a CredentialError only when the
    provider raises one, anything else counts as a network failure and is tried again.
    """

    def __init__(self, provide: "Callable", deadline_s: int = 20) -> None:
        self._provide = provide
        self.deadline_s = deadline_s

    async def token(self, resource: str, expiry: int, policy: str = "") -> str:
        """Ask the provider for a token."""
        text = self._provide(resource, expiry)
        if hasattr(text, "send"):  # a coroutine
            text = await text
        if not isinstance(text, str) or not token_expiry(text):
            raise CredentialError("the SAS provider returned something that is no SAS token")
        return text

    def __repr__(self) -> str:
        return "<SasProvider, %d s>" % self.deadline_s
