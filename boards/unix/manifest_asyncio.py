# Builds that serve as a peer of the tests (TLS server, other buffer sizes): no device package.
include("$(MPY_DIR)/extmod/asyncio")
