"""DPS on the wire: names, topics, the register and poll rule, and what each answer means.

Responsible for: registration as a state machine without I/O (API version 2019-03-31).
Not for: the connection (provisioning.py), keys (identity.py), when to register (ladder.py).
Source: Azure documentation "Communicate with DPS using the MQTT protocol".

    step = Registration("0ne0001", "reg1")
    topic, body = step.request(); step.answer(topic, payload); step.wait_s; step.result
"""

import json

from micropython import const

from .bag import quote
from .errors import CredentialError, ProtocolError, ServiceError
from .hub import query_value
from .identity import shown

API_VERSION = "2019-03-31"
RESULT_FILTER = "$dps/registrations/res/#"
POLICY = "registration"
_RESULT = "$dps/registrations/res/"
_RETRIABLE = const(429)
_DEFAULT_WAIT_S = const(3)
_MIN_WAIT_S = const(1)  # the service may say 0, and registering is billed
_MAX_WAIT_S = const(300)
_MAX_ID = const(128)


class Assignment:
    """What DPS assigned: `hub` exactly as received, `device_id`, `substatus`, `payload`.

    `kept`: the next start will use it.
    """

    def __init__(
        self, hub: str, device_id: str, substatus: str = "", payload: object = None
    ) -> None:
        self.hub = hub
        self.device_id = device_id
        self.substatus = substatus
        self.payload = payload
        self.kept = False

    def __repr__(self) -> str:
        return "<Assignment of %s to %s>" % (self.device_id, self.hub)


class Registration:
    """One registration: `request()` gives what to publish, `answer()` takes what comes back.

    After each answer `result` holds an Assignment, or `wait_s` says when to ask again. A final
    refusal raises: CredentialError (401, 403, 404, disabled, wrong attestation), ServiceError
    (anything else), ProtocolError (an answer that breaks the rules).
    """

    def __init__(self, id_scope: str, registration_id: str, payload: object = None) -> None:
        self.id_scope = check_scope(id_scope)
        self.registration_id = check_registration_id(registration_id)
        self.payload = payload
        self.operation = ""
        self.rid = 0
        self.wait_s = 0
        self.status = 0  # of the last answer
        self.result = None

    @property
    def throttled(self) -> bool:
        """Whether the last answer was no answer: the same request is to be made again, later."""
        return self.status >= _RETRIABLE

    @property
    def user_name(self) -> str:
        """Shape: `{scope}/registrations/{id}/api-version=2019-03-31` (no `?`)."""
        return "%s/registrations/%s/api-version=%s" % (
            self.id_scope,
            self.registration_id,
            API_VERSION,
        )

    @property
    def resource(self) -> str:
        """Percent-encoded resource of a token: `{scope}%2Fregistrations%2F{id}`."""
        return quote("%s/registrations/%s" % (self.id_scope, self.registration_id))

    def request(self) -> "tuple[str, str]":
        """Give topic and body of the next request: register first, then poll the operation.

        Shapes: `$dps/registrations/PUT/iotdps-register/?$rid=1`, body
        `{"registrationId":"…","payload":…}`, and
        `$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId=…`, body ` `.
        """
        self.rid += 1
        if self.operation:
            return (
                "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=%d&operationId=%s"
                % (self.rid, self.operation),
                " ",
            )
        body = {"registrationId": self.registration_id}
        if self.payload is not None:
            body["payload"] = self.payload
        return "$dps/registrations/PUT/iotdps-register/?$rid=%d" % self.rid, json.dumps(body)

    def answer(self, topic: str, payload: bytes) -> bool:
        """Take an answer; False when it belongs to another request.

        Raises CredentialError, ServiceError, ProtocolError.
        """
        if not topic.startswith(_RESULT):
            return False
        status, _, query = topic[len(_RESULT) :].partition("/")
        if query_value(query, "$rid") != str(self.rid):
            return False
        if not status.isdigit():
            raise ProtocolError("DPS answered with a status that is no number", "dps")
        after = query_value(query, "retry-after")
        wait_s = int(after) if after.isdigit() else _DEFAULT_WAIT_S
        self.wait_s = min(max(wait_s, _MIN_WAIT_S), _MAX_WAIT_S)
        self.status = int(status)
        self._judge(self.status, payload)
        return True

    def _judge(self, status: int, payload: bytes) -> None:
        if self.throttled:
            # 429 and every 5xx: the same request again after the time the service asked for.
            return
        body = _object(payload)
        if status >= 300:  # whatever it says beside that, or nothing: a refusal
            _refuse(body or {}, "message", status * 1000)
        if body is None:
            raise ProtocolError("DPS answered with a body that is no JSON object", "dps")
        state = body.get("registrationState")
        state = state if isinstance(state, dict) else {}
        word = state.get("status") if state else None
        word = word or body.get("status")
        if word == "assigning":
            operation = body.get("operationId")
            if isinstance(operation, str) and operation:
                self.operation = operation
            return
        if word == "assigned":
            self._assigned(state)
            return
        if word == "disabled":
            raise CredentialError(
                "the DPS enrollment of %s is disabled: enable it, or ask who disabled it"
                % self.registration_id
            )
        if word == "failed" or word == "unassigned":
            _refuse(state, "errorMessage", 400000, word)
        raise ProtocolError("DPS answered with the unknown status %s" % repr(word)[:40], "dps")

    def _assigned(self, state: dict) -> None:
        profile = state.get("connectionProfile")
        if profile is not None and profile != "classic":
            raise ServiceError(
                "DPS assigned a hub that speaks %s; this firmware speaks classic MQTT 3.1.1 only: "
                "have DPS assign a classic hub" % repr(profile)[:40],
                501,
                None,
            )
        hub = state.get("assignedHub")
        device = state.get("deviceId")
        if not isinstance(hub, str) or not hub or not isinstance(device, str) or not device:
            raise ProtocolError("DPS assigned no hub or no device id", "dps")
        self.result = Assignment(hub, device, state.get("substatus") or "", state.get("payload"))


def _object(payload: bytes) -> "dict | None":
    try:
        body = json.loads(payload)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _refuse(body: dict, name: str, code: int, message: str = "") -> None:
    given = body.get("errorCode")
    if isinstance(given, int) and given:
        code = given
    kind = code // 1000
    text = "DPS refused (%d): %s" % (code, body.get(name) or message)
    if kind in (401, 403):
        raise CredentialError(
            text + "; the key or certificate does not fit the enrollment. A group's own key "
            'never works on a device: derive one with "taproot dps-key"'
        )
    if kind == 404:
        raise CredentialError(text + "; no enrollment has this registration id in this id scope")
    raise ServiceError(text, kind, None)


def check_scope(text: str) -> str:
    """Accept an id scope such as `0ne00A1B2C3`. Raises CredentialError."""
    if "." in text or not text.isalpha() and not _alphanumeric(text):
        raise CredentialError("%s is not an id scope: it reads like 0ne00A1B2C3" % shown(text))
    return text


def _alphanumeric(text: str) -> bool:
    for letter in text:
        if not (letter.isdigit() or letter.isalpha()):
            return False
    return bool(text)


def check_registration_id(text: str) -> str:
    """Accept 1 to 128 letters, digits and `-._:`, none of these first or last."""
    good = 1 <= len(text) <= _MAX_ID and text[0] not in "-._:" and text[-1] not in "-._:"
    for letter in text:
        good = good and ord(letter) < 128 and (letter in "-._:" or _alphanumeric(letter))
    if not good:
        raise CredentialError("%s is not a registration id" % shown(text))
    return text
