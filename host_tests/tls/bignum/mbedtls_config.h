// Just enough of Mbed TLS for the bignum library.
#define MBEDTLS_BIGNUM_C
#define MBEDTLS_PLATFORM_C
