"""The Device Provisioning Service over MQTT: who may connect, register, poll, and what returns.

Responsible for: the DPS user name, the two request topics, operations with polling and
retry-after, error replies, payloads both ways, certificate issuance (preview). Pure: requests
in, replies out, no socket and no clock of its own. Not for: enrolments and allocation
(`enrollments.py`), credentials (`credentials.py`), MQTT packets, TLS.
Wire format: learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-dps.

    service = Provisioning("0ne00000001", own_hub=lambda: "localhost")
    service.registry.add(Enrollment("dev1", primary_key=key))
    code, session, reason = service.connect(client_id, username, password, chain)
    for reply in session.publish(topic, payload): ...
"""

from __future__ import annotations

import json
import random
import re
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from taproot.emulator import credentials
from taproot.emulator.credentials import Refused
from taproot.emulator.enrollments import Enrollment, Registration, Registry, stamp
from taproot.emulator.issuance import BadRequest, Issuer

RESPONSES = "$dps/registrations/res/#"
_REGISTER = "$dps/registrations/PUT/iotdps-register/"
_STATUS = "$dps/registrations/GET/iotdps-get-operationstatus/"
_USERNAME = re.compile(r"([^/]+)/registrations/([^/]+)/(.*)", re.DOTALL)
# REST reference: at most 128 characters, alphanumeric and - . _ :, none of them first or last.
_REGISTRATION_ID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9\-._:]{0,126}[A-Za-z0-9])?")

STABLE_VERSIONS = ("2018-11-01", "2019-03-31", "2021-06-01", "2021-10-01")
PREVIEW_VERSIONS = ("2025-07-01-preview", "2026-11-02-preview")
MAX_PAYLOAD = 64 * 1024
MAX_OPERATIONS = 20_000

ACCEPTED, UNACCEPTABLE_ID, NOT_AUTHORIZED = 0, 2, 5

_MESSAGES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    409: "Conflict",
    412: "Precondition failed",
    429: "Operations are being throttled for this tenant.",
    500: "Internal error",
    502: "Bad gateway",
    503: "Service unavailable",
    504: "Gateway timeout",
}


@dataclass
class Failure:
    """An error reply on demand. `on` is "register", "query" or "any"; class = code / 1000."""

    status: int
    code: int | None = None
    message: str | None = None
    retry_after: int | None = None
    on: str = "any"
    count: int = 1

    def __post_init__(self) -> None:
        if not 300 <= self.status <= 599:
            raise ValueError("status is 300 to 599")
        if self.on not in ("register", "query", "any"):
            raise ValueError("on is register, query or any")


@dataclass(frozen=True)
class Reply:
    """One PUBLISH to the device."""

    topic: str
    payload: bytes


class Violation(Exception):
    """The device did something the service answers by closing the connection."""


@dataclass
class _Operation:
    registration_id: str
    polls_left: int
    record: Registration
    enrollment: Enrollment


@dataclass
class Provisioning:
    """One DPS instance. `assigned` is called with every successful assignment."""

    scope: str
    own_hub: Callable[[], str] = lambda: "localhost"
    now: Callable[[], float] = time.time
    preview: bool = False
    # Where a wrong key shows: "reply" = CONNACK 0, then 401 to the register request (seen in
    # the field); "connack" = CONNACK 5. A malformed, foreign or expired token is CONNACK 5.
    bad_key: str = "reply"
    issuer: Issuer | None = None
    random: random.Random = field(default_factory=random.Random)
    assigned: Callable[[Registration, Enrollment, dict[str, Any]], None] | None = None
    log: Callable[..., None] = lambda *args, **facts: None
    failures: deque[Failure] = field(default_factory=deque)

    def __post_init__(self) -> None:
        if self.bad_key not in ("reply", "connack"):
            raise ValueError('bad_key must be "reply" or "connack"')
        self.registry = Registry(lambda: self.own_hub())
        self.operations: OrderedDict[str, _Operation] = OrderedDict()

    @staticmethod
    def handles(username: str) -> bool:
        """Say whether a CONNECT with this user name is meant for DPS."""
        return "/registrations/" in username

    def connect(
        self, client_id: str, username: str, password: str | None, ders: Sequence[bytes]
    ) -> tuple[int, Session | None, str]:
        """Judge a CONNECT: the CONNACK code, the session, and the reason of a refusal."""
        found = _USERNAME.fullmatch(username)
        if found is None or not found[3].startswith("api-version="):
            return NOT_AUTHORIZED, None, "malformed user name"
        scope, registration_id, query = found.groups()
        version = query.split("&")[0].partition("=")[2]
        if scope != self.scope:
            return NOT_AUTHORIZED, None, f"unknown id scope '{scope}'"
        if version not in STABLE_VERSIONS + PREVIEW_VERSIONS:
            return NOT_AUTHORIZED, None, f"unknown api-version '{version}'"
        if not _REGISTRATION_ID.fullmatch(registration_id):
            return UNACCEPTABLE_ID, None, "the registration id breaks the naming rules"
        if client_id != registration_id:
            return UNACCEPTABLE_ID, None, "the client id is not the registration id"
        token = password or ""
        expiry: int | None = None
        if token:
            try:
                expiry = self._check_form(token, registration_id)
            except Refused as refused:
                return NOT_AUTHORIZED, None, str(refused)
        elif not ders:
            return NOT_AUTHORIZED, None, "neither a token nor a client certificate"
        if self.bad_key == "connack":
            try:
                self.registry.attest(registration_id, scope, token, ders, self.now())
            except Refused as refused:
                return NOT_AUTHORIZED, None, str(refused)
        session = Session(self, registration_id, version, token, list(ders), expiry)
        return ACCEPTED, session, ""

    def _check_form(self, text: str, registration_id: str) -> int:
        """Check what can be checked without a key; return the expiry."""
        token = credentials.parse_token(text)
        # The documentation demands skn=registration; azure-iot-device 2.14.0 sends no skn at all.
        if token.policy not in (None, "registration"):
            raise Refused("the token's skn is not 'registration'")
        if not token.covers(f"{self.scope}/registrations/{registration_id}"):
            raise Refused("token is for another resource")
        if token.expiry <= self.now():
            raise Refused("token has expired")
        return token.expiry

    def take_failure(self, enrollment: Enrollment | None, on: str) -> Failure | None:
        """Return the next error on demand for this request, if one is due."""
        queues = [self.failures] if enrollment is None else [enrollment.errors, self.failures]
        for queue in queues:
            for failure in queue:
                if failure.on in (on, "any"):
                    failure.count -= 1
                    if failure.count <= 0:
                        queue.remove(failure)
                    return failure
        return None

    def remember(self, operation: _Operation) -> str:
        """Keep an operation and return its id; the oldest are forgotten first."""
        number = uuid.UUID(int=self.random.getrandbits(128), version=4)
        name = f"5.{self.random.getrandbits(64):016x}.{number}"
        self.operations[name] = operation
        while len(self.operations) > MAX_OPERATIONS:
            self.operations.popitem(last=False)
        return name

    def error_body(
        self, status: int, code: int | None = None, message: str | None = None
    ) -> bytes:
        """Make the JSON of an error reply."""
        return _json(
            {
                "errorCode": code if code is not None else status * 1000,
                "trackingId": str(uuid.UUID(int=self.random.getrandbits(128), version=4)),
                "message": message or _MESSAGES.get(status, "Error"),
                "timestampUtc": stamp(self.now()),
            }
        )


class Session:
    """One MQTT connection of one device; never persistent."""

    def __init__(
        self,
        service: Provisioning,
        registration_id: str,
        version: str,
        token: str,
        ders: list[bytes],
        expiry: int | None,
    ) -> None:
        self.service = service
        self.registration_id = registration_id
        self.version = version
        self.expiry = expiry  # when the token ends, and with it the connection
        self.subscribed = False
        self._token = token
        self._ders = ders

    @property
    def preview(self) -> bool:
        """True when preview members are spoken on this connection."""
        return self.service.preview and self.version in PREVIEW_VERSIONS

    def subscribe(self, topic_filter: str) -> bool:
        """Accept the one documented filter; False means SUBACK 0x80."""
        if topic_filter != RESPONSES:
            return False
        self.subscribed = True
        return True

    def unsubscribe(self, topic_filter: str) -> None:
        """Stop delivering replies."""
        if topic_filter == RESPONSES:
            self.subscribed = False

    def publish(self, topic: str, payload: bytes) -> list[Reply]:
        """Answer one request; raise Violation for a topic DPS does not have."""
        path, _, query = topic.partition("?")
        fields = dict(part.partition("=")[::2] for part in query.split("&"))
        if path not in (_REGISTER, _STATUS) or not fields.get("$rid"):
            raise Violation(f"no DPS request topic: {topic[:80]!r}")
        if len(payload) > MAX_PAYLOAD:
            raise Violation("payload above the limit")
        rid = fields["$rid"]
        if path == _REGISTER:
            reply = self._register(rid, payload)
        else:
            reply = self._status(rid, fields.get("operationId", ""))
        if not self.subscribed:
            self.service.log("dps_unheard", identity=self.registration_id, topic=reply.topic)
            return []
        return [reply]

    def _attest(self) -> Enrollment:
        service = self.service
        return service.registry.attest(
            self.registration_id, service.scope, self._token, self._ders, service.now()
        )

    def _register(self, rid: str, payload: bytes) -> Reply:
        service = self.service
        try:
            enrollment = self._attest()
        except Refused as refused:
            service.log("dps_refused", identity=self.registration_id, reason=str(refused))
            return self._fail(rid, 401, 401002)
        failure = service.take_failure(enrollment, "register")
        if failure is not None:
            return self._failure(rid, failure)
        body = _object(payload)
        if body is None:
            return self._fail(rid, 400, 400004, "The request body is not a JSON object")
        if body.get("registrationId") != self.registration_id:
            return self._fail(rid, 400, 400005, "registrationId is not that of the connection")
        service.log(
            "dps_register",
            identity=self.registration_id,
            payload=body.get("payload"),
            csr="csr" in body,
        )
        record = service.registry.assign(
            enrollment, self.registration_id, body.get("payload"), service.now()
        )
        if record.status == "assigned" and body.get("csr") is not None and self.preview:
            error = self._issue(enrollment, record, body["csr"])
            if error is not None:
                return self._fail(rid, 400, 400040, str(error))
        if record.status == "assigned" and service.assigned is not None:
            service.assigned(record, enrollment, self._credential(enrollment, record))
        operation = _Operation(self.registration_id, enrollment.polls, record, enrollment)
        return self._assigning(rid, service.remember(operation), enrollment)

    def _issue(
        self, enrollment: Enrollment, record: Registration, csr: object
    ) -> BadRequest | None:
        issuer = self.service.issuer
        if issuer is None or not enrollment.issue_certificates:
            return None  # issuedCertificateChain stays null
        try:
            record.issued = issuer.issue(csr, self.registration_id, self.service.now())
        except BadRequest as error:
            return error
        return None

    def _credential(self, enrollment: Enrollment, record: Registration) -> dict[str, Any]:
        """Return how the hub is to authenticate the assigned device."""
        if record.issued is not None:
            return {"auth": "x509_ca"}
        if enrollment.symmetric:
            keys = enrollment.keys_for(self.registration_id)
            return {"auth": "sas", "keys": keys}
        return {
            "auth": "x509_thumbprint",
            "thumbprints": [credentials.thumbprints(self._ders[0])[1]],
        }

    def _status(self, rid: str, operation_id: str) -> Reply:
        service = self.service
        operation = service.operations.get(operation_id)
        enrollment = operation.enrollment if operation else None
        failure = service.take_failure(enrollment, "query")
        if failure is not None:
            return self._failure(rid, failure)
        if operation is None or operation.registration_id != self.registration_id:
            return self._fail(rid, 404, 404203, "Operation not found.")
        if operation.polls_left > 0:
            operation.polls_left -= 1
            return self._assigning(rid, operation_id, operation.enrollment)
        record = operation.record
        service.log(
            "dps_result",
            identity=self.registration_id,
            status=record.status,
            hub=record.hub if record.status == "assigned" else None,
        )
        body = {
            "operationId": operation_id,
            "status": record.status,
            "registrationState": record.state(self.preview),
        }
        return Reply(f"$dps/registrations/res/200/?$rid={rid}", _json(body))

    def _assigning(self, rid: str, operation_id: str, enrollment: Enrollment) -> Reply:
        tail = "" if enrollment.retry_after is None else f"&retry-after={enrollment.retry_after}"
        body = {"operationId": operation_id, "status": "assigning"}
        return Reply(f"$dps/registrations/res/202/?$rid={rid}{tail}", _json(body))

    def _fail(
        self, rid: str, status: int, code: int | None = None, message: str | None = None
    ) -> Reply:
        return self._failure(rid, Failure(status, code, message))

    def _failure(self, rid: str, failure: Failure) -> Reply:
        tail = "" if failure.retry_after is None else f"&retry-after={failure.retry_after}"
        body = self.service.error_body(failure.status, failure.code, failure.message)
        self.service.log("dps_error", identity=self.registration_id, status=failure.status)
        return Reply(f"$dps/registrations/res/{failure.status}/?$rid={rid}{tail}", body)


def _object(payload: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _json(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()
