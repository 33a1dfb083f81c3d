// Compares the wrapped RSA public operation with Mbed TLS's own modular exponentiation.
// check COUNT SEED NTH: random and edge cases, every NTH with a modulus as long as in certificates;
// prints how many were compared and how many fell back.
#define MBEDTLS_ALLOW_PRIVATE_ACCESS
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mbedtls/bignum.h"
#include "bignum_internal.h"

int __real_mbedtls_mpi_exp_mod_unsafe(mbedtls_mpi *X, const mbedtls_mpi *A, const mbedtls_mpi *E,
    const mbedtls_mpi *N, mbedtls_mpi *RR);

static uint64_t state;

static uint64_t next(void) { // splitmix64
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void check(int result, const char *what) {
    if (result != 0) {
        printf("%s: %d\n", what, result);
        exit(2);
    }
}

// A number of exactly `bits` bits, sometimes sparse or nearly all ones, with `pad` zero bytes before.
static void number(mbedtls_mpi *x, size_t bits, size_t pad, int odd) {
    uint8_t bytes[1100] = {0};
    size_t size = (bits + 7) / 8;
    int style = next() % 6;
    for (size_t i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)next();
        bytes[pad + i] = style == 0 ? 0 : style == 1 ? 0xff : byte;
    }
    uint8_t top = 1 << ((bits - 1) % 8);
    bytes[pad] = (bytes[pad] & (top - 1)) | top;
    if (style == 0) {
        bytes[pad + next() % size] |= 1 << (next() % 8);
        bytes[pad] &= (uint8_t)(2 * top - 1);
    }
    bytes[pad + size - 1] = (bytes[pad + size - 1] & 0xfe) | (odd ? 1 : (next() & 1));
    check(mbedtls_mpi_read_binary(x, bytes, pad + size), "read");
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IONBF, 0);
    long count = argc > 1 ? atol(argv[1]) : 1000;
    state = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    long nth = argc > 3 ? atol(argv[3]) : 50;
    static const int exponents[] = {65537, 3, 17, 1, 2, 65536, 0x10001, 5};
    static const size_t sizes[] = {2, 8, 31, 32, 33, 63, 64, 65, 96, 127, 128, 160, 192, 256, 320, 384, 512};
    static const size_t large[] = {1024, 1536, 2048, 3072, 4096, 1023, 2049, 4095};
    long even = 0, aliased = 0, longs = 0;
    for (long i = 0; i < count; i++) {
        mbedtls_mpi a, e, n, x, y;
        mbedtls_mpi_init(&a);
        mbedtls_mpi_init(&e);
        mbedtls_mpi_init(&n);
        mbedtls_mpi_init(&x);
        mbedtls_mpi_init(&y);
        int is_large = i % nth == 0;
        longs += is_large;
        size_t bits = is_large ? large[next() % 8] : sizes[next() % 17];
        int odd = next() % 16 != 0;
        number(&n, bits, next() % 3 == 0 ? next() % 12 : 0, odd);
        even += !mbedtls_mpi_get_bit(&n, 0);
        switch (next() % 8) {
            case 0: // N - 1
                check(mbedtls_mpi_sub_int(&a, &n, 1), "sub");
                break;
            case 1:
                check(mbedtls_mpi_lset(&a, (int)(next() % 3)), "lset"); // 0, 1, 2
                break;
            case 2: // at or above N
                check(mbedtls_mpi_add_int(&a, &n, (int)(next() % 3)), "add");
                break;
            case 3: // negative
                number(&a, bits, 0, 0);
                a.s = -1;
                break;
            default:
                number(&a, bits, next() % 4 ? 0 : next() % 20, 0);
                check(mbedtls_mpi_mod_mpi(&a, &a, &n), "mod");
        }
        if (next() % 20 == 0 && !is_large) {
            number(&e, 1 + next() % 96, 0, 0);
        } else {
            check(mbedtls_mpi_lset(&e, exponents[next() % 8]), "lset");
        }
        int expected = mbedtls_mpi_exp_mod(&x, &a, &e, &n, NULL);
        int got;
        // Mbed TLS itself forgets the sign of a negative number when the result overwrites it.
        if (a.s == 1 && next() % 2) {
            aliased += 1;
            got = mbedtls_mpi_exp_mod_unsafe(&a, &a, &e, &n, NULL);
            mbedtls_mpi_swap(&y, &a);
        } else {
            if (next() % 2) {
                number(&y, 1 + next() % 5000, 0, 0); // whatever was in it before
            }
            got = mbedtls_mpi_exp_mod_unsafe(&y, &a, &e, &n, NULL);
        }
        if (expected != got || (expected == 0 && mbedtls_mpi_cmp_mpi(&x, &y) != 0)) {
            printf("case %ld differs: %zu bits, results %d and %d\n", i, bits, expected, got);
            return 1;
        }
        mbedtls_mpi_free(&a);
        mbedtls_mpi_free(&e);
        mbedtls_mpi_free(&n);
        mbedtls_mpi_free(&x);
        mbedtls_mpi_free(&y);
    }
    printf("%ld equal, %ld even moduli, %ld aliased, %ld long\n", count, even, aliased, longs);
    return 0;
}
