# A module's inputs, which an Edge hub routes to it: handle a message, send the result to an output.
# With GatewayHostName in the connection string it speaks through that gateway.
import asyncio
import secrets

from azure_iot import IoTHubModuleClient


async def main():
    module = IoTHubModuleClient.from_connection_string(
        secrets.MODULE_CONNECTION_STRING, **secrets.options()
    )
    async with module:
        messages = module.input_messages()
        print("waiting for messages")
        async for message in messages:
            print("message", message.data, "at", message.input_name)
            await module.send_message_to_output({"length": len(message.data)}, "lengths")
            if message.input_name == "last":
                break
        messages.accept()  # the last one too
        await asyncio.sleep(1)


asyncio.run(main())
