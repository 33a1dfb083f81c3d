# What the host variant freezes: asyncio, and the device package as a board freezes it.
include("$(MPY_DIR)/extmod/asyncio")
include("../../firmware/manifest.py")
