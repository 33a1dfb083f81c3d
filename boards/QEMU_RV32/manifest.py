# What the emulated board freezes: its start-up and platform modules, asyncio, the device package.
freeze("modules", opt=3)
include("$(MPY_DIR)/extmod/asyncio")
include("../../firmware/manifest.py")
