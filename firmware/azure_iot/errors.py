"""The exception tree of the package.

Responsible for: the classes an application catches, and `cause`, because MicroPython keeps no
exception chain; the question that is asked of a whole chain. Not for: deciding which class a
failure gets (tls/verdict.py, transport.py, client.py), the codes of trust packages (trust/errors.py).

    AzureIoTError                .cause
      ClockError                 sync the clock first: certificate dates and SAS expiry need it
      CredentialError            wrong key or certificate: do not retry blindly
      TrustError                 .code    the server's chain or a trust package is not acceptable
      ConnectionFailedError      .reason  could not connect; retry with backoff
      ConnectionDroppedError     the connection ended; reconnect
      ProtocolError              .rule    the peer broke a protocol rule
      ServiceError               .status .retry_after   the service said no
      QueueFullError             nothing was sent; slow down
"""


class AzureIoTError(Exception):
    """Base of everything this package raises; `cause` is the exception underneath or None."""

    def __init__(self, text: str, cause: Exception | None = None) -> None:
        super().__init__(text)
        self.cause = cause


class ClockError(AzureIoTError):
    """The device's time is not plausible."""


class CredentialError(AzureIoTError):
    """The key or certificate is wrong, or the service refuses this device."""


class TrustError(AzureIoTError):
    """A certificate chain or a trust package is not acceptable; `code` says why."""

    def __init__(self, text: str, code: str = "X509", cause: Exception | None = None) -> None:
        AzureIoTError.__init__(self, text, cause)
        self.code = code


class ConnectionFailedError(AzureIoTError):
    """No connection came about; `reason` is one word (dns, tcp, refused, timeout, memory, tls)."""

    def __init__(self, text: str, reason: str = "", cause: Exception | None = None) -> None:
        AzureIoTError.__init__(self, text, cause)
        self.reason = reason


class ConnectionDroppedError(AzureIoTError):
    """An established connection ended."""


class ProtocolError(AzureIoTError):
    """The peer broke a rule of the protocol; `rule` cites it (for instance MQTT-3.2.2-1)."""

    def __init__(self, text: str, rule: str = "", cause: Exception | None = None) -> None:
        AzureIoTError.__init__(self, text, cause)
        self.rule = rule


class ServiceError(AzureIoTError):
    """The service answered with an error status; `retry_after` is in seconds or None."""

    def __init__(
        self,
        text: str,
        status: int = 0,
        retry_after: int | None = None,
        cause: Exception | None = None,
    ) -> None:
        AzureIoTError.__init__(self, text, cause)
        self.status = status
        self.retry_after = retry_after


class QueueFullError(AzureIoTError):
    """A bounded queue is full; nothing was sent."""


def lacks_memory(error: "Exception | None") -> bool:
    """Tell whether memory was short, in `error` or in what caused it."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "reason", "") == "memory":
            return True
        error = getattr(error, "cause", None)
    return False
