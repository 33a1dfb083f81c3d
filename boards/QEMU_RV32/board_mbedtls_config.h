// Mbed TLS of the emulated board: the host variant's, with the record buffers of the ESP32 boards,
// the board's clock, and random numbers from a fixed seed (TEST FIRMWARE ONLY, see board.c).
#ifndef BOARD_MBEDTLS_CONFIG_H
#define BOARD_MBEDTLS_CONFIG_H

#include <time.h>

#define TAPROOT_IN_CONTENT_LEN 4096
#define TAPROOT_OUT_CONTENT_LEN 2048
#include "../unix/mbedtls_config_taproot.h"

#undef MBEDTLS_TIMING_C
#define MBEDTLS_ENTROPY_HARDWARE_ALT
#define MBEDTLS_NO_PLATFORM_ENTROPY

time_t board_unix_time(time_t *destination);
#define MBEDTLS_PLATFORM_TIME_MACRO board_unix_time
#define MBEDTLS_PLATFORM_MS_TIME_ALT
#define MBEDTLS_PLATFORM_GMTIME_R_ALT

#endif // BOARD_MBEDTLS_CONFIG_H
