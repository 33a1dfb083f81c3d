// MicroPython features of the emulated board: the port's, plus what an ESP32 build offers.
//
// TEST FIRMWARE ONLY: random numbers come from a fixed seed (board.c).
#include "ports/qemu/mpconfigport.h"

#undef MICROPY_PY_SYS_STDIO_BUFFER
#undef MICROPY_PY_SELECT
#undef MICROPY_PY_TIME
#undef MICROPY_PY_ASYNCIO
#undef MICROPY_HW_BOARD_NAME

#define MICROPY_HW_BOARD_NAME "QEMU_RV32 (TEST FIRMWARE ONLY: random numbers from a fixed seed)"
#define MICROPY_PY_SYS_STDIO_BUFFER (1) // mpremote mount
#define MICROPY_PY_SELECT (1)
#define MICROPY_PY_ASYNCIO (1)
#define MICROPY_PY_HASHLIB_SHA1 (1)
#define MICROPY_PY_HASHLIB_SHA256 (1)
#define MICROPY_PY_CRYPTOLIB (1)
#define MICROPY_ENABLE_FINALISER (1)
#define MICROPY_KBD_EXCEPTION (1)
#define MICROPY_TRACKED_ALLOC (1) // Mbed TLS allocates from the MicroPython heap

#define MICROPY_PY_TIME (1)
#define MICROPY_PY_TIME_GMTIME_LOCALTIME_MKTIME (1)
#define MICROPY_PY_TIME_TIME_TIME_NS (1)
#define MICROPY_PY_TIME_INCLUDEFILE "board_modtime.h"
#define MICROPY_PY_OS_UNAME (1)
#define MICROPY_PY_OS_URANDOM (1)
#define MICROPY_PY_OS_INCLUDEFILE "board_modos.h"
#define MICROPY_PY_RANDOM_SEED_INIT_FUNC (board_random_word())

// No interrupt handler runs on this board: the interpreter looks at its UARTs now and then.
#define MICROPY_VM_HOOK_COUNT (2000)
#define MICROPY_VM_HOOK_INIT static unsigned int vm_hook_divisor = MICROPY_VM_HOOK_COUNT;
#define MICROPY_VM_HOOK_POLL if (--vm_hook_divisor == 0) { \
        vm_hook_divisor = MICROPY_VM_HOOK_COUNT; \
        board_poll(); \
}
#define MICROPY_VM_HOOK_LOOP MICROPY_VM_HOOK_POLL
#define MICROPY_VM_HOOK_RETURN MICROPY_VM_HOOK_POLL
#define MICROPY_INTERNAL_WFE(TIMEOUT_MS) board_idle(TIMEOUT_MS)
#define MICROPY_PORT_INIT_FUNC board_boot()

void board_boot(void);
void board_poll(void);
void board_idle(uint32_t timeout_ms);
uint32_t board_random_word(void);
