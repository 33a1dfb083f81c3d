"""A module of a device: outputs, inputs, and the Edge gateway it may speak through.

Responsible for: what a module has beyond a device. Not for: everything else (client.py).
Source: azure-docs "Understand and use module twins", "Use MQTT with IoT Edge".

    module = IoTHubModuleClient.from_connection_string(
        "HostName=h;DeviceId=d;ModuleId=m;SharedAccessKey=…;GatewayHostName=edge.local", roots=[…])
    await module.send_message_to_output({"t": 21.5}, "alerts")
"""

from micropython import const

from . import hub
from .client import IoTHubDeviceClient, to_message
from .errors import CredentialError

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Callable


class IoTHubModuleClient(IoTHubDeviceClient):
    """One module. TCP and the host name check go to the gateway, identity stays with the hub."""

    def __init__(self, identity: object, credential: object, **options: object) -> None:
        if not identity.module_id:
            raise CredentialError("the connection string has no ModuleId: this is a device's")
        super().__init__(identity, credential, **options)

    async def send_message_to_output(
        self,
        message: "hub.Message | bytes | str | dict | list",
        output_name: str,
        properties: "dict | None" = None,
        *,
        wait: bool = True,
    ) -> None:
        """Send to a named output: system property `$.on`, routed by the Edge hub.

        Topic `devices/{device}/modules/{module}/messages/events/%24.on={output}&…`, QoS 1. Body and
        properties as in send_message, and it raises the same: ServiceError 413, QueueFullError.
        Source: azure-docs "Use MQTT with IoT Edge".
        """
        message = to_message(message, properties or {})
        setattr(message, "output_name", output_name)  # noqa: B010 (made by Message.__init__)
        await self.send_message(message, wait=wait)

    def on_input(self, handler: "Callable") -> None:
        """Handle each input message with `handler(message)`; `message.input_name` says which.

        Topic `devices/{device}/modules/{module}/inputs/{input}/{properties}`, QoS 1. PUBACK goes out only after the handler returned.
        """
        self._use_c2d().handler = handler
        self._want(hub.inputs_filter(self._base))

    def input_messages(self) -> object:
        """Iterate over input messages; asking for the next one accepts the last.

        Each is a Message from `devices/{device}/modules/{module}/inputs/{input}/{properties}`, QoS 1;
        `input_name` says which. What was not accepted comes again with the next connection. It
        raises nothing. Source: azure-docs "Use MQTT with IoT Edge".
        """
        c2d = self._use_c2d()
        self._want(hub.inputs_filter(self._base))
        return c2d.messages()
