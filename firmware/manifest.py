# The device package as firmware builds freeze it; every boards/*/manifest.py includes this file.
metadata(
    description="Azure IoT Hub client that survives every change of root certificate",
    version="0.1.0",
)

# opt=3: no line numbers and no asserts in the frozen code, which saves flash.
package("azure_iot", opt=3)
