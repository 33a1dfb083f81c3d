"""Registration with DPS: which hub is mine.

Responsible for: the connection to DPS, polling with its retry rules. Not for: the wire format
(dps.py), the assignment kept for the next start (assignment.py), when to register anew
(ladder.py). Names follow azure-iot-device.

    dps = ProvisioningDeviceClient.from_symmetric_key(
        "global.azure-devices-provisioning.net", "reg1", "0ne00A1B2C3", key, trust=trust)
    result = await dps.register()        # .hub, .device_id, .payload
"""

import asyncio

from micropython import const

from . import dps, log
from .backoff import first_window
from .clock import default
from .core import randbelow, random32
from .dps import Assignment, Registration
from .errors import (
    ConnectionFailedError,
    CredentialError,
    ServiceError,
)
from .identity import check_host
from .large import Collector
from .mqtt.client import MQTTClient
from .tls.context import TLSContext, default_profile
from .transport import open_tls

_ANSWER_MS = const(30000)
_CONNECT_S = const(60)
_MAX_ANSWER = const(65536)
_MOST_ANSWERS = const(60)
_LONGEST_MS = const(300000)
_POLL_MS = const(1000)
_TOKEN_LIFE_S = const(3600)


class ProvisioningDeviceClient:
    """Registers one device. `provisioning_payload` is sent along, JSON-able or None.

    Options, keyword only: trust= or roots=, clock=, port=8883 (443 with websocket=True),
    websocket=False, profile=, deadlines=, timeout_s=600, fleet_size_hint=1000.
    """

    def __init__(
        self,
        provisioning_host: str,
        registration_id: str,
        id_scope: str,
        credential: object,
        *,
        trust: "object | None" = None,
        roots: "list | None" = None,
        clock: "object | None" = None,
        port: int = 0,
        websocket: bool = False,
        profile: "object | None" = None,
        deadlines: "object | None" = None,
        timeout_s: int = 600,
        fleet_size_hint: int = 1000,
    ) -> None:
        if (trust is None) == (not roots):
            raise CredentialError("no trusted roots: give either trust= or roots=")
        self.host = check_host(provisioning_host)
        self.registration_id = dps.check_registration_id(registration_id)
        self.id_scope = dps.check_scope(id_scope)
        self.provisioning_payload = None
        self._credential = credential
        self._trust = trust
        self._roots = roots
        self._clock = clock or default()
        port = port or (443 if websocket else 8883)
        self._place = (port, websocket, profile or default_profile(), deadlines)
        self._timeout_s = timeout_s
        self._hint = fleet_size_hint
        self._answers = []
        self._came = asyncio.Event()
        self.on_connect_failed = None  # (error), for each attempt to connect

    @classmethod
    def from_symmetric_key(
        cls,
        provisioning_host: str,
        registration_id: str,
        id_scope: str,
        symmetric_key: str,
        **options: object,
    ) -> "ProvisioningDeviceClient":
        """Register with a device's own key; a group's key stays with the operator.

        User name `{scope}/registrations/{id}/api-version=2019-03-31`, password
        `SharedAccessSignature sr={scope}%2Fregistrations%2F{id}&sig=…&se=…&skn=registration`.
        Raises CredentialError for a key, host, scope or id that cannot be one.
        Source: azure-docs "Communicate with DPS using the MQTT protocol".
        """
        from .credentials import SymmetricKey

        return cls(
            provisioning_host, registration_id, id_scope, SymmetricKey(symmetric_key), **options
        )

    @classmethod
    def from_x509(
        cls,
        provisioning_host: str,
        registration_id: str,
        id_scope: str,
        x509: object,
        **options: object,
    ) -> "ProvisioningDeviceClient":
        """Register with an X509Certificate whose common name is the registration id.

        User name `{scope}/registrations/{id}/api-version=2019-03-31`, no password. Raises
        CredentialError for a host, scope or id that cannot be one.
        Source: azure-docs "Communicate with DPS using the MQTT protocol".
        """
        return cls(provisioning_host, registration_id, id_scope, x509, **options)

    async def register(self) -> Assignment:
        """Register and wait for the assignment.

        Topic `$dps/registrations/PUT/iotdps-register/?$rid=1`, body
        `{"registrationId":"…","payload":…}`; then, as often as the service asks for,
        `$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId=…`. Answers at
        `$dps/registrations/res/{status}/?$rid=1&retry-after=3`, the last one with body
        `{"status":"assigned","registrationState":{"assignedHub":"…","deviceId":"…"}}`.
        Source: azure-docs "Communicate with DPS using the MQTT protocol".

        Raises CredentialError (the enrollment refuses this device), ServiceError,
        ConnectionFailedError (no answer within `timeout_s`), ProtocolError, TrustError.
        """
        step = Registration(self.id_scope, self.registration_id, self.provisioning_payload)
        try:
            await asyncio.wait_for(self._register(step), self._timeout_s)
        except asyncio.TimeoutError:
            log.debug("the time for DPS is over")
        if step.result is not None:
            return step.result
        if step.status:
            raise ServiceError(
                "DPS assigned no hub after %d requests, its last status is %d (202: still "
                "assigning, 429: too many ask)" % (step.rid, step.status),
                step.status,
                step.wait_s,
            )
        raise ConnectionFailedError("DPS gave no answer within %d s" % self._timeout_s, "dps")

    async def _register(self, step: Registration) -> None:
        spread_ms = first_window(self._hint)
        mqtt = MQTTClient(
            self._open,
            self.registration_id,
            credentials=lambda: self._login(step),
            clean_session=True,
            max_pending=4,
            max_packet=_MAX_ANSWER,
            fleet_size_hint=self._hint,
        )
        mqtt.on_message = self._on_message
        mqtt.on_large = lambda topic, size, qos, pid: Collector(
            size, lambda body: self._on_message(topic, body, qos, pid)
        )
        mqtt.on_connect_failed = self.on_connect_failed
        try:
            await mqtt.start()
            await mqtt.connected_once(_CONNECT_S)
            await mqtt.subscribe(dps.RESULT_FILTER, 1)
            for _ in range(_MOST_ANSWERS):
                await self._ask(mqtt, step)
                if step.result is not None:
                    log.info("DPS assigned %s", step.result.hub)
                    return
                wait_ms = step.wait_s * 1000
                if step.throttled:  # a fleet that came together must not stay so
                    wait_ms += randbelow(spread_ms)
                    spread_ms = max(spread_ms, min(spread_ms * 2, _LONGEST_MS))
                else:
                    spread_ms = _POLL_MS
                await asyncio.sleep_ms(wait_ms)
        except CredentialError as error:
            if str(error).startswith("CONNACK"):
                raise CredentialError(
                    "DPS refused registration %s in scope %s: key, certificate, registration id "
                    "or scope do not fit (a group's own key never works on a device: derive one "
                    'with "taproot dps-key")' % (self.registration_id, self.id_scope),
                    error,
                )
            raise
        finally:
            await mqtt.stop()

    async def _ask(self, mqtt: MQTTClient, step: Registration) -> None:
        """Make one request and take its answer; without one, the request is made again."""
        topic, body = step.request()
        await mqtt.publish(topic, body, 1)
        while True:
            if not self._answers:
                self._came.clear()
                try:
                    await asyncio.wait_for_ms(self._came.wait(), _ANSWER_MS)
                except asyncio.TimeoutError:
                    log.warning("no answer from DPS: asking again")
                    return
            if step.answer(*self._answers.pop(0)):
                return

    def _on_message(self, topic: str, payload: memoryview, qos: int, pid: int) -> None:
        self._answers.append((topic, bytes(payload)))
        self._came.set()

    async def _login(self, step: Registration) -> tuple:
        if not hasattr(self._credential, "token"):
            return step.user_name, None
        expiry = self._clock.unix_time() + _TOKEN_LIFE_S
        return step.user_name, await self._credential.token(step.resource, expiry, dps.POLICY)

    async def _open(self) -> object:
        port, websocket, profile, deadlines = self._place
        trust = self._trust
        attempt = None
        roots = self._roots
        if trust is not None:
            attempt = trust.attempt("dps", self.host)
            roots = attempt.roots
        x509 = None
        try:
            if not hasattr(self._credential, "token"):
                x509 = self._credential
                x509.check(self._clock.unix_time(), self.registration_id)
            context = TLSContext(roots, profile=profile, credential=x509)
            context.mode = "dps"
            context.clock_trusted = self._clock.synchronised
            transport = await open_tls(self.host, port, context, deadlines=deadlines)
        except Exception as error:
            if attempt is not None:
                trust.failed(attempt, error)
            raise
        if attempt is not None:
            trust.succeeded(attempt, resumed=False, via=context.via, not_before=context.not_before)
        if websocket:
            from .websocket import upgrade

            try:
                return await upgrade(transport, self.host, random32, client_cert=x509 is not None)
            except BaseException:
                await transport.close()
                raise
        return transport
