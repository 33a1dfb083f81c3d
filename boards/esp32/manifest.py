# What every AZURE_IOT_ESP32* image freezes: MicroPython's own start-up modules, asyncio, the device
# package. micropython-lib's networking bundle is left out: its `ssl` connects unverified by default.
import os

freeze("$(PORT_DIR)/modules")
include("$(MPY_DIR)/extmod/asyncio")
include("../../firmware/manifest.py")

# The operator's own roots and keys: `taproot trust factory --out …` writes the file, git ignores it. An image
# without it trusts the cloud's roots alone and takes no updates from an operator.
if os.path.exists("trust_factory.py"):
    module("trust_factory.py", opt=3)
