"""How a connection to the hub comes about, and what its outcome means for trust and credentials.

Responsible for: roots for each attempt, the TLS context, TCP or WebSocket, user name and token for
each CONNECT, when the token is renewed. Not for: MQTT (mqtt/), the public interface (client.py).

    link = HubLink(identity, credential, trust=TrustManager(…))
    MQTTClient(link.open, identity.client_id, credentials=link.login, …)
"""

import asyncio
import gc
from hashlib import sha256

from micropython import const

from . import hub, log
from .errors import (
    ClockError,
    ConnectionFailedError,
    CredentialError,
    TrustError,
    lacks_memory,
)
from .tls.context import TLSContext, default_profile
from .tls.sessions import Sessions
from .transient import Transient, forget
from .transport import open_tls

try:
    import tlsopt
except ImportError:  # stock firmware
    tlsopt = None

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from .identity import Identity

_PLAUSIBLE = const(1735689600)  # 2025-01-01: no build of this firmware is older
_CLOCK_SLACK_MS = const(300000)
_RECORD_OVERHEAD = const(352)
_LONGEST_NAP_MS = const(60000)  # a clock set anew is seen within a minute
_TICKS_SERVE_MS = const(400000000)  # ticks wrap; longer lives are counted in Unix time
_HOLD_MS = const(50)


class HubLink:
    """Opens connections for one identity; keeps what the last one settled on in `facts`.

    Exactly one of `trust` (a TrustManager) and `roots` (a list of DER) says whom to trust.
    """

    def __init__(
        self,
        identity: "Identity",
        credential: object,
        *,
        clock: object,
        random32: "object",
        trust: "object | None" = None,
        roots: "list | None" = None,
        profile: "object | None" = None,
        port: int = 0,
        websocket: bool = False,
        deadlines: "object | None" = None,
        product_info: str = "",
        model_id: str = "",
        sas_life_s: int = 3600,
        sessions: "object | None" = None,
        guard: "object | None" = None,
    ) -> None:
        if (trust is None) == (not roots):
            raise CredentialError(
                "no trusted roots: give either trust=TrustManager(…) or roots=[DER bytes, …]"
            )
        if roots:
            with Transient():
                _require_roots(roots)
        self.identity = identity
        self.credential = credential
        self.clock = clock
        self.trust = trust
        self.roots = roots
        # One profile for all attempts: it remembers what the host agreed to and what anchored it.
        self.profile = profile or default_profile()
        self.sessions = sessions or Sessions(clock)
        self.sessions.still_trusted = self._still_trusted
        self.port = port or (443 if websocket else 8883)
        self.websocket = websocket
        self.deadlines = deadlines
        self.product_info = product_info
        self.model_id = model_id
        self.sas_life_s = sas_life_s
        self._make_guard = guard
        self._guard = None  # there is one from the first failure to the next success
        self._reserve = None
        self._context = None  # of the last connection, for the next one to the same place
        self.attempt = None
        self.facts = {}
        self.issued = 0
        self.renew_ms = 0  # after the token was made; 0: nothing to renew
        self.token_made = asyncio.Event()
        self._kept = ""  # the token in use, never shown
        self._issued_ticks = 0
        self.held = 0  # while not 0 no connection is opened
        self.short = 0  # attempts since CONNACK 0 that failed for lack of memory
        self.renamed = False  # DPS gave another name, which is kept for the next start
        self._random32 = random32
        self.hold()

    @property
    def uses_token(self) -> bool:
        """True when the credential is a token, False for a certificate."""
        return hasattr(self.credential, "token")

    async def open(self) -> object:
        """Open one verified connection; report a failure to the trust manager and raise it."""
        while self.held:
            await asyncio.sleep_ms(_HOLD_MS)
        guard = self._guard
        if guard is None and self.trust is not None and self.trust.time_repair_wanted:
            guard = self._use_guard()  # a connection to somebody else made the clock suspect
        if guard is not None and (self.attempt is not None or self.roots):
            await guard.before(self)
        self._check_clock()
        host = self.identity.gateway
        self.attempt = None
        # Choosing roots may read whole bundles: it gets the room that is held, nothing waits yet.
        self._reserve = None
        gc.collect()
        try:
            if self.trust is not None:
                self.attempt = self.trust.attempt("hub", host)
            if not self.uses_token:
                self.credential.check(self.clock.unix_time(), self.identity.device_id)
            context = self.context(login=True)
            transport = await self._connect(host, context)
        except Exception as error:
            self.hold()
            self.failed(error)
            raise
        except BaseException:
            self.hold()
            # Cancelled: says nothing about the server, so a spent try is given back.
            self.failed(ConnectionFailedError("cancelled", "cancelled"))
            raise
        try:
            self._remember(context, transport)
        except BaseException:
            # The root that anchors it was distrusted while the handshake ran.
            await transport.close()
            raise
        return transport

    def hold(self) -> None:
        """Keep room for the record buffers of the next connection, where TLS shares our heap.

        A device that queues messages while it is offline scatters them over the heap; without
        this piece in one place, the 17 KB of a record buffer would no longer fit anywhere.
        """
        build = self.profile.build
        if self.held:
            self.release()  # what the connection was closed for needs this room
        elif self._reserve is None and build.module and hasattr(tlsopt, "mem"):
            # Two pieces, no larger than the buffers that a connection just gave back.
            try:
                self._reserve = (
                    bytearray(build.in_len + _RECORD_OVERHEAD),
                    bytearray(build.out_len + _RECORD_OVERHEAD),
                )
            except MemoryError:
                log.warning("no room to hold for the next connection")

    def release(self) -> None:
        """Let go of what is held."""
        self._reserve = self._context = None
        gc.collect()

    def context(self, login: bool = False) -> TLSContext:
        """Make a context with the roots of this attempt; only `login` shows who the device is."""
        attempt = self.attempt
        # A resumed handshake verifies nothing, so it could not confirm a trial.
        fresh = attempt is None or not attempt.is_trial
        bundle = getattr(attempt, "version", None) or 0
        context = None
        if login:
            if fresh:
                context = self._context
            self._context = None  # until it has connected again
        if context is not None and context.bundle == bundle:
            if attempt is not None:
                context.roots = attempt.roots
        else:
            who = self.identity.client_id
            key_id = getattr(self.credential, "key_id", None)
            if key_id is not None:
                who += key_id()
            context = TLSContext(
                self.roots if attempt is None else attempt.roots,
                profile=self.profile,
                credential=self.credential if login and not self.uses_token else None,
                sessions=self.sessions if login and fresh else None,
                bundle=bundle,
                credential_id=who,
            )
        context.clock_trusted = self.clock.synchronised
        return context

    def retarget(self, assignment: object) -> None:
        """Follow DPS to another hub; the device keeps its name. Raises CredentialError."""
        if assignment.device_id != self.identity.device_id:
            self.renamed = assignment.kept
            raise CredentialError(
                "DPS now calls this device %s: start it anew" % assignment.device_id
            )
        if assignment.hub != self.identity.host:
            log.info("assigned to %s", assignment.hub)
            self.identity.move(assignment.hub)
            self._kept = ""

    async def _connect(self, host: str, context: TLSContext) -> object:
        gc.collect()
        transport = await open_tls(host, self.port, context, deadlines=self.deadlines)
        if not self.websocket:
            return transport
        from .websocket import upgrade

        try:
            return await upgrade(transport, host, self._random32, client_cert=not self.uses_token)
        except BaseException:
            await transport.close()
            raise

    def _remember(self, context: TLSContext, transport: object) -> None:
        if context.sessions is not None:
            self._context = context
        facts = self.facts = context.info(transport.tls)
        facts["via"] = context.via
        resumed = bool(facts.get("resumed"))
        if self.attempt is not None:
            self.trust.succeeded(
                self.attempt, resumed=resumed, via=context.via, not_before=context.not_before
            )

    def _still_trusted(self, root: bytes) -> bool:
        """Tell whether the root that anchored a saved session may still do so."""
        if self.attempt is not None:
            return root in self.attempt.roots.digests()
        return root in [sha256(der).digest() for der in self.roots or ()]

    def _check_clock(self) -> None:
        if self.clock.unix_time() >= _PLAUSIBLE:
            return
        if self.trust is None:
            raise ClockError(
                "the clock stands before 2025: set the time first (is NTP, UDP port 123, blocked?)"
            )
        self.clock.start(self.trust.time_floor())  # from there the hub's answers put it right

    def accepted(self) -> bool:
        """Note CONNACK 0; True when it confirmed a bundle on trial."""
        self.short = 0
        if self._guard is not None:
            self._guard = None
            forget("azure_iot.guard", "azure_iot.ladder")
        return self.attempt is not None and self.trust.mqtt_accepted(self.attempt)

    def failed(self, error: Exception) -> None:
        """Note that the attempt ended before CONNACK 0."""
        if self.attempt is not None:
            self.trust.failed(self.attempt, error)

    def refused(self, error: Exception) -> bool:
        """Note the outcome of a whole attempt, TLS and CONNECT; True: do not wait long for the next."""
        self.failed(error)
        if lacks_memory(error):
            self.short += 1
            return False  # says nothing about the hub
        if isinstance(error, CredentialError):
            self._kept = ""
        guard = self._use_guard()
        return guard is not None and guard.failed(error, self.uses_token)

    def _use_guard(self) -> "object | None":
        if self._guard is None and self._make_guard is not None:
            self._guard = self._make_guard()
        return self._guard

    # Credentials

    async def login(self) -> tuple:
        """Give (user name, password) for one CONNECT; the password is None for a certificate."""
        identity = self.identity
        name = hub.user_name(
            identity.host,
            identity.client_id,
            product_info=self.product_info,
            model_id=self.model_id,
        )
        if not self.uses_token:
            return name, None
        if self._kept and self.renew_ms and self.renewal_nap_ms():
            # A dropped connection does not shift the renewal: a fleet stays spread.
            return name, self._kept
        now = self.clock.unix_time()
        life = self.sas_life_s
        if not self.issued:
            with Transient():
                from .sas import first_life

                life = first_life(life, self._random32())
        token = self._kept = await self._token(now + life)
        self.issued = now
        self._issued_ticks = self.clock.ticks_ms()
        with Transient():
            from .sas import renewal_delay, token_expiry

            life = max(token_expiry(token) - now, 0)
            # The clock counts whole seconds, so the token may be up to one second older.
            delay = renewal_delay(max(life * 1000 - 1000, 100), self._random32())
        if getattr(self.credential, "expiry", 0):
            # A fixed token cannot be renewed: it serves until its end.
            self.renew_ms = 0
            if not life:
                raise CredentialError("the fixed token has expired: install a new one")
        else:
            self.renew_ms = delay
            self.token_made.set()
        return name, token

    async def _token(self, expiry: int) -> str:
        limit = getattr(self.credential, "deadline_s", 0)
        work = self.credential.token(self.identity.resource, expiry)
        if not limit:
            return await work
        try:
            return await asyncio.wait_for(work, limit)
        except asyncio.TimeoutError:
            raise ConnectionFailedError(
                "the SAS provider gave no token within %d s" % limit, "provider"
            )
        except (OSError, ValueError, EOFError) as error:
            raise ConnectionFailedError("the SAS provider failed", "provider", error)

    def renewal_nap_ms(self) -> int:
        """Milliseconds until the token should be looked at again; 0: renew it now.

        A clock that was set anew shows as a difference between Unix time and ticks: the token
        then carries a wrong expiry and is made again at once.
        """
        clock = self.clock
        passed_ms = (clock.unix_time() - self.issued) * 1000
        if self.renew_ms < _TICKS_SERVE_MS:
            ticks_ms = clock.ticks_diff(clock.ticks_ms(), self._issued_ticks)
            if abs(passed_ms - ticks_ms) > _CLOCK_SLACK_MS:
                log.info("the clock was set anew: renewing the token")
                return 0
            passed_ms = ticks_ms
        return max(0, min(self.renew_ms - passed_ms, _LONGEST_NAP_MS))


def _require_roots(roots: list) -> None:
    """Refuse what only works until the hub's issuing CA or leaf is renewed."""
    from .tls.presented import common_name
    from .trust.der import read

    for der in roots:
        try:
            facts = read(der)
        except TrustError as error:
            raise CredentialError(
                "roots: not a certificate in DER form: %s; convert it: "
                "openssl x509 -in root.pem -outform der -out root.der" % error
            )
        if facts.issuer != facts.subject:
            raise CredentialError(
                "'%s' is no root: '%s' issued it and may replace it any day; give the root"
                % (common_name(facts.subject), common_name(facts.issuer))
            )
