// The emulated board: start, clock, idling, console input, random numbers.
//
// TEST FIRMWARE ONLY. Random numbers come from a generator with a FIXED SEED, so that runs can be
// repeated: keys made and sessions opened here are no secret. Never put this on anything real.
//
// Addresses are those of QEMU's RISC-V machine `virt` (qemu: hw/riscv/virt.c).

#include <time.h>

#include "py/mphal.h"
#include "py/ringbuf.h"
#include "py/runtime.h"
#include "py/stackctrl.h"
#include "py/stream.h"
#include "shared/runtime/interrupt_char.h"
#include "shared/runtime/pyexec.h"
#include "shared/timeutils/timeutils.h"
#include "mbedtls/platform_time.h"
#include "mbedtls/platform_util.h"
#include "mbedtls/entropy.h"
#include "entropy_poll.h"
#include "board.h"

#define REGISTER32(address) (*(volatile uint32_t *)(address))
#define MTIMECMP (0x02004000) // CLINT, the first processor, 64 bit
#define MTIME (0x0200bff8) // 64 bit, 10 MHz
#define TICKS_PER_US (10)
#define RTC_LOW (0x00101000) // goldfish RTC, ns since 1970; reading the low half latches the high
#define RTC_HIGH (0x00101004)
#define PLIC (0x0c000000)
#define PLIC_ENABLE (PLIC + 0x2000) // the first processor in machine mode
#define IRQ_UART (10)
#define IRQ_PCI (32) // to 35
#define UART_IER (*(volatile uint8_t *)0x10000001)

#define MAX_SLEEP_MS (10)

// As an ESP32 build: a stack of 16 KiB, the last KiB of it kept for C.
#define STACK_LIMIT (15 * 1024)

static uint8_t console_data[512];
static ringbuf_t console = { console_data, sizeof(console_data), 0, 0 };
static uint32_t random_state;

// ---------------------------------------------------------------------------------------------
// Start.

static void init_hardware(void) {
    // An interrupt ends `wfi` and nothing more: none is ever taken.
    __asm volatile ("csrci mstatus, 8");
    __asm volatile ("csrw mie, %0" : : "r" ((1 << 7) | (1 << 11))); // timer, external
    for (int irq = IRQ_PCI; irq < IRQ_PCI + 4; irq++) {
        REGISTER32(PLIC + 4 * irq) = 1;
    }
    REGISTER32(PLIC + 4 * IRQ_UART) = 1;
    REGISTER32(PLIC_ENABLE) = 1 << IRQ_UART;
    REGISTER32(PLIC_ENABLE + 4) = 15; // PCI
    UART_IER = 1; // received data
    random_state = 0x7a95007; // the fixed seed
}

// At every start and soft reset: file system, then boot.py and main.py as a board does.
void board_boot(void) {
    static bool started;
    if (!started) {
        started = true;
        init_hardware();
        channel_open();
    }
    mp_stack_set_limit(STACK_LIMIT);
    pyexec_frozen_module("_boot.py", false);
    pyexec_file_if_exists("boot.py");
    if (pyexec_mode_kind == PYEXEC_MODE_FRIENDLY_REPL) {
        pyexec_file_if_exists("main.py");
    }
}

// ---------------------------------------------------------------------------------------------
// Console input. The port's UART is read into a ring, where Ctrl-C is seen in time.

int __real_uart_rx_chr(void);
int __wrap_uart_rx_chr(void);
uintptr_t __wrap_mp_hal_stdio_poll(uintptr_t flags);

void board_poll(void) {
    while (ringbuf_free(&console) > 0) {
        int c = __real_uart_rx_chr();
        if (c < 0) {
            break;
        }
        if (c == mp_interrupt_char) {
            mp_sched_keyboard_interrupt();
        } else {
            ringbuf_put(&console, c);
        }
    }
    socket_poll();
}

int __wrap_uart_rx_chr(void) {
    board_poll();
    int c = ringbuf_get(&console);
    if (c < 0) {
        mp_handle_pending(true);
        board_idle(MAX_SLEEP_MS);
    }
    return c;
}

uintptr_t __wrap_mp_hal_stdio_poll(uintptr_t flags) {
    board_poll();
    uintptr_t ready = flags & MP_STREAM_POLL_WR;
    if (ringbuf_avail(&console) > 0) {
        ready |= flags & MP_STREAM_POLL_RD;
    }
    return ready;
}

// ---------------------------------------------------------------------------------------------
// Time.

static uint64_t mtime(void) {
    uint32_t high, low;
    do {
        high = REGISTER32(MTIME + 4);
        low = REGISTER32(MTIME);
    } while (high != REGISTER32(MTIME + 4));
    return (uint64_t)high << 32 | low;
}

// Sleep until something is received, `timeout_ms` (and MAX_SLEEP_MS) at most; the host's processor
// is free then.
void board_idle(uint32_t timeout_ms) {
    uint64_t end = mtime() + MIN(timeout_ms, MAX_SLEEP_MS) * 1000 * TICKS_PER_US;
    REGISTER32(MTIMECMP + 4) = UINT32_MAX;
    REGISTER32(MTIMECMP) = (uint32_t)end;
    REGISTER32(MTIMECMP + 4) = end >> 32;
    __asm volatile ("wfi");
    board_poll();
}

mp_uint_t mp_hal_ticks_us(void) {
    return mtime() / TICKS_PER_US;
}

mp_uint_t mp_hal_ticks_ms(void) {
    return mtime() / (1000 * TICKS_PER_US);
}

mp_uint_t mp_hal_ticks_cpu(void) {
    return mtime();
}

uint64_t mp_hal_time_ns(void) {
    uint32_t low = REGISTER32(RTC_LOW);
    return (uint64_t)REGISTER32(RTC_HIGH) << 32 | low;
}

void mp_hal_delay_us(mp_uint_t us) {
    for (uint64_t end = mtime() + (uint64_t)us * TICKS_PER_US; mtime() < end;) {
    }
}

void mp_hal_delay_ms(mp_uint_t ms) {
    for (uint64_t end = mtime() + (uint64_t)ms * 1000 * TICKS_PER_US; mtime() < end;) {
        mp_event_wait_ms(1);
    }
}

// Mbed TLS: validity of certificates.
time_t board_unix_time(time_t *destination) {
    time_t now = mp_hal_time_ns() / 1000000000;
    if (destination != NULL) {
        *destination = now;
    }
    return now;
}

mbedtls_ms_time_t mbedtls_ms_time(void) {
    return mtime() / (1000 * TICKS_PER_US);
}

struct tm *mbedtls_platform_gmtime_r(const mbedtls_time_t *time, struct tm *result) {
    timeutils_struct_time_t found;
    timeutils_seconds_since_epoch_to_struct_time(
        timeutils_seconds_since_epoch_from_nanoseconds_since_1970((uint64_t)*time * 1000000000), &found);
    result->tm_year = found.tm_year - 1900;
    result->tm_mon = found.tm_mon - 1;
    result->tm_mday = found.tm_mday;
    result->tm_hour = found.tm_hour;
    result->tm_min = found.tm_min;
    result->tm_sec = found.tm_sec;
    return result;
}

// ---------------------------------------------------------------------------------------------
// Random numbers. TEST FIRMWARE ONLY: a FIXED SEED, no entropy at all.

uint32_t board_random_word(void) {
    // xorshift32 (Marsaglia 2003)
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

void board_random(uint8_t *to, size_t length) {
    while (length-- > 0) {
        *to++ = board_random_word() >> 16;
    }
}

int mbedtls_hardware_poll(void *data, unsigned char *output, size_t length, size_t *written) {
    (void)data;
    board_random(output, length);
    *written = length;
    return 0;
}
