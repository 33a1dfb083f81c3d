"""DPS enrolments, registrations and the decision where a device goes.

Responsible for: the enrolment list (individual and group, symmetric key and X.509), judging an
attestation, allocation, re-assignment and the registration record a device reads. Not for:
topics and polling (`dps.py`), certificate signing (`issuance.py`).
"""

from __future__ import annotations

import base64
import datetime as dt
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509

from taproot.emulator import credentials
from taproot.emulator.credentials import Refused

ABSENT = "<absent>"
OUTCOMES = ("assigned", "failed", "unassigned", "disabled")
REPROVISION = ("migrate", "reset", "never")

# What a custom allocation gets and gives: (registration id, payload, last hub) ->
# {"iotHubHostName": …, "payload": …, "initialTwin": …}; None means unassigned.
Allocation = Callable[[str, Any, "str | None"], "dict[str, Any] | None"]


@dataclass
class Enrollment:
    """One enrolment. `id` is the registration id, or the name of a group."""

    id: str
    group: bool = False
    primary_key: str | None = field(default=None, repr=False)
    secondary_key: str | None = field(default=None, repr=False)
    thumbprints: tuple[str, ...] = ()  # individual X.509: SHA-1 or SHA-256
    # X.509 by chain: root or verified intermediate; PEM text is taken too.
    roots: Sequence[x509.Certificate | str] = ()
    enabled: bool = True
    device_id: str | None = None  # individual only; default: the registration id
    hubs: tuple[str, ...] = ()  # host names to allocate from; empty: the emulator's own
    allocate: Allocation | None = None
    reprovision: str = "migrate"
    payload: Any = None  # what the device receives as registrationState.payload
    initial_twin: dict[str, Any] | None = None
    connection_profile: Any = ABSENT
    issue_certificates: bool = False
    # What this enrolment answers, for tests and drills:
    outcome: str = "assigned"
    polls: int = 1  # 202 answers to status queries before the result
    retry_after: int | None = 0  # seconds in the topic; None: no retry-after
    errors: list[Any] = field(default_factory=list)  # Failure objects, used up one per request

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}")
        if self.reprovision not in REPROVISION:
            raise ValueError(f"reprovision must be one of {', '.join(REPROVISION)}")
        if not (self.primary_key or self.thumbprints or self.roots):
            raise ValueError(f"enrolment '{self.id}' has no attestation")
        if self.retry_after is not None and self.retry_after < 0 or self.polls < 0:
            raise ValueError("polls and retry_after are not negative")
        for name in ("primary_key", "secondary_key"):
            if getattr(self, name) is not None:
                _named(name, credentials.check_key, getattr(self, name))
        self.thumbprints = tuple(
            _named("thumbprints", credentials.normal_thumbprint, text) for text in self.thumbprints
        )
        self.authorities = tuple(cert for root in self.roots for cert in _certificates(root))

    @property
    def symmetric(self) -> bool:
        """True for symmetric-key attestation."""
        return self.primary_key is not None

    def keys_for(self, registration_id: str) -> list[str]:
        """Return the keys that may sign for this registration."""
        keys = [key for key in (self.primary_key, self.secondary_key) if key]
        if self.group:
            return [credentials.derive_key(key, registration_id) for key in keys]
        return keys


@dataclass
class Registration:
    """What DPS remembers about one registration id."""

    id: str
    enrollment: str
    device_id: str | None = None
    hub: str | None = None
    first_hub: str | None = None
    status: str = "unassigned"
    substatus: str | None = None
    created: float = 0.0
    updated: float = 0.0
    etag: str = ""
    error: tuple[int, str] | None = None
    payload: Any = None
    issued: list[bytes] | None = None
    connection_profile: Any = ABSENT
    count: int = 0

    def state(self, preview: bool) -> dict[str, Any]:
        """Return the registrationState object of the reply."""
        body: dict[str, Any] = {
            "registrationId": self.id,
            "createdDateTimeUtc": stamp(self.created),
            "status": self.status,
            "lastUpdatedDateTimeUtc": stamp(self.updated),
            "etag": self.etag,
        }
        if self.status == "assigned":
            body.update(assignedHub=self.hub, deviceId=self.device_id, substatus=self.substatus)
            if self.payload is not None:
                body["payload"] = self.payload
        if self.error is not None:
            body.update(errorCode=self.error[0], errorMessage=self.error[1])
        if preview and self.status == "assigned":
            body["issuedCertificateChain"] = (
                [base64.b64encode(der).decode() for der in self.issued] if self.issued else None
            )
        if self.connection_profile != ABSENT:
            body["connectionProfile"] = self.connection_profile
        return body


def _named(name: str, check: Callable[[str], Any], text: str) -> Any:
    """Check one member; the error names it."""
    try:
        return check(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _certificates(root: x509.Certificate | str) -> list[x509.Certificate]:
    if not isinstance(root, str):
        return [root]
    try:
        return x509.load_pem_x509_certificates(root.encode())
    except ValueError:
        raise ValueError("roots are certificates in PEM") from None


def stamp(moment: float) -> str:
    """Format a time as the service does: 2022-08-31T22:02:50.5163352Z."""
    when = dt.datetime.fromtimestamp(moment, dt.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond:06d}0Z"


def choose(hubs: Sequence[str], registration_id: str) -> str:
    """Pick a hub, always the same one for one id while the list stays (hashed allocation)."""
    digest = uuid.uuid5(uuid.NAMESPACE_OID, registration_id).int
    return hubs[digest % len(hubs)]


class Registry:
    """All enrolments and registrations of one DPS instance."""

    def __init__(self, own_hub: Callable[[], str]) -> None:
        self.own_hub = own_hub
        self.individual: dict[str, Enrollment] = {}
        self.groups: dict[str, Enrollment] = {}
        self.registrations: dict[str, Registration] = {}

    def add(self, enrollment: Enrollment) -> Enrollment:
        """Add or replace an enrolment."""
        table = self.groups if enrollment.group else self.individual
        table[enrollment.id] = enrollment
        return enrollment

    def remove(self, name: str) -> None:
        """Remove an enrolment; raise KeyError when there is none of that name."""
        if self.individual.pop(name, None) is None:
            del self.groups[name]

    def find(self, name: str) -> Enrollment | None:
        """Return the enrolment of that registration id or group name."""
        return self.individual.get(name) or self.groups.get(name)

    def attest(
        self, registration_id: str, scope: str, token: str, ders: Sequence[bytes], now: float
    ) -> Enrollment:
        """Return the enrolment this device proves to belong to; raise Refused otherwise.

        An individual enrolment wins over every group, also when it refuses.
        """
        own = self.individual.get(registration_id)
        candidates = [own] if own else list(self.groups.values())
        reason = "no enrolment for this registration"
        for enrollment in candidates:
            try:
                self._attest_one(enrollment, registration_id, scope, token, ders, now)
            except Refused as refused:
                reason = str(refused)
                continue
            return enrollment
        raise Refused(reason)

    def _attest_one(
        self,
        enrollment: Enrollment,
        registration_id: str,
        scope: str,
        token: str,
        ders: Sequence[bytes],
        now: float,
    ) -> None:
        if enrollment.symmetric:
            if not token:
                raise Refused("no token for a symmetric-key enrolment")
            resource = f"{scope}/registrations/{registration_id}"
            keys = enrollment.keys_for(registration_id)
            credentials.check_token(token, resource, keys, now)
            return
        if not ders:
            raise Refused("no client certificate for an X.509 enrolment")
        if credentials.common_name(ders[0]) != registration_id:
            raise Refused("the certificate's common name is not the registration id")
        if enrollment.thumbprints:
            credentials.check_dates(ders[0], now)
            if not set(credentials.thumbprints(ders[0])) & set(enrollment.thumbprints):
                raise Refused("the certificate is not the enrolled one")
            return
        credentials.check_chain(ders, enrollment.authorities, now)

    def assign(
        self, enrollment: Enrollment, registration_id: str, payload: Any, now: float
    ) -> Registration:
        """Decide the outcome of a registration and remember it."""
        known = self.registrations.get(registration_id)
        record = known or Registration(registration_id, enrollment.id, created=now)
        record.enrollment = enrollment.id
        record.updated = now
        record.count += 1
        record.etag = base64.b64encode(uuid.uuid4().bytes[:9]).decode()
        record.error = None
        record.issued = None
        record.connection_profile = enrollment.connection_profile
        outcome = enrollment.outcome if enrollment.enabled else "disabled"
        if outcome == "assigned":
            outcome = self._allocate(enrollment, record, payload)
        record.status = outcome
        if outcome == "failed" and record.error is None:
            record.error = (400207, "Custom allocation failed.")
        self.registrations[registration_id] = record
        return record

    def _allocate(self, enrollment: Enrollment, record: Registration, payload: Any) -> str:
        before = record.hub
        own = self.own_hub()
        answer = enrollment.payload
        if before is not None and enrollment.reprovision == "never":
            target: str | None = before
        elif enrollment.allocate is not None:
            try:
                given = enrollment.allocate(record.id, payload, before)
            except Exception as error:
                record.error = (400207, f"Custom allocation failed: {type(error).__name__}")
                return "failed"
            target = (given or {}).get("iotHubHostName")
            answer = (given or {}).get("payload", answer)
        else:
            hubs = enrollment.hubs or (own,)
            target = before if before in hubs else choose(hubs, record.id)
        if not target:
            return "unassigned"
        if before is None:
            record.substatus = "initialAssignment"
            record.first_hub = target
        elif before != target and target == record.first_hub:
            record.substatus = "reprovisionedToInitialAssignment"
        elif before != target:
            record.substatus = (
                "deviceDataReset" if enrollment.reprovision == "reset" else "deviceDataMigrated"
            )
        record.hub = target
        record.device_id = enrollment.device_id or record.id
        record.payload = answer
        return "assigned"
