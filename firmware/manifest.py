# The device package as firmware builds freeze it; every boards/*/manifest.py includes this file.
# No version here: it would be appended to each of the package's modules. azure_iot has its own.
metadata(description="Azure IoT Hub client that survives every change of root certificate")

# opt=3: no line numbers and no asserts in the frozen code, which saves flash.
package("azure_iot", opt=3)
module("frozen_names.py", opt=3)
