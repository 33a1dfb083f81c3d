"""What happens between a failed attempt and the next: time repair, new assignment.

Responsible for: classifying failures, asking the ladder, carrying its action out before the next
attempt. Not for: the ladder's rules (ladder.py), time (timekeeper.py), DPS (provisioning.py).
Loaded at the first failure and forgotten, counts and all, when the hub has accepted this device.
"""

from micropython import const

from . import log
from .errors import (
    AzureIoTError,
    ClockError,
    ConnectionDroppedError,
    ConnectionFailedError,
    CredentialError,
    ProtocolError,
    ServiceError,
    TrustError,
)
from .ladder import (
    NETWORK,
    REFUSED,
    REPAIR,
    REPROVISION,
    RETRY,
    THROTTLED,
    TRUST,
    UNAVAILABLE,
    Ladder,
)

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable


# Somebody is there, but takes no more connections: what a hub does while its fleet comes back.
_BUSY = ("refused", "reset", "closed", "timeout", "connack", "peer_internal")


class Guard:
    """Takes every outcome, and acts before the next attempt.

    `reprovision` is a coroutine function that returns an Assignment, or None without DPS.
    """

    def __init__(
        self,
        clock: object,
        keeper: object,
        random: object,
        *,
        reprovision: "Callable | None" = None,
        trust: bool = False,
    ) -> None:
        self.ladder = Ladder(random)
        self.keeper = keeper
        self.reprovision = reprovision
        self._trust = trust
        self._clock = clock
        self._started = clock.ticks_ms()
        self._elapsed_s = 0
        self._action = 0

    def _now_s(self) -> int:
        """Seconds since the start, growing across the wrap of the ticks."""
        clock = self._clock
        ticks = clock.ticks_ms()
        gone = clock.ticks_diff(ticks, self._started) // 1000
        self._started = clock.ticks_add(self._started, gone * 1000)
        self._elapsed_s += gone
        return self._elapsed_s

    def failed(self, error: Exception, uses_token: bool) -> bool:
        """Note a failed attempt; True when something else than waiting may help the next one."""
        kind = classify(error)
        if kind is None:
            return False
        if kind == TRUST and not self._trust and is_about_time(error):
            # With a trust manager its ladder asks for the repair (T5).
            self._action = REPAIR
            return True
        proven = not uses_token or self.keeper.proven
        action = self.ladder.failed(kind, self._now_s(), clock_proven=proven)
        if action:
            self._action = action
        return kind == REFUSED and action != RETRY  # a hub that is busy is not asked sooner

    async def before(self, link: object) -> None:
        """Carry out what the last failure asks for; network errors here are logged, not raised."""
        action = self._action
        self._action = 0
        trust = link.trust
        wanted = trust is not None and trust.time_repair_wanted
        if action or wanted:
            link.release()  # no other connection fits beside what is held
        # DPS takes the same kind of token: with a wrong clock it would refuse this device, too.
        unproven = action == REPROVISION and link.uses_token and not self.keeper.proven
        if action == REPAIR or wanted or unproven:
            log.info("repairing the time before anything else is blamed")
            await self.keeper.repair(link.identity.gateway, link.context())
        if action == REPROVISION and self.reprovision is not None:
            log.info("asking DPS for the assignment")
            proven = self.keeper.proven
            try:
                link.retarget(await self.reprovision())
            except AzureIoTError as error:
                log.warning("no new assignment: %s", error)
                moved = proven and not self.keeper.proven and isinstance(error, CredentialError)
                if moved or isinstance(error, (ConnectionFailedError, ConnectionDroppedError)):
                    # It never got there, or with a clock that was moved meanwhile: due again.
                    self._action = REPROVISION
            except MemoryError:
                self._action = REPROVISION
                raise


def is_about_time(error: Exception) -> bool:
    """Tell whether a verdict on dates may be the clock's fault."""
    return isinstance(error, ClockError) or getattr(error, "code", "") in ("EXPIRED", "FUTURE")


def classify(error: Exception) -> "int | None":
    """Give the ladder's kind of an error; None for one that says nothing about the hub."""
    if isinstance(error, CredentialError):
        return REFUSED
    if isinstance(error, (TrustError, ClockError)):
        return TRUST
    if isinstance(error, ServiceError):
        return THROTTLED if error.status == 429 else UNAVAILABLE
    if isinstance(error, ProtocolError):
        return NETWORK  # whoever answers at the hub's address, it is not the hub
    if isinstance(error, ConnectionFailedError):
        if error.reason in ("cancelled", "provider", "memory"):
            return None
        if error.reason in _BUSY or str(error).startswith("CONNACK 3"):
            return UNAVAILABLE
        return NETWORK
    return None
