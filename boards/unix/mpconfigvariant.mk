# The make half of the host variant; mpconfigvariant.h is the C half.
PROG ?= micropython
FROZEN_MANIFEST ?= $(VARIANT_DIR)/manifest.py

# Neither is used here, and Debian's source package carries neither library.
MICROPY_PY_BTREE = 0
MICROPY_PY_FFI = 0

MICROPY_PY_SSL = 1
MICROPY_SSL_MBEDTLS = 1
# extmod.mk sets this with ?=, and VARIANT_DIR is on the include path.
MBEDTLS_CONFIG_FILE = \"mbedtls_config_taproot.h\"
