// tlsbignum: the RSA public operation with less heap, where Mbed TLS does it in software.
//
// Mbed TLS finds R^2 mod N by a long division and keeps a table of powers: 10 KB for a 4096-bit
// key, which is what sets the peak of a handshake. Here R^2 comes from doublings and Montgomery
// squarings, and the power from square-and-multiply, in one block of 3n+1 limbs. For the exponent
// 65537 that is also less work.
//
// Only mbedtls_mpi_exp_mod_unsafe is wrapped (by the linker), whose one caller outside the bignum
// library is the RSA public operation. Signatures, keys of certificates and exponents are public,
// so nothing here needs constant time. Private operations do not come this way. Anything unusual
// goes to the real function. See firmware/docs/adr for why this exists and when not to link it:
// never where the chip multiplies big numbers in hardware (ESP32 with CONFIG_MBEDTLS_HARDWARE_MPI).

#define MBEDTLS_ALLOW_PRIVATE_ACCESS

#include <string.h>

#include "mbedtls/bignum.h"
#include "mbedtls/platform.h"
#include "mbedtls/version.h"

// Internal header: this file knows the inside of the bignum library.
#include "bignum_core.h"

#if MBEDTLS_VERSION_NUMBER < 0x03060000 || MBEDTLS_VERSION_NUMBER >= 0x03070000
#error "tlsbignum is checked against Mbed TLS 3.6 alone: build without TLSBIGNUM"
#endif
#if defined(ESP_PLATFORM) || defined(MBEDTLS_MPI_EXP_MOD_ALT)
#error "tlsbignum would bypass the hardware: build without TLSBIGNUM"
#endif

#define LIMB_BITS (8 * sizeof(mbedtls_mpi_uint))

int __real_mbedtls_mpi_exp_mod_unsafe(mbedtls_mpi *X, const mbedtls_mpi *A, const mbedtls_mpi *E,
    const mbedtls_mpi *N, mbedtls_mpi *prec_RR);
int __wrap_mbedtls_mpi_exp_mod_unsafe(mbedtls_mpi *X, const mbedtls_mpi *A, const mbedtls_mpi *E,
    const mbedtls_mpi *N, mbedtls_mpi *prec_RR);

static size_t used_limbs(const mbedtls_mpi *x) {
    size_t n = x->n;
    while (n > 0 && x->p[n - 1] == 0) {
        n--;
    }
    return n;
}

// x = 2x mod N, for x < N. `scratch` holds n limbs.
static void double_mod(mbedtls_mpi_uint *x, const mbedtls_mpi_uint *modulus, size_t n,
    mbedtls_mpi_uint *scratch) {
    mbedtls_mpi_uint carry = 0;
    for (size_t i = 0; i < n; i++) {
        mbedtls_mpi_uint next = x[i] >> (LIMB_BITS - 1);
        x[i] = (x[i] << 1) | carry;
        carry = next;
    }
    mbedtls_mpi_uint borrow = mbedtls_mpi_core_sub(scratch, x, modulus, n);
    if (carry || !borrow) {
        memcpy(x, scratch, n * sizeof(*x));
    }
}

// rr = R^2 mod N with R = 2^(n * LIMB_BITS): 2^k R mod N doubles its k by each Montgomery squaring.
static void montgomery_square_of_radix(mbedtls_mpi_uint *rr, const mbedtls_mpi_uint *modulus,
    size_t n, mbedtls_mpi_uint mm, mbedtls_mpi_uint *scratch) {
    size_t bits = mbedtls_mpi_core_bitlen(modulus, n);
    size_t radix_bits = n * LIMB_BITS;
    memset(rr, 0, n * sizeof(*rr));
    rr[(bits - 1) / LIMB_BITS] = (mbedtls_mpi_uint)1 << ((bits - 1) % LIMB_BITS); // below N
    for (size_t i = bits - 1; i < radix_bits; i++) {
        double_mod(rr, modulus, n, scratch); // ends with R mod N
    }
    size_t odd = radix_bits;
    size_t squarings = 0;
    while ((odd & 1) == 0) {
        odd >>= 1;
        squarings++;
    }
    for (size_t i = 0; i < odd; i++) {
        double_mod(rr, modulus, n, scratch);
    }
    for (size_t i = 0; i < squarings; i++) {
        mbedtls_mpi_core_montmul(rr, rr, rr, n, modulus, n, mm, scratch);
    }
}

int __wrap_mbedtls_mpi_exp_mod_unsafe(mbedtls_mpi *X, const mbedtls_mpi *A, const mbedtls_mpi *E,
    const mbedtls_mpi *N, mbedtls_mpi *prec_RR) {
    size_t n = used_limbs(N);
    size_t a_limbs = used_limbs(A);
    size_t e_bits = mbedtls_mpi_bitlen(E);
    if (n == 0 || N->s != 1 || (N->p[0] & 1) == 0 || (n == 1 && N->p[0] == 1)
        || A->s != 1 || a_limbs == 0 || E->s != 1 || e_bits == 0
        || mbedtls_mpi_cmp_mpi(A, N) >= 0 || X == N || X == E) {
        return __real_mbedtls_mpi_exp_mod_unsafe(X, A, E, N, prec_RR);
    }

    mbedtls_mpi_uint *base = mbedtls_calloc(3 * n + 1, sizeof(mbedtls_mpi_uint));
    if (base == NULL) {
        return MBEDTLS_ERR_MPI_ALLOC_FAILED;
    }
    mbedtls_mpi_uint *scratch = base + n; // 2n+1 limbs
    mbedtls_mpi_uint mm = mbedtls_mpi_core_montmul_init(N->p);

    montgomery_square_of_radix(base, N->p, n, mm, scratch);
    mbedtls_mpi_core_montmul(base, base, A->p, a_limbs, N->p, n, mm, scratch);

    // From here A is not needed, so X may be the same number.
    int result = mbedtls_mpi_grow(X, n);
    if (result == 0) {
        memset(X->p, 0, X->n * sizeof(mbedtls_mpi_uint));
        memcpy(X->p, base, n * sizeof(mbedtls_mpi_uint));
        X->s = 1;
        for (size_t i = e_bits - 1; i-- > 0;) {
            mbedtls_mpi_core_montmul(X->p, X->p, X->p, n, N->p, n, mm, scratch);
            if (mbedtls_mpi_get_bit(E, i)) {
                mbedtls_mpi_core_montmul(X->p, X->p, base, n, N->p, n, mm, scratch);
            }
        }
        mbedtls_mpi_core_from_mont_rep(X->p, X->p, N->p, n, mm, scratch);
    }
    mbedtls_free(base);
    return result;
}
