// tlsopt: what MicroPython's tls module lacks and a small device needs from Mbed TLS.
// This file: the build's constants and the proof (HOOKED) that the linker put the hooks in.
#include "py/mperrno.h"
#include "py/obj.h"
#include "py/objstr.h"
#include "py/runtime.h"

#include "mbedtls/ssl.h"
#include "mbedtls/version.h"

static bool config_defaults_ran;
static bool set_bio_ran;
static size_t ssl_offset; // of the TLS context in an SSLSocket, learned from the first set_bio

int __real_mbedtls_ssl_config_defaults(mbedtls_ssl_config *conf, int endpoint, int transport, int preset);
int __wrap_mbedtls_ssl_config_defaults(mbedtls_ssl_config *conf, int endpoint, int transport, int preset);
int __wrap_mbedtls_ssl_config_defaults(mbedtls_ssl_config *conf, int endpoint, int transport, int preset) {
    config_defaults_ran = true;
    return __real_mbedtls_ssl_config_defaults(conf, endpoint, transport, preset);
}

void __real_mbedtls_ssl_set_bio(mbedtls_ssl_context *ssl, void *p_bio, mbedtls_ssl_send_t *f_send,
    mbedtls_ssl_recv_t *f_recv, mbedtls_ssl_recv_timeout_t *f_recv_timeout);
void __wrap_mbedtls_ssl_set_bio(mbedtls_ssl_context *ssl, void *p_bio, mbedtls_ssl_send_t *f_send,
    mbedtls_ssl_recv_t *f_recv, mbedtls_ssl_recv_timeout_t *f_recv_timeout);
void __wrap_mbedtls_ssl_set_bio(mbedtls_ssl_context *ssl, void *p_bio, mbedtls_ssl_send_t *f_send,
    mbedtls_ssl_recv_t *f_recv, mbedtls_ssl_recv_timeout_t *f_recv_timeout) {
    set_bio_ran = true;
    // modtls passes &socket->sock, which sits directly before the TLS context; the two words
    // before it are the type and the SSLContext.
    ssl_offset = (size_t)ssl - ((size_t)p_bio - 2 * sizeof(void *));
    __real_mbedtls_ssl_set_bio(ssl, p_bio, f_send, f_recv, f_recv_timeout);
}

// HOOKED changes while the program runs, so it cannot sit in the constant table.
void tlsopt_attr(mp_obj_t self, qstr attribute, mp_obj_t *destination);
void tlsopt_attr(mp_obj_t self, qstr attribute, mp_obj_t *destination) {
    (void)self;
    if (attribute == MP_QSTR_HOOKED && destination[0] == MP_OBJ_NULL) {
        destination[0] = mp_obj_new_bool(config_defaults_ran && set_bio_ran);
    }
}

// established(sock) -> bool: the handshake is over. Raises OSError(EBADF) on a closed socket.
static mp_obj_t tlsopt_established(mp_obj_t socket) {
    if (mp_obj_get_type(socket)->name != MP_QSTR_SSLSocket || ssl_offset == 0) {
        mp_raise_TypeError(MP_ERROR_TEXT("not an SSLSocket"));
    }
    mbedtls_ssl_context *ssl = (mbedtls_ssl_context *)((char *)MP_OBJ_TO_PTR(socket) + ssl_offset);
    if (ssl->MBEDTLS_PRIVATE(conf) == NULL) {
        mp_raise_OSError(MP_EBADF);
    }
    return mp_obj_new_bool(mbedtls_ssl_is_handshake_over(ssl));
}
static MP_DEFINE_CONST_FUN_OBJ_1(tlsopt_established_obj, tlsopt_established);

static MP_DEFINE_STR_OBJ(tlsopt_version, MBEDTLS_VERSION_STRING);

static const mp_rom_map_elem_t tlsopt_globals_table[] = {
    { MP_ROM_QSTR(MP_QSTR___name__), MP_ROM_QSTR(MP_QSTR_tlsopt) },
    { MP_ROM_QSTR(MP_QSTR_established), MP_ROM_PTR(&tlsopt_established_obj) },
    { MP_ROM_QSTR(MP_QSTR_IN_CONTENT_LEN), MP_ROM_INT(MBEDTLS_SSL_IN_CONTENT_LEN) },
    { MP_ROM_QSTR(MP_QSTR_OUT_CONTENT_LEN), MP_ROM_INT(MBEDTLS_SSL_OUT_CONTENT_LEN) },
    #if defined(MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH)
    { MP_ROM_QSTR(MP_QSTR_VARIABLE_BUFFER), MP_ROM_TRUE },
    #else
    { MP_ROM_QSTR(MP_QSTR_VARIABLE_BUFFER), MP_ROM_FALSE },
    #endif
    #if defined(MBEDTLS_SSL_KEEP_PEER_CERTIFICATE)
    { MP_ROM_QSTR(MP_QSTR_KEEP_PEER_CERTIFICATE), MP_ROM_TRUE },
    #else
    { MP_ROM_QSTR(MP_QSTR_KEEP_PEER_CERTIFICATE), MP_ROM_FALSE },
    #endif
    { MP_ROM_QSTR(MP_QSTR_MBEDTLS_VERSION), MP_ROM_PTR(&tlsopt_version) },
};
static MP_DEFINE_CONST_DICT(tlsopt_globals, tlsopt_globals_table);

const mp_obj_module_t tlsopt_module = {
    .base = { &mp_type_module },
    .globals = (mp_obj_dict_t *)&tlsopt_globals,
};

MP_REGISTER_MODULE(MP_QSTR_tlsopt, tlsopt_module);
MP_REGISTER_MODULE_DELEGATION(tlsopt_module, tlsopt_attr);
