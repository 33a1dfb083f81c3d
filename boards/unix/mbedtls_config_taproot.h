// Mbed TLS of the host variant: MicroPython's own configuration plus what ESP-IDF's has and
// MicroPython's lacks, so that a handshake here costs what it costs on the device.
//
// Switches (all set by tools/setup/builds.py, one build folder per combination):
//   TAPROOT_IN_CONTENT_LEN=n      largest record received   (default 16384)
//   TAPROOT_OUT_CONTENT_LEN=n     largest record sent       (default 4096)
//   TAPROOT_NO_VARIABLE_BUFFER    buffers keep their full size after the handshake
//   TAPROOT_NO_MFL                no max_fragment_length extension: such a server ignores it
//   TAPROOT_NO_TICKETS            no session tickets
//   TAPROOT_NO_CA_CALLBACK        no trusted certificate callback: roots are loaded, not asked for
//   TAPROOT_PLAIN_ECP             curves as MicroPython has them, to measure the difference
//   TAPROOT_KEEP_PEER             keep the peer certificate (ESP-IDF 5.x default)
#ifndef TAPROOT_MBEDTLS_CONFIG_H
#define TAPROOT_MBEDTLS_CONFIG_H

// TLS memory comes from the MicroPython heap, as on a bare board.
#define MICROPY_MBEDTLS_CONFIG_BARE_METAL (1)

#define MBEDTLS_CIPHER_MODE_CTR // cryptolib's CTR mode
#define MBEDTLS_TIMING_C

#include "extmod/mbedtls/mbedtls_config_common.h"

// Bare metal memory, but the host's entropy.
#undef MBEDTLS_ENTROPY_HARDWARE_ALT
#undef MBEDTLS_NO_PLATFORM_ENTROPY

// Only the two curves a hub uses. NIST_OPTIM (default in ESP-IDF) takes a full handshake to about
// a third of the instructions; window 3 trades little speed for a smaller peak.
#ifndef TAPROOT_PLAIN_ECP
#undef MBEDTLS_ECP_DP_SECP192R1_ENABLED
#undef MBEDTLS_ECP_DP_SECP224R1_ENABLED
#undef MBEDTLS_ECP_DP_SECP521R1_ENABLED
#undef MBEDTLS_ECP_DP_SECP192K1_ENABLED
#undef MBEDTLS_ECP_DP_SECP224K1_ENABLED
#undef MBEDTLS_ECP_DP_SECP256K1_ENABLED
#define MBEDTLS_ECP_NIST_OPTIM
#define MBEDTLS_ECP_WINDOW_SIZE 3
#endif

// One hash for the entropy pool and most handshakes, in its fast form (ESP-IDF has it in hardware):
// a resumed handshake is little else than hashing. TAPROOT_PLAIN_ECP keeps MicroPython's choice.
#ifndef TAPROOT_PLAIN_ECP
#define MBEDTLS_ENTROPY_FORCE_SHA256
#undef MBEDTLS_SHA256_SMALLER
#endif

// Always on in ESP-IDF, absent from MicroPython's configuration.
#define MBEDTLS_SSL_EXTENDED_MASTER_SECRET
#define MBEDTLS_SSL_ENCRYPT_THEN_MAC
#define MBEDTLS_BASE64_C
#define MBEDTLS_PEM_PARSE_C
#define MBEDTLS_PKCS1_V21 // tlsopt.verify: PS256

#ifndef TAPROOT_NO_MFL
#define MBEDTLS_SSL_MAX_FRAGMENT_LENGTH
#endif

#ifndef TAPROOT_NO_VARIABLE_BUFFER
#define MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH
#endif

#ifndef TAPROOT_NO_TICKETS
#define MBEDTLS_SSL_SESSION_TICKETS
#endif

#ifndef TAPROOT_NO_CA_CALLBACK
#define MBEDTLS_X509_TRUSTED_CERTIFICATE_CALLBACK
#endif

#ifdef TAPROOT_KEEP_PEER
#define MBEDTLS_SSL_KEEP_PEER_CERTIFICATE
#endif

#ifdef TAPROOT_IN_CONTENT_LEN
#undef MBEDTLS_SSL_IN_CONTENT_LEN
#define MBEDTLS_SSL_IN_CONTENT_LEN (TAPROOT_IN_CONTENT_LEN)
#endif

#ifdef TAPROOT_OUT_CONTENT_LEN
#undef MBEDTLS_SSL_OUT_CONTENT_LEN
#define MBEDTLS_SSL_OUT_CONTENT_LEN (TAPROOT_OUT_CONTENT_LEN)
#endif

#endif // TAPROOT_MBEDTLS_CONFIG_H
