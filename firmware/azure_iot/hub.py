"""IoT Hub on the wire: user name, topics built and parsed, property bags of messages.

Responsible for: every string the hub's MQTT interface defines (API version 2021-04-12).
Not for: packets (mqtt/), which topic is answered how (client.py), tokens (sas.py).
Source: Azure documentation "Communicate with an IoT hub using the MQTT protocol".

    hub.parse("$iothub/twin/res/200/?$rid=7")  ->  (hub.TWIN_RESULT, 200, "7", None)
"""

import json

from micropython import const

from .bag import decode_bag, encode_bag, quote, text

API_VERSION = "2021-04-12"
# What `parse` finds; small integers, compared with `is`-like cost.
NO_MATCH = 0
C2D = 1
INPUT = 2
METHOD = 3
TWIN_RESULT = 4
DESIRED = 5

METHODS_FILTER = "$iothub/methods/POST/#"
TWIN_RESULT_FILTER = "$iothub/twin/res/#"
DESIRED_FILTER = "$iothub/twin/PATCH/properties/desired/#"
_METHOD = const("$iothub/methods/POST/")
_TWIN_RESULT = const("$iothub/twin/res/")
_DESIRED = const("$iothub/twin/PATCH/properties/desired/")

# Limits of the hub (quotas page); a body over them is refused before it is sent.
MAX_D2C = const(262144)
MAX_REPORTED = const(32768)
MAX_METHOD = const(131072)

_SUFFIXES = const(
    (
        ("azure-devices.net", "public", "global.azure-devices-provisioning.net"),
        ("azure-devices.us", "us-government", "global.azure-devices-provisioning.us"),
        ("azure-devices.cn", "china", "global.azure-devices-provisioning.cn"),
        ("azure-devices-provisioning.net", "public", "global.azure-devices-provisioning.net"),
        ("azure-devices-provisioning.us", "us-government", "global.azure-devices-provisioning.us"),
        ("azure-devices-provisioning.cn", "china", "global.azure-devices-provisioning.cn"),
    )
)
# Attribute of Message -> key of the system property.
_SYSTEM = const(
    (
        ("message_id", "$.mid"),
        ("correlation_id", "$.cid"),
        ("user_id", "$.uid"),
        ("content_type", "$.ct"),
        ("content_encoding", "$.ce"),
        ("expiry_time_utc", "$.exp"),
        ("creation_time_utc", "$.ctime"),
        ("output_name", "$.on"),
        ("component_name", "$.sub"),
        ("interface_id", "$.ifid"),
        ("to", "$.to"),
        ("ack", "iothub-ack"),
    )
)


class Message:
    """A message in either direction: body, system properties, application properties.

    `data` is bytes; `properties` a dict. System properties are attributes, None when absent:
    message_id correlation_id user_id content_type content_encoding expiry_time_utc
    creation_time_utc output_name component_name interface_id to ack.
    """

    def __init__(
        self, data: "bytes | str", properties: "dict | None" = None, **system: str
    ) -> None:
        self.data = data
        self.properties = properties or {}
        self.input_name = None
        for name, _ in _SYSTEM:
            setattr(self, name, system.pop(name, None))
        if system:
            raise TypeError("unknown system property: %s" % ", ".join(system))

    def copy(self) -> "Message":
        """Make another message with the same body and the same properties."""
        other = Message(self.data, dict(self.properties))
        for name, _ in _SYSTEM:
            setattr(other, name, getattr(self, name))
        return other

    def weight(self) -> int:
        """Count the bytes of all properties, which the hub adds to those of the body."""
        n = 0
        for name, key in _SYSTEM:
            value = getattr(self, name)
            if value is not None:
                n += len(key) + len(str(value).encode())
        for name, value in self.properties.items():
            n += len(name.encode()) + len(text(value).encode())
        return n

    def bag(self) -> str:
        """Encode all properties for a telemetry topic.

        Shape: `%24.mid=1&%24.ct=application%2Fjson&alert=no`.
        """
        parts = []
        for name, key in _SYSTEM:
            value = getattr(self, name)
            if value is not None:
                parts.append("%s=%s" % (quote(key), quote(str(value))))
        if self.properties:
            parts.append(encode_bag(self.properties))
        return "&".join(parts)

    def __repr__(self) -> str:
        size = len(self.data) if hasattr(self.data, "__len__") else -1  # -1: a stream
        return "<Message of %d bytes, %d properties>" % (size, len(self.properties))


def message_from_bag(bag: str, data: bytes) -> Message:
    """Make a received Message; system keys become attributes, the rest `properties`."""
    message = Message(data)
    found = decode_bag(bag)
    for name, key in _SYSTEM:
        if key in found:
            setattr(message, name, found.pop(key))
    message.properties = found
    return message


def user_name(
    host: str,
    client_id: str,
    *,
    product_info: str = "",
    model_id: str = "",
    api_version: str = API_VERSION,
) -> str:
    """Give the MQTT user name.

    Shape: `{host}/{client id}/?api-version=2021-04-12[&DeviceClientType=…][&model-id=dtmi…]`.
    """
    name = "%s/%s/?api-version=%s" % (host, client_id, api_version)
    if product_info:
        name = "%s&DeviceClientType=%s" % (name, quote(product_info))
    if model_id:
        name = "%s&model-id=%s" % (name, quote(model_id))
    return name


def base_topic(device_id: str, module_id: "str | None" = None) -> str:
    """Shape: `devices/{d}/`, a module `devices/{d}/modules/{m}/`."""
    if module_id:
        return "devices/%s/modules/%s/" % (device_id, module_id)
    return "devices/%s/" % device_id


def events_topic(base: str, bag: str = "") -> str:
    """Shape: `devices/{d}/messages/events/{bag}`."""
    return "%smessages/events/%s" % (base, bag)


def c2d_filter(base: str) -> str:
    """Shape: `devices/{d}/messages/devicebound/#`."""
    return base + "messages/devicebound/#"


def inputs_filter(base: str) -> str:
    """Shape: `devices/{d}/modules/{m}/inputs/#`."""
    return base + "inputs/#"


def twin_get_topic(rid: str) -> str:
    """Shape: `$iothub/twin/GET/?$rid={rid}`."""
    return "$iothub/twin/GET/?$rid=" + rid


def twin_patch_topic(rid: str) -> str:
    """Shape: `$iothub/twin/PATCH/properties/reported/?$rid={rid}`."""
    return "$iothub/twin/PATCH/properties/reported/?$rid=" + rid


def method_response_topic(status: int, rid: str) -> str:
    """Shape: `$iothub/methods/res/{status}/?$rid={rid}`; `rid` exactly as received."""
    return "$iothub/methods/res/%d/?$rid=%s" % (status, rid)


def parse(topic: str, base: str) -> tuple:
    """Say what a received topic is: a tuple that begins with one of the kinds above.

    `(C2D, bag)`, `(INPUT, name, bag)`, `(METHOD, name, rid)`,
    `(TWIN_RESULT, status, rid, version or None)` (of a refusal: retry-after), `(DESIRED, version or None)`, `(NO_MATCH,)`.
    """
    if topic.startswith(_TWIN_RESULT):
        status, _, query = topic[len(_TWIN_RESULT) :].partition("/")
        if not status.isdigit():
            return (NO_MATCH,)
        name = "$version" if status < "3" else "retry-after"
        return TWIN_RESULT, int(status), query_value(query, "$rid"), _number(query, name)
    if topic.startswith(_DESIRED):
        return DESIRED, _number(topic[len(_DESIRED) :], "$version")
    if topic.startswith(_METHOD):
        name, slash, query = topic[len(_METHOD) :].partition("/")
        return (METHOD, name, query_value(query, "$rid")) if slash and name else (NO_MATCH,)
    if topic.startswith(base):
        rest = topic[len(base) :]
        if rest.startswith("messages/devicebound/"):
            return C2D, rest[21:]
        if rest.startswith("inputs/"):
            name, _, bag = rest[7:].partition("/")
            return INPUT, name, bag
    return (NO_MATCH,)


def query_value(query: str, name: str) -> str:
    """Read one value of `?a=1&b=2` byte for byte as it was sent; "" when absent."""
    for part in query[1:].split("&") if query.startswith("?") else ():
        key, _, value = part.partition("=")
        if key == name:
            return value
    return ""


def _number(query: str, name: str) -> "int | None":
    value = query_value(query, name)
    return int(value) if value.isdigit() else None


def cloud(host: str) -> "tuple[str, str]":
    """Name the cloud of a host, or of `.china`, and its DPS host: `("public", "global.…net")`.

    A host of no known cloud (an emulator, a private name) counts as public.
    """
    host = host.lower()
    for suffix, name, dps in _SUFFIXES:
        if host.endswith("." + suffix) or host == "." + name:
            return name, dps
    return "public", _SUFFIXES[0][2]


def to_json(value: object) -> bytes:
    """Encode a value. Raises ValueError for what JSON cannot say, which MicroPython lets through."""
    try:
        _require_json(value)
    except RuntimeError:  # of MicroPython's stack
        raise ValueError("JSON: nested too deep, or in itself")
    return json.dumps(value).encode()


def _require_json(value: object) -> None:
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, (str, int)):
                raise ValueError("JSON: %s as a key" % type(key))
            _require_json(value[key])
    elif type(value) in (list, tuple):  # a named tuple would be written as Name(a=1)
        for one in value:
            _require_json(one)
    elif isinstance(value, float):
        if value - value != 0:
            raise ValueError("JSON: %s is no number" % value)
    elif value is not None and not isinstance(value, (str, int, bool)):
        raise ValueError("JSON: no form for %s" % type(value))
