"""The device's connection to IoT Hub: telemetry, commands, methods, twin.

Responsible for: the public interface. Not for: how it is kept up (core.py), trust (managed.py),
Wi-Fi and time (agent.py and its platform), DPS (provisioning.py), packets (mqtt/).
Source: contracts.md; topics in hub.py. Names follow azure-iot-device where it has them.

    client = IoTHubDeviceClient.from_connection_string(text, trust=TrustManager(store, clock))
    async with client:                                # connects, keeps connected, renews tokens
        await client.send_message({"t": 21.5}, {"alert": "no"})
        await client.patch_twin_reported_properties({"fw": "1.2"})
"""

from micropython import const

from . import hub
from .errors import CredentialError, ServiceError
from .identity import Identity
from .managed import ManagedConnection
from .transient import forget

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable

    from .hub import Message


class IoTHubDeviceClient(ManagedConnection):
    """One device at one hub. Use the `from_…` constructors.

    Options, keyword only: trust= or roots= (whom to trust), clock=, update_agent=True (react to
    the desired property `trust`), port=8883 (443 with websocket=True), websocket=False, product_info=, model_id=,
    sas_life_s=3600, keepalive_s=240, window=8, max_pending=64, max_pending_bytes=65536,
    inbox_size=16, max_inbound=65536, twin_timeout_s=30, deadlines=, backoff=,
    fleet_size_hint=1000, mqtt= (a dict of more MQTT options, {"buffer_out": 4096}), will= (Message),
    profile= (TLSProfile), sync_time= (`sync_time()`, async or not, gives a time server's Unix time),
    https_port=443 (where the hub's Date is asked for), reprovision= (`await` gives an Assignment).
    """

    # Constructors

    @classmethod
    def from_connection_string(
        cls, text: str, *, certificate: "object | None" = None, **options: object
    ) -> "IoTHubDeviceClient":
        """Make a client from a device connection string; `certificate` goes with `x509=true`.

        Raises CredentialError in words for anything that is not a device's connection string.
        """
        from .connection_string import parse

        identity, credential = parse(text)
        forget("azure_iot.connection_string")
        if credential is None:
            if certificate is None:
                raise CredentialError("x509=true needs certificate=X509Certificate(…)")
            credential = certificate
        return cls(identity, credential, **options)

    @classmethod
    def from_symmetric_key(
        cls, symmetric_key: str, hostname: str, device_id: str, **options: object
    ) -> "IoTHubDeviceClient":
        """Make a client from a base64 device key, which signs a token for each connection.

        User name `{host}/{device}/?api-version=2021-04-12`, password
        `SharedAccessSignature sr={host}%2Fdevices%2F{device}&sig=…&se={Unix time}`; a module with
        `module_id=` is `{device}/{module}`, in `sr` `{device}%2Fmodules%2F{module}`.
        Raises CredentialError for a key that is no base64, a host name or an id that cannot be one.
        Source: azure-docs "Control access to IoT Hub using SAS".
        """
        from .credentials import SymmetricKey

        return cls(_identity(hostname, device_id, options), SymmetricKey(symmetric_key), **options)

    @classmethod
    def from_x509(
        cls, certificate: object, hostname: str, device_id: str, **options: object
    ) -> "IoTHubDeviceClient":
        """Make a client from an X509Certificate, which TLS shows; no password is sent.

        User name `{host}/{device}/?api-version=2021-04-12`. Raises CredentialError for a host name
        or an id that cannot be one; when connecting, for a certificate that is out of date or in
        another name. Source: azure-docs "Authenticate identities with X.509".
        """
        return cls(_identity(hostname, device_id, options), certificate, **options)

    @classmethod
    def from_credential(
        cls, credential: object, hostname: str, device_id: str, **options: object
    ) -> "IoTHubDeviceClient":
        """Make a client from any credential: SasProvider, StaticToken, SignerKey, …

        It has `await token(resource, expiry)`, with a resource such as `{host}%2Fdevices%2F{device}`,
        that gives the password `SharedAccessSignature sr=…&sig=…&se=…`. Raises CredentialError as
        from_symmetric_key. Source: azure-docs "Control access to IoT Hub using SAS".
        """
        return cls(_identity(hostname, device_id, options), credential, **options)

    # Telemetry

    async def send_message(
        self,
        message: "Message | bytes | str | dict | list | Callable",
        properties: "dict | None" = None,
        *,
        wait: bool = True,
        size: int = 0,
    ) -> int:
        """Send telemetry at QoS 1; with `wait` until the hub has acknowledged it.

        Topic `devices/{device}/messages/events/{properties}`, as in
        `devices/pump-1/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8&alert=no`. Without `wait` it returns when the message is accepted; the number is for `delivered`.

        dict and list become JSON with `$.ct=application/json&$.ce=utf-8`. A message accepted
        while there is no connection waits in the queue; a full queue raises QueueFullError.
        A function is a stream of `size` bytes: each call gives a new reader with
        `readinto(memoryview)` and the same bytes, `lambda: open("log.bin", "rb")`.
        Raises ValueError for what JSON cannot say (NaN, bytes, a set, an object), TypeError for
        another body, ServiceError(413) for more than 256 KB with all properties, and for properties that
        make a topic of more than 4,087 bytes (`mqtt={"buffer_out": …}` less 9; MQTT takes 65,535).
        """
        message = to_message(message, properties)
        data = message.data
        if not callable(data):
            size = len(data)
        weight = weigh(message, size)
        # One topic for all messages without properties: a full queue holds it only once.
        topic = self._topic(message, weight) if weight or message.properties else self._events
        if callable(data):
            number = await self._mqtt.publish_stream(topic, data, size, 1, wait=wait)
        else:
            number = await self._mqtt.publish(topic, data, 1, wait=wait)
        if wait:
            await self._mqtt.delivered(number)
        return number

    def _topic(self, message: "Message", weight: int) -> str:
        """Build the topic that carries the properties, where it fits: that takes much memory."""
        room = self._mqtt.session.topic_room()
        size = len(self._events) + weight
        topic = ""
        if size <= room:
            topic = hub.events_topic(self._base, message.bag())
            size = len(topic)
        if size > room:
            raise ServiceError(
                "properties for a topic of %d bytes, it may have %d: send them in the body, or set "
                'mqtt={"buffer_out": …}' % (size, room),
                413,
            )
        return topic

    async def delivered(self, number: int) -> None:
        """Wait until the hub has acknowledged the message with this number."""
        await self._mqtt.delivered(number)

    # Twin

    async def get_twin(self) -> dict:
        """Fetch the twin: `{"desired": {…, "$version": n}, "reported": {…, "$version": n}}`.

        Topic `$iothub/twin/GET/?$rid=1`, answer at `$iothub/twin/res/200/?$rid=1`. Waits for a
        connection up to `twin_timeout_s`, sends at QoS 0. Raises ServiceError,
        ConnectionFailedError, ConnectionDroppedError.
        """
        return await self._use_twin().get()

    async def patch_twin_reported_properties(self, properties: dict) -> "int | None":
        """Send reported properties and return their new `$version`; None deletes a member.

        Topic `$iothub/twin/PATCH/properties/reported/?$rid=2`, body `{"fw": "1.2"}`, answer at
        `$iothub/twin/res/204/?$rid=2&$version=7`. Raises as get_twin; ServiceError 400, 413, 429.
        """
        return await self._use_twin().patch(properties)

    def desired_properties(self) -> object:
        """Iterate over DesiredChange: `async for change in client.desired_properties()`.

        The first one is complete; later ones are differences, complete again after a gap and
        when `inbox_size` changes waited, which are dropped (`stats["twin_drops"]`). They
        come at `$iothub/twin/PATCH/properties/desired/?$version=8`, body `{"rate": 5, "$version": 8}`.
        """
        return self._use_twin().inbox

    # Methods and messages from the cloud

    def on_method(self, name: str, handler: "Callable") -> None:
        """Answer the direct method `name` with `handler(payload)`, a function or coroutine function.

        `payload` is the decoded JSON (None for an empty body). The handler returns a status, or
        (status, body); an exception in it gives status 500 and a body that shows no detail.
        Request at `$iothub/methods/POST/{name}/?$rid=1f`, answer at `$iothub/methods/res/{status}/?$rid=1f`.
        """
        self._use_methods().handlers[name] = handler

    def method_requests(self) -> object:
        """Iterate over MethodRequest, calls without a handler: `await request.respond(200, {"ok": True})`.

        Request at `$iothub/methods/POST/{name}/?$rid=1f`, body the JSON payload. When `inbox_size`
        wait, the oldest is answered 503; a payload over `max_inbound` is answered 413, one that is
        no JSON 400. It raises nothing. Source: azure-docs "Direct methods from IoT Hub".
        """
        return self._use_methods().requests()

    def on_c2d(self, handler: "Callable", sink: "Callable | None" = None) -> None:
        """Handle each cloud-to-device message with `handler(message)`, a function or coroutine function.

        Topic `devices/{device}/messages/devicebound/{properties}`, QoS 1. The hub gets its PUBACK only after the handler returned; if it raises, the message stays
        in the hub's queue and comes again with the next connection, which is made for it:
        after 15 s, then twice as long each time, up to an hour. What finds `inbox_size` messages
        waiting stays there, too, until they are done. A message larger than the
        input buffer (4 KB) goes into `sink(message, size)`, an object with `write(memoryview)`,
        `close()` and `abort()` that is then the handler's `message.data`; None: not wanted.
        """
        c2d = self._use_c2d()
        c2d.handler = handler
        c2d.sink = sink
        self._want(hub.c2d_filter(self._base))

    def c2d_messages(self) -> object:
        """Iterate over cloud-to-device messages; asking for the next one accepts the last.

        Each is a Message from `devices/{device}/messages/devicebound/{properties}`, QoS 1, as in
        `devices/d/messages/devicebound/%24.mid=7&alert=no`; body its `data`. What was not accepted
        comes again with the next connection. It raises nothing.
        Source: azure-docs "Send cloud-to-device messages from an IoT hub".
        """
        c2d = self._use_c2d()
        self._want(hub.c2d_filter(self._base))
        return c2d.messages()


def _identity(hostname: str, device_id: str, options: dict) -> Identity:
    return Identity(
        hostname, device_id, options.pop("module_id", None), options.pop("gateway", "")
    )


def weigh(message: "Message", size: int) -> int:
    """Count the bytes of all properties. Raises ServiceError(413) when the hub takes no such message."""
    weight = message.weight()
    if size + weight > hub.MAX_D2C:
        raise ServiceError(
            "a message of %d bytes with its properties, the hub takes %d"
            % (size + weight, hub.MAX_D2C),
            413,
        )
    return weight


def to_message(message: object, properties: "dict | None") -> "Message":
    """Make a Message with a body of bytes; `properties` come on top of its own."""
    if not isinstance(message, hub.Message):
        if isinstance(message, (dict, list)):
            message = hub.Message(
                hub.to_json(message), content_type="application/json", content_encoding="utf-8"
            )
        else:
            message = hub.Message(message)
    elif properties is not None or isinstance(message.data, str):
        message = message.copy()  # the caller's own stays as it is
    if properties:
        message.properties.update(properties)
    if isinstance(message.data, str):
        message.data = message.data.encode()
    if not isinstance(message.data, bytes) and not callable(message.data):
        raise TypeError("a body of %s: give bytes, str, or a dict or list" % type(message.data))
    return message
