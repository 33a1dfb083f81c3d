"""The exceptions of the package.

Responsible for: one plain tree, rooted in `AzureIoTError`; every failure a user can meet is one
of these. Not responsible for: deciding which one applies (tls/verdict.py, transport.py, mqtt/).

Every error keeps the exception that caused it in `.cause`: MicroPython has no exception chain.
None derives from OSError as well: MicroPython cannot lay out such a class.
"""


class AzureIoTError(Exception):
    """Root of the tree; `.cause` is the exception underneath or None."""

    def __init__(self, text: str = "", cause: "Exception | None" = None) -> None:
        super().__init__(text)
        self.cause = cause


class ClockError(AzureIoTError):
    """The device time is not plausible: synchronise it first (TLS dates, SAS expiry)."""


class CredentialError(AzureIoTError):
    """A wrong key or certificate, or the hub refuses this device: do not retry blindly."""


class TrustError(AzureIoTError):
    """The server's chain or a trust package is not acceptable; `.code` is from a closed list."""

    def __init__(
        self, text: str = "", code: "str | None" = None, cause: "Exception | None" = None
    ) -> None:
        super().__init__(text, cause)
        self.code = code


class ConnectionFailedError(AzureIoTError):
    """No connection came about; `.reason` is one word ("dns", "tcp", "tls", "connack", …)."""

    def __init__(
        self, text: str = "", reason: str = "network", cause: "Exception | None" = None
    ) -> None:
        super().__init__(text, cause)
        self.reason = reason


class ConnectionDroppedError(AzureIoTError):
    """A connection that stood has ended."""


class ProtocolError(AzureIoTError):
    """The peer broke a rule of the protocol; `.rule` names it ("MQTT-3.3.1-4")."""

    def __init__(
        self, text: str = "", rule: "str | None" = None, cause: "Exception | None" = None
    ) -> None:
        super().__init__(text, cause)
        self.rule = rule


class ServiceError(AzureIoTError):
    """The service said no; `.status` is its number, `.retry_after` its wish in seconds."""

    def __init__(
        self,
        text: str = "",
        status: "int | None" = None,
        retry_after: "int | None" = None,
        cause: "Exception | None" = None,
    ) -> None:
        super().__init__(text, cause)
        self.status = status
        self.retry_after = retry_after


class QueueFullError(AzureIoTError):
    """A bounded queue has no room and the caller chose not to wait."""
