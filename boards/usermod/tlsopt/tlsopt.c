// tlsopt: what MicroPython's tls module lacks and a small device needs from Mbed TLS.
// This file: the build's constants and the proof (HOOKED) that the linker put the hooks in.
#include "py/obj.h"
#include "py/objstr.h"
#include "py/runtime.h"

#include "mbedtls/ssl.h"
#include "mbedtls/version.h"

static bool config_defaults_ran;
static bool set_bio_ran;

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

static MP_DEFINE_STR_OBJ(tlsopt_version, MBEDTLS_VERSION_STRING);

static const mp_rom_map_elem_t tlsopt_globals_table[] = {
    { MP_ROM_QSTR(MP_QSTR___name__), MP_ROM_QSTR(MP_QSTR_tlsopt) },
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
