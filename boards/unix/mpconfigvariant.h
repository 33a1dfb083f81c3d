// MicroPython features of the host variant: what an ESP32 build offers, no more.
#define MICROPY_CONFIG_ROM_LEVEL (MICROPY_CONFIG_ROM_LEVEL_EXTRA_FEATURES)

#include "ports/unix/variants/mpconfigvariant_common.h"

// Mbed TLS allocates from the MicroPython heap (see mbedtls_config_taproot.h), so that
// -X heapsize bounds TLS as well. Default only with FFI or btstack, both off here.
#define MICROPY_TRACKED_ALLOC (1)
