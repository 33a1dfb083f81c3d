// tlsopt: what MicroPython's tls module lacks and a small device needs from Mbed TLS.
//
// max_fragment_length per context and whether the server acknowledged it, session resumption,
// roots on demand, native signature verification, a count of failed allocations.
//
// Theory of operation. No source of MicroPython or Mbed TLS is changed: four functions that modtls
// calls are wrapped by the linker (the fourth, mbedtls_ssl_free, for a fault of Mbed TLS).
// - mbedtls_ssl_config_defaults runs inside SSLContext(...) and gets the configuration embedded
//   in that object. Its offset in the object is constant per build and is learned there; a small
//   state (below) hangs on the configuration's user data, so nothing is kept in tables.
// - mbedtls_ssl_set_bio runs inside wrap_socket, after setup and before the handshake. It learns
//   the offset of the TLS context in SSLSocket, offers a saved session, and puts a watcher between
//   Mbed TLS and the socket. The watcher looks at the records of the server's first flight as they
//   pass, notes what it says, and takes itself out before the first encrypted record.
// - mbedtls_ssl_conf_own_cert runs inside load_cert_chain. It learns where the context keeps the
//   device's certificates and key, so that both can be given back once the handshake is over.
//
// Objects are recognised by their type pointer, never by a name: a Python class may have any name.

#define MBEDTLS_ALLOW_PRIVATE_ACCESS

#include <string.h>

#include "py/gc.h"
#include "py/mperrno.h"
#include "py/obj.h"
#include "py/objmodule.h"
#include "py/objstr.h"
#include "py/objtuple.h"
#include "py/runtime.h"

#include "mbedtls/platform.h"
#include "mbedtls/platform_util.h"
#include "mbedtls/rsa.h"
#include "mbedtls/ssl.h"
#include "mbedtls/version.h"
#include "mbedtls/x509_crt.h"

#if MBEDTLS_VERSION_NUMBER < 0x03000000 || MBEDTLS_VERSION_NUMBER >= 0x04000000
#error "tlsopt is written for Mbed TLS 3"
#endif

#ifndef TLSOPT_TRACK
#define TLSOPT_TRACK (0)
#endif

extern const mp_obj_module_t mp_module_tls;

// What hangs on a client configuration. A GC object, kept alive by the SSLContext around it.
typedef struct _state_t {
    mp_obj_t finder; // callable: issuer name -> root certificates; MP_OBJ_NULL without
    mp_obj_t session; // bytes, offered to the next socket; MP_OBJ_NULL without
    mbedtls_x509_crt *own_cert; // inside the SSLContext; NULL without a credential
    mbedtls_pk_context *own_key;
    uint32_t certificate; // size of the server's Certificate message, 0 when none came
    uint32_t message; // size of its largest handshake message in the clear
    uint16_t record; // size of its largest record in the clear
    uint16_t alert; // 1 + number of the alert it sent in the clear, 0 without
    uint8_t first; // the first byte it sent: 22 or 21 for TLS, text for a captive portal
    bool used; // a socket was made: the configuration must not change any more
} state_t;

// Kept in ssl.user_data, which modtls leaves alone.
#define SEEN_MFL_MASK (7) // 0 unknown, 1 none, 2..5 the RFC 6066 code plus one
#define SEEN_CERTIFICATE (8)
#define SEEN_CHANGE_CIPHER (16)

static size_t conf_offset; // of the mbedtls_ssl_config in an SSLContext
static size_t ssl_offset; // of the mbedtls_ssl_context in an SSLSocket
static const mp_obj_type_t *socket_type;
static bool config_defaults_ran;
static bool set_bio_ran;
#if defined(MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH)
static size_t buffer_overhead; // of a record buffer beyond its contents
#endif

// ---------------------------------------------------------------------------------------------
// Failed allocations, and on host builds exact figures.

static volatile mp_uint_t failed_allocs;

#if TLSOPT_TRACK
// Mbed TLS allocates from the MicroPython heap (MICROPY_MBEDTLS_CONFIG_BARE_METAL).
typedef struct _node_t {
    struct _node_t *prev;
    struct _node_t *next;
    uint8_t data[];
} node_t; // as in py/malloc.c

static struct {
    size_t current, peak, largest, count;
    bool stale; // freed by the collector itself, which hides sizes while it sweeps
    size_t fail_at; // test aid: this many allocations from now one fails; 0 = off
} tracked;

void *__real_m_tracked_calloc(size_t count, size_t size);
void __real_m_tracked_free(void *data);
void *__wrap_m_tracked_calloc(size_t count, size_t size);
void __wrap_m_tracked_free(void *data);

static void tracked_recount(void) {
    tracked.current = 0;
    for (node_t *node = (node_t *)MP_STATE_VM(m_tracked_head); node != NULL; node = node->next) {
        tracked.current += gc_nbytes(node);
    }
    tracked.stale = false;
}

void *__wrap_m_tracked_calloc(size_t count, size_t size) {
    bool fail = tracked.fail_at != 0 && --tracked.fail_at == 0;
    void *data = fail ? NULL : __real_m_tracked_calloc(count, size);
    if (data == NULL) {
        failed_allocs += 1;
        return NULL;
    }
    size_t bytes = gc_nbytes((uint8_t *)data - sizeof(node_t));
    if (tracked.stale) {
        tracked_recount();
    } else {
        tracked.current += bytes;
    }
    tracked.count += 1;
    tracked.peak = MAX(tracked.peak, tracked.current);
    tracked.largest = MAX(tracked.largest, bytes);
    return data;
}

void __wrap_m_tracked_free(void *data) {
    if (data != NULL) {
        size_t bytes = gc_nbytes((uint8_t *)data - sizeof(node_t));
        if (bytes == 0) {
            tracked.stale = true;
        }
        tracked.current -= MIN(bytes, tracked.current);
    }
    __real_m_tracked_free(data);
}

// mem([reset]) -> (bytes held, peak, largest block, number of allocations) of Mbed TLS
static mp_obj_t tlsopt_mem(size_t n_args, const mp_obj_t *args) {
    if (tracked.stale) {
        tracked_recount();
    }
    mp_obj_t items[4] = {
        mp_obj_new_int_from_uint(tracked.current),
        mp_obj_new_int_from_uint(tracked.peak),
        mp_obj_new_int_from_uint(tracked.largest),
        mp_obj_new_int_from_uint(tracked.count),
    };
    if (n_args > 0 && mp_obj_is_true(args[0])) {
        tracked.peak = tracked.current;
        tracked.largest = 0;
        tracked.count = 0;
    }
    return mp_obj_new_tuple(4, items);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(tlsopt_mem_obj, 0, 1, tlsopt_mem);

// fail_alloc(n): let the n-th allocation of Mbed TLS from now fail; 0 switches it off
static mp_obj_t tlsopt_fail_alloc(mp_obj_t n) {
    tracked.fail_at = mp_obj_get_int(n);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(tlsopt_fail_alloc_obj, tlsopt_fail_alloc);
#endif // TLSOPT_TRACK

#if defined(ESP_PLATFORM)
#include "esp_attr.h"
#include "esp_heap_caps.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"

extern TaskHandle_t mp_main_task_handle;
extern void *esp_mbedtls_mem_calloc(size_t count, size_t size);
extern void esp_mbedtls_mem_free(void *data);

#if defined(MBEDTLS_PLATFORM_MEMORY) && !defined(MBEDTLS_PLATFORM_CALLOC_MACRO)
static void *counting_calloc(size_t count, size_t size) {
    void *data = esp_mbedtls_mem_calloc(count, size);
    if (data == NULL) {
        failed_allocs += 1;
    }
    return data;
}
#endif

// Called for every failed allocation of the IDF heap, by any task, perhaps in an interrupt. It
// sees what the counting calloc does not: drivers of the crypto hardware allocate directly.
static void IRAM_ATTR heap_failed(size_t size, uint32_t caps, const char *function) {
    (void)size;
    (void)caps;
    (void)function;
    if (xTaskGetCurrentTaskHandle() == mp_main_task_handle) {
        failed_allocs += 1;
    }
}
#endif // ESP_PLATFORM

// failed_allocs() -> small int; allocates nothing
static mp_obj_t tlsopt_failed_allocs(void) {
    return MP_OBJ_NEW_SMALL_INT(failed_allocs & 0x3fffffff);
}
static MP_DEFINE_CONST_FUN_OBJ_0(tlsopt_failed_allocs_obj, tlsopt_failed_allocs);

// ---------------------------------------------------------------------------------------------
// Objects.

static const mp_obj_type_t *context_type(void) {
    static const mp_obj_type_t *found;
    if (found == NULL) {
        mp_map_elem_t *elem = mp_map_lookup(&mp_module_tls.globals->map,
            MP_OBJ_NEW_QSTR(MP_QSTR_SSLContext), MP_MAP_LOOKUP);
        found = elem == NULL ? NULL : MP_OBJ_TO_PTR(elem->value);
    }
    return found;
}

// The head of the GC block that holds `inner`, NULL if it is not one of at least `size` bytes.
static void *block_head(const void *inner, size_t size) {
    uint8_t *at = (uint8_t *)((uintptr_t)inner & ~(uintptr_t)(MICROPY_BYTES_PER_GC_BLOCK - 1));
    // An SSLContext is about 2 KB of which the entropy state before conf takes most.
    for (size_t i = 0; i < 4096 / MICROPY_BYTES_PER_GC_BLOCK; i++) {
        size_t bytes = gc_nbytes(at);
        if (bytes != 0) {
            return (const uint8_t *)inner + size <= at + bytes ? at : NULL;
        }
        at -= MICROPY_BYTES_PER_GC_BLOCK;
    }
    return NULL;
}

static bool has_type(const void *object, const mp_obj_type_t *type) {
    return object != NULL && type != NULL && ((const mp_obj_base_t *)object)->type == type;
}

static mbedtls_ssl_config *config_of(mp_obj_t context) {
    if (!mp_obj_is_obj(context) || !has_type(MP_OBJ_TO_PTR(context), context_type())) {
        mp_raise_TypeError(MP_ERROR_TEXT("tls.SSLContext expected"));
    }
    if (conf_offset == 0) {
        mp_raise_msg(&mp_type_RuntimeError, MP_ERROR_TEXT("tlsopt is not hooked"));
    }
    return (mbedtls_ssl_config *)((uint8_t *)MP_OBJ_TO_PTR(context) + conf_offset);
}

static state_t *state_of(mp_obj_t context) {
    state_t *state = mbedtls_ssl_conf_get_user_data_p(config_of(context));
    if (state == NULL) {
        mp_raise_ValueError(MP_ERROR_TEXT("not a client context, or closed"));
    }
    return state;
}

static mbedtls_ssl_context *ssl_of(mp_obj_t socket) {
    if (socket_type == NULL && mp_obj_get_type(socket)->name == MP_QSTR_SSLSocket) {
        mp_raise_msg(&mp_type_RuntimeError, MP_ERROR_TEXT("tlsopt is not hooked"));
    }
    if (!mp_obj_is_obj(socket) || !has_type(MP_OBJ_TO_PTR(socket), socket_type)) {
        mp_raise_TypeError(MP_ERROR_TEXT("SSLSocket expected"));
    }
    mbedtls_ssl_context *ssl = (mbedtls_ssl_context *)((uint8_t *)MP_OBJ_TO_PTR(socket) + ssl_offset);
    if (ssl->conf == NULL) {
        mp_raise_OSError(MP_EBADF);
    }
    return ssl;
}

// ---------------------------------------------------------------------------------------------
// The watcher: follows the server's records while they are in the clear (RFC 5246 sections 6.2.1,
// 7.2, 7.4; RFC 6066 section 4). It buffers nothing and reads nothing of its own.

enum { CHANGE_CIPHER = 20, ALERT = 21, HANDSHAKE = 22 };
enum { SERVER_HELLO = 2, CERTIFICATE = 11 };

typedef struct _watcher_t {
    mbedtls_ssl_context *ssl;
    void *p_bio;
    mbedtls_ssl_send_t *f_send;
    mbedtls_ssl_recv_t *f_recv;
    state_t *state;
    uint32_t message_left; // of the present handshake message
    uint16_t record_left; // of the present record
    uint16_t position; // in ServerHello
    uint16_t extension_left;
    uint8_t extension[4];
    uint8_t record[5];
    uint8_t message[4];
    uint8_t extension_have, record_have, message_have;
    uint8_t session_id;
    bool done;
} watcher_t;

static void note(watcher_t *self, uintptr_t bits) {
    mbedtls_ssl_set_user_data_n(self->ssl, mbedtls_ssl_get_user_data_n(self->ssl) | bits);
}

static bool mfl_known(watcher_t *self) {
    return mbedtls_ssl_get_user_data_n(self->ssl) & SEEN_MFL_MASK;
}

static void watch_hello(watcher_t *self, uint8_t byte) {
    // version 2, random 32, session id 1 + n, suite 2, compression 1, size of extensions 2
    size_t at = self->position++;
    if (at == 34) {
        self->session_id = byte;
    }
    if (at < 35 || at < (size_t)35 + self->session_id + 5) {
        return;
    }
    if (self->extension_left == 0) {
        self->extension[self->extension_have++] = byte;
        if (self->extension_have == 4) {
            self->extension_have = 0;
            self->extension_left = self->extension[2] << 8 | self->extension[3];
        }
        return;
    }
    self->extension_left -= 1;
    if (self->extension[0] == 0 && self->extension[1] == 1 && !mfl_known(self)) {
        note(self, byte >= 1 && byte <= 4 ? byte + 1 : 1);
    }
}

static void watch_handshake(watcher_t *self, const uint8_t *data, size_t n) {
    while (n > 0) {
        if (self->message_have < 4) {
            self->message[self->message_have++] = *data++;
            n -= 1;
            if (self->message_have < 4) {
                continue;
            }
            uint32_t size = self->message[1] << 16 | self->message[2] << 8 | self->message[3];
            self->message_left = size;
            self->state->message = MAX(self->state->message, size + 4);
            if (self->message[0] == CERTIFICATE) {
                self->state->certificate = size + 4;
                note(self, SEEN_CERTIFICATE);
            }
        } else {
            size_t part = MIN(n, self->message_left);
            if (self->message[0] == SERVER_HELLO) {
                for (size_t i = 0; i < part; i++) {
                    watch_hello(self, data[i]);
                }
            }
            data += part;
            n -= part;
            self->message_left -= part;
        }
        if (self->message_left == 0) {
            self->message_have = 0;
            if (!mfl_known(self)) {
                note(self, 1); // ServerHello is over without the extension
            }
        }
    }
}

static void watch_header(watcher_t *self) {
    uint8_t type = self->record[0];
    self->record_have = 0;
    self->record_left = self->record[3] << 8 | self->record[4];
    self->state->record = MAX(self->state->record, self->record_left);
    if (type == CHANGE_CIPHER) {
        note(self, SEEN_CHANGE_CIPHER);
    }
    if (type != HANDSHAKE && type != ALERT) {
        self->done = true;
    }
}

static void watch(watcher_t *self, const uint8_t *data, size_t n) {
    if (n > 0 && self->state->first == 0) {
        self->state->first = data[0];
    }
    while (n > 0 && !self->done) {
        if (self->record_left == 0) {
            self->record[self->record_have++] = *data++;
            n -= 1;
            if (self->record_have == 5) {
                watch_header(self);
            }
            continue;
        }
        size_t part = MIN(n, self->record_left);
        self->record_left -= part;
        if (self->record[0] == HANDSHAKE) {
            watch_handshake(self, data, part);
        } else if (self->record_left == 0) {
            self->state->alert = 1 + data[part - 1]; // level, number
        }
        data += part;
        n -= part;
    }
}

static int watcher_send(void *context, const unsigned char *data, size_t size) {
    watcher_t *self = context;
    return self->f_send(self->p_bio, data, size);
}

void __real_mbedtls_ssl_set_bio(mbedtls_ssl_context *ssl, void *p_bio, mbedtls_ssl_send_t *f_send,
    mbedtls_ssl_recv_t *f_recv, mbedtls_ssl_recv_timeout_t *f_recv_timeout);
void __wrap_mbedtls_ssl_set_bio(mbedtls_ssl_context *ssl, void *p_bio, mbedtls_ssl_send_t *f_send,
    mbedtls_ssl_recv_t *f_recv, mbedtls_ssl_recv_timeout_t *f_recv_timeout);

static int watcher_recv(void *context, unsigned char *data, size_t size) {
    watcher_t *self = context;
    int n = self->f_recv(self->p_bio, data, size);
    if (n > 0) {
        watch(self, data, n);
        if (self->done) {
            // Mbed TLS reads both pointers anew for each call, so they may change here.
            __real_mbedtls_ssl_set_bio(self->ssl, self->p_bio, self->f_send, self->f_recv, NULL);
        }
    }
    return n;
}

// ---------------------------------------------------------------------------------------------
// Hooks.

int __real_mbedtls_ssl_config_defaults(mbedtls_ssl_config *conf, int endpoint, int transport, int preset);
int __wrap_mbedtls_ssl_config_defaults(mbedtls_ssl_config *conf, int endpoint, int transport, int preset);
int __wrap_mbedtls_ssl_config_defaults(mbedtls_ssl_config *conf, int endpoint, int transport, int preset) {
    int result = __real_mbedtls_ssl_config_defaults(conf, endpoint, transport, preset);
    uint8_t *head = block_head(conf, sizeof(*conf));
    if (result != 0 || !has_type(head, context_type())) {
        return result; // somebody else's configuration
    }
    config_defaults_ran = true;
    conf_offset = (uint8_t *)conf - head;
    if (endpoint == MBEDTLS_SSL_IS_CLIENT && transport == MBEDTLS_SSL_TRANSPORT_STREAM) {
        state_t *state = m_malloc_maybe(sizeof(state_t));
        if (state == NULL) {
            failed_allocs += 1; // configure() then says so; the context itself works
        } else {
            memset(state, 0, sizeof(*state));
            state->finder = MP_OBJ_NULL;
            state->session = MP_OBJ_NULL;
            mbedtls_ssl_conf_set_user_data_p(conf, state);
        }
    }
    return result;
}

int __real_mbedtls_ssl_conf_own_cert(mbedtls_ssl_config *conf, mbedtls_x509_crt *cert, mbedtls_pk_context *key);
int __wrap_mbedtls_ssl_conf_own_cert(mbedtls_ssl_config *conf, mbedtls_x509_crt *cert, mbedtls_pk_context *key);
int __wrap_mbedtls_ssl_conf_own_cert(mbedtls_ssl_config *conf, mbedtls_x509_crt *cert, mbedtls_pk_context *key) {
    state_t *state = NULL;
    if (has_type(block_head(conf, sizeof(*conf)), context_type())) {
        state = mbedtls_ssl_conf_get_user_data_p(conf);
    }
    if (state != NULL) {
        state->own_cert = cert;
        state->own_key = key;
    }
    return __real_mbedtls_ssl_conf_own_cert(conf, cert, key);
}

#if defined(MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH) || !defined(ESP_PLATFORM)
// Mbed TLS 3.6 with variable buffers: where mbedtls_ssl_setup runs out of memory after its buffers
// it forgets the configuration, and freeing the rest then reads through the null pointer.
void __real_mbedtls_ssl_free(mbedtls_ssl_context *ssl);
void __wrap_mbedtls_ssl_free(mbedtls_ssl_context *ssl);
void __wrap_mbedtls_ssl_free(mbedtls_ssl_context *ssl) {
    static const mbedtls_ssl_config none;
    if (ssl != NULL && ssl->conf == NULL && ssl->handshake != NULL) {
        ssl->conf = &none;
    }
    __real_mbedtls_ssl_free(ssl);
}
#endif

#if defined(MBEDTLS_SSL_CLI_C)
// A session that does not load (another build, damage) is left out: a full handshake follows.
static void offer_session(mbedtls_ssl_context *ssl, mp_obj_t blob) {
    mp_buffer_info_t info;
    if (!mp_get_buffer(blob, &info, MP_BUFFER_READ)) {
        return;
    }
    mbedtls_ssl_session session;
    mbedtls_ssl_session_init(&session);
    if (mbedtls_ssl_session_load(&session, info.buf, info.len) == 0) {
        (void)mbedtls_ssl_set_session(ssl, &session);
    }
    mbedtls_ssl_session_free(&session);
}
#endif

void __wrap_mbedtls_ssl_set_bio(mbedtls_ssl_context *ssl, void *p_bio, mbedtls_ssl_send_t *f_send,
    mbedtls_ssl_recv_t *f_recv, mbedtls_ssl_recv_timeout_t *f_recv_timeout) {
    __real_mbedtls_ssl_set_bio(ssl, p_bio, f_send, f_recv, f_recv_timeout);
    if (conf_offset == 0 || ssl->conf == NULL) {
        return;
    }
    uint8_t *head = block_head(ssl, sizeof(*ssl));
    const uint8_t *context = (const uint8_t *)ssl->conf - conf_offset;
    if (head == NULL || gc_nbytes(context) == 0 || !has_type(context, context_type())) {
        return; // not a socket of modtls
    }
    set_bio_ran = true;
    ssl_offset = (uint8_t *)ssl - head;
    socket_type = ((const mp_obj_base_t *)head)->type;
    #if defined(MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH)
    buffer_overhead = ssl->in_buf_len - MBEDTLS_SSL_IN_CONTENT_LEN;
    #endif
    state_t *state = ssl->conf->user_data.p;
    if (state == NULL) {
        return; // a server, or no memory for the state
    }
    state->used = true;
    state->certificate = state->message = state->record = state->alert = state->first = 0;
    #if defined(MBEDTLS_SSL_CLI_C)
    if (state->session != MP_OBJ_NULL) {
        mp_obj_t blob = state->session;
        state->session = MP_OBJ_NULL;
        offer_session(ssl, blob);
    }
    #endif
    watcher_t *watcher = m_malloc_maybe(sizeof(watcher_t));
    if (watcher == NULL) {
        return; // whether the server acknowledged stays unknown; the connection is unaffected
    }
    memset(watcher, 0, sizeof(*watcher));
    watcher->ssl = ssl;
    watcher->p_bio = p_bio;
    watcher->f_send = f_send;
    watcher->f_recv = f_recv;
    watcher->state = state;
    __real_mbedtls_ssl_set_bio(ssl, watcher, watcher_send, watcher_recv, f_recv_timeout);
}

// ---------------------------------------------------------------------------------------------
// Per context.

// configure(ctx, *, mfl=0, tickets=True): before the context's first socket
static mp_obj_t tlsopt_configure(size_t n_args, const mp_obj_t *pos_args, mp_map_t *kw_args) {
    enum { ARG_mfl, ARG_tickets };
    static const mp_arg_t allowed_args[] = {
        { MP_QSTR_mfl, MP_ARG_KW_ONLY | MP_ARG_INT, {.u_int = 0} },
        { MP_QSTR_tickets, MP_ARG_KW_ONLY | MP_ARG_BOOL, {.u_bool = true} },
    };
    mp_arg_val_t args[MP_ARRAY_SIZE(allowed_args)];
    mp_arg_parse_all(n_args - 1, pos_args + 1, kw_args, MP_ARRAY_SIZE(allowed_args), allowed_args, args);
    state_t *state = state_of(pos_args[0]);
    mbedtls_ssl_config *conf = config_of(pos_args[0]);
    if (state->used) {
        // Mbed TLS reads the fragment length at every write, of live connections too.
        mp_raise_ValueError(MP_ERROR_TEXT("context has made a socket"));
    }
    int code = 0;
    switch (args[ARG_mfl].u_int) {
        case 0:
            break;
        case 512:
            code = 1;
            break;
        case 1024:
            code = 2;
            break;
        case 2048:
            code = 3;
            break;
        case 4096:
            code = 4;
            break;
        default:
            mp_raise_ValueError(MP_ERROR_TEXT("mfl: 0, 512, 1024, 2048 or 4096"));
    }
    #if defined(MBEDTLS_SSL_MAX_FRAGMENT_LENGTH)
    if (mbedtls_ssl_conf_max_frag_len(conf, code) != 0) {
        mp_raise_ValueError(MP_ERROR_TEXT("mfl exceeds the buffers of this build"));
    }
    #else
    if (code != 0) {
        mp_raise_ValueError(MP_ERROR_TEXT("this build has no max_fragment_length"));
    }
    #endif
    #if defined(MBEDTLS_SSL_SESSION_TICKETS)
    mbedtls_ssl_conf_session_tickets(conf, args[ARG_tickets].u_bool);
    #endif
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_KW(tlsopt_configure_obj, 1, tlsopt_configure);

// offer(ctx, session): bytes of session(), for the next socket of ctx; None takes it back
static mp_obj_t tlsopt_offer(mp_obj_t context, mp_obj_t session) {
    state_t *state = state_of(context);
    if (session == mp_const_none) {
        state->session = MP_OBJ_NULL;
    } else if (mp_obj_is_type(session, &mp_type_bytes)) {
        state->session = session;
    } else {
        mp_raise_TypeError(MP_ERROR_TEXT("bytes expected"));
    }
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_2(tlsopt_offer_obj, tlsopt_offer);

// seen(ctx) -> (alert or None, Certificate message, largest message, largest record, first byte)
// of what the server of the context's last socket sent in the clear
static mp_obj_t tlsopt_seen(mp_obj_t context) {
    static const qstr fields[] = {
        MP_QSTR_alert, MP_QSTR_certificate, MP_QSTR_message, MP_QSTR_record, MP_QSTR_first,
    };
    state_t *state = state_of(context);
    mp_obj_t items[5] = {
        state->alert == 0 ? mp_const_none : MP_OBJ_NEW_SMALL_INT(state->alert - 1),
        MP_OBJ_NEW_SMALL_INT(state->certificate),
        MP_OBJ_NEW_SMALL_INT(state->message),
        MP_OBJ_NEW_SMALL_INT(state->record),
        MP_OBJ_NEW_SMALL_INT(state->first),
    };
    return mp_obj_new_attrtuple(fields, 5, items);
}
static MP_DEFINE_CONST_FUN_OBJ_1(tlsopt_seen_obj, tlsopt_seen);

#if defined(MBEDTLS_X509_TRUSTED_CERTIFICATE_CALLBACK)
// Parse what the finder gave. Returns 0 or an error of Mbed TLS, never raises.
static int parse_roots(mp_obj_t found, mbedtls_x509_crt *chain) {
    int result = 0;
    nlr_buf_t nlr;
    if (nlr_push(&nlr) == 0) {
        size_t count;
        mp_obj_t *roots;
        mp_obj_get_array(found, &count, &roots);
        for (size_t i = 0; i < count && result == 0; i++) {
            mp_buffer_info_t info;
            mp_get_buffer_raise(roots[i], &info, MP_BUFFER_READ);
            result = mbedtls_x509_crt_parse_der(chain, info.buf, info.len);
        }
        nlr_pop();
        return result;
    }
    return MBEDTLS_ERR_X509_FATAL_ERROR; // not a list, or not of bytes
}

// Mbed TLS asks this for the possible signers of `child`. Any failure ends the handshake.
static int find_roots(void *context, mbedtls_x509_crt const *child, mbedtls_x509_crt **candidates) {
    state_t *state = context;
    *candidates = NULL;
    mp_obj_t found = MP_OBJ_NULL;
    nlr_buf_t nlr;
    if (nlr_push(&nlr) == 0) {
        mp_obj_t issuer = mp_obj_new_bytes(child->issuer_raw.p, child->issuer_raw.len);
        found = mp_call_function_1(state->finder, issuer);
        if (mp_obj_len(found) == MP_OBJ_NEW_SMALL_INT(0)) {
            found = mp_const_none;
        }
        nlr_pop();
    } else {
        // An exception must not unwind through Mbed TLS, which would leak the handshake.
        mp_obj_t exc = MP_OBJ_FROM_PTR(nlr.ret_val);
        const mp_obj_type_t *type = mp_obj_get_type(exc);
        if (!mp_obj_is_subclass_fast(MP_OBJ_FROM_PTR(type), MP_OBJ_FROM_PTR(&mp_type_Exception))) {
            mp_sched_exception(exc); // KeyboardInterrupt: raised once Mbed TLS has returned
        } else if (type == &mp_type_MemoryError) {
            failed_allocs += 1;
        }
        return MBEDTLS_ERR_X509_FATAL_ERROR;
    }
    if (found == mp_const_none) {
        return 0; // none of ours signed it: Mbed TLS goes on with what the server presented
    }
    mbedtls_x509_crt *chain = mbedtls_calloc(1, sizeof(*chain));
    if (chain == NULL) {
        return MBEDTLS_ERR_X509_FATAL_ERROR;
    }
    mbedtls_x509_crt_init(chain);
    if (parse_roots(found, chain) != 0) {
        mbedtls_x509_crt_free(chain);
        mbedtls_free(chain);
        return MBEDTLS_ERR_X509_FATAL_ERROR;
    }
    *candidates = chain; // Mbed TLS frees it
    return 0;
}
#endif

// roots(ctx, finder): finder(issuer name, DER) -> list of all our root DERs with that subject.
// Switches loaded roots off; load_verify_locations afterwards would switch the finder off.
static mp_obj_t tlsopt_roots(mp_obj_t context, mp_obj_t finder) {
    state_t *state = state_of(context);
    #if defined(MBEDTLS_X509_TRUSTED_CERTIFICATE_CALLBACK)
    if (!mp_obj_is_callable(finder)) {
        mp_raise_TypeError(MP_ERROR_TEXT("callable expected"));
    }
    if (state->used) {
        mp_raise_ValueError(MP_ERROR_TEXT("context has made a socket"));
    }
    state->finder = finder;
    mbedtls_ssl_conf_ca_cb(config_of(context), find_roots, state);
    #else
    (void)state;
    (void)finder;
    mp_raise_NotImplementedError(MP_ERROR_TEXT("this build has no certificate callback"));
    #endif
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_2(tlsopt_roots_obj, tlsopt_roots);

// ---------------------------------------------------------------------------------------------
// Per socket.

// established(sock) -> bool: the handshake is over
static mp_obj_t tlsopt_established(mp_obj_t socket) {
    return mp_obj_new_bool(mbedtls_ssl_is_handshake_over(ssl_of(socket)));
}
static MP_DEFINE_CONST_FUN_OBJ_1(tlsopt_established_obj, tlsopt_established);

// info(sock) -> (mfl_asked, mfl_acknowledged, in_limit, out_limit, resumed)
// mfl_acknowledged: None before the ServerHello, False, or the value the server agreed to.
// in_limit, out_limit: what the buffers hold now. resumed: None until known.
static mp_obj_t tlsopt_info(mp_obj_t socket) {
    static const qstr fields[] = {
        MP_QSTR_mfl_asked, MP_QSTR_mfl_acknowledged, MP_QSTR_in_limit, MP_QSTR_out_limit,
        MP_QSTR_resumed,
    };
    mbedtls_ssl_context *ssl = ssl_of(socket);
    uintptr_t seen = mbedtls_ssl_get_user_data_n(ssl);
    size_t code = seen & SEEN_MFL_MASK;
    size_t asked = 0;
    #if defined(MBEDTLS_SSL_MAX_FRAGMENT_LENGTH)
    asked = ssl->conf->mfl_code;
    #endif
    size_t in_limit = MBEDTLS_SSL_IN_CONTENT_LEN;
    size_t out_limit = MBEDTLS_SSL_OUT_CONTENT_LEN;
    #if defined(MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH)
    in_limit = ssl->in_buf_len - buffer_overhead;
    out_limit = ssl->out_buf_len - buffer_overhead;
    #endif
    if (asked != 0) {
        // Mbed TLS keeps its own records to what it asked for, whatever the server said.
        out_limit = MIN(out_limit, (size_t)256 << asked);
    }
    mp_obj_t resumed = mp_const_none;
    if (seen & SEEN_CERTIFICATE) {
        resumed = mp_const_false;
    } else if (seen & SEEN_CHANGE_CIPHER && ssl->tls_version == MBEDTLS_SSL_VERSION_TLS1_2) {
        resumed = mp_const_true;
    }
    mp_obj_t items[5] = {
        MP_OBJ_NEW_SMALL_INT(asked == 0 ? 0 : 256 << asked),
        code == 0 ? mp_const_none : code == 1 ? mp_const_false : MP_OBJ_NEW_SMALL_INT(256 << (code - 1)),
        MP_OBJ_NEW_SMALL_INT(in_limit),
        MP_OBJ_NEW_SMALL_INT(out_limit),
        resumed,
    };
    return mp_obj_new_attrtuple(fields, 5, items);
}
static MP_DEFINE_CONST_FUN_OBJ_1(tlsopt_info_obj, tlsopt_info);

// forget_key(sock): give back the device's certificates and key, which nothing needs any more once
// the handshake is over. Later sockets of the same context have none to show.
static mp_obj_t tlsopt_forget_key(mp_obj_t socket) {
    mbedtls_ssl_context *ssl = ssl_of(socket);
    if (!mbedtls_ssl_is_handshake_over(ssl)) {
        mp_raise_ValueError(MP_ERROR_TEXT("handshake not over"));
    }
    // The configuration lies in the SSLContext that the socket keeps alive. Mbed TLS asks it anew
    // for each step of a handshake, so another socket's would find no key and fail, no more.
    mbedtls_ssl_config *conf = (mbedtls_ssl_config *)ssl->conf;
    state_t *state = NULL;
    if (mbedtls_ssl_conf_get_endpoint(conf) == MBEDTLS_SSL_IS_CLIENT) {
        state = mbedtls_ssl_conf_get_user_data_p(conf);
    }
    if (state != NULL && state->own_cert != NULL) {
        (void)__real_mbedtls_ssl_conf_own_cert(conf, NULL, NULL); // empties the list
        mbedtls_x509_crt_free(state->own_cert);
        mbedtls_pk_free(state->own_key);
        state->own_cert = NULL;
        state->own_key = NULL;
    }
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_1(tlsopt_forget_key_obj, tlsopt_forget_key);

// session(sock) -> bytes to resume from, None when the server gave nothing to resume from. Once
// per session. The bytes hold the master secret: never into flash, never into a log.
static mp_obj_t tlsopt_session(mp_obj_t socket) {
    mbedtls_ssl_context *ssl = ssl_of(socket);
    if (!mbedtls_ssl_is_handshake_over(ssl)) {
        mp_raise_ValueError(MP_ERROR_TEXT("handshake not over"));
    }
    #if defined(MBEDTLS_SSL_CLI_C)
    mbedtls_ssl_session session;
    mbedtls_ssl_session_init(&session);
    int result = mbedtls_ssl_get_session(ssl, &session);
    size_t size = 0;
    bool resumable = session.id_len != 0;
    #if defined(MBEDTLS_SSL_SESSION_TICKETS)
    resumable = resumable || session.ticket_len != 0;
    #endif
    uint8_t *blob = NULL;
    if (result == 0 && resumable) {
        (void)mbedtls_ssl_session_save(&session, NULL, 0, &size);
        blob = m_malloc_maybe(size);
        if (blob != NULL) {
            result = mbedtls_ssl_session_save(&session, blob, size, &size);
        }
    }
    mbedtls_ssl_session_free(&session);
    if (result == MBEDTLS_ERR_SSL_ALLOC_FAILED || (result == 0 && resumable && blob == NULL)) {
        mp_raise_OSError(MP_ENOMEM);
    }
    if (result != 0) {
        mp_raise_ValueError(MP_ERROR_TEXT("session already taken"));
    }
    if (!resumable) {
        return mp_const_none;
    }
    vstr_t text;
    nlr_buf_t nlr;
    if (nlr_push(&nlr) == 0) {
        vstr_init_len(&text, size);
        memcpy(text.buf, blob, size);
        mp_obj_t bytes = mp_obj_new_bytes_from_vstr(&text);
        nlr_pop();
        mbedtls_platform_zeroize(blob, size);
        return bytes;
    }
    mbedtls_platform_zeroize(blob, size);
    nlr_jump(nlr.ret_val);
    #else
    return mp_const_none;
    #endif
}
static MP_DEFINE_CONST_FUN_OBJ_1(tlsopt_session_obj, tlsopt_session);

// ---------------------------------------------------------------------------------------------
// Signatures of trust packages.

// verify(alg, n, e, digest, signature) -> bool. alg "PS256" (salt of 32 bytes, RFC 7518 section
// 3.5) or "RS256"; n and e big-endian bytes; digest SHA-256.
static mp_obj_t tlsopt_verify(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    mp_buffer_info_t n, e, digest, signature;
    size_t length;
    const char *alg = mp_obj_str_get_data(args[0], &length);
    mp_get_buffer_raise(args[1], &n, MP_BUFFER_READ);
    mp_get_buffer_raise(args[2], &e, MP_BUFFER_READ);
    mp_get_buffer_raise(args[3], &digest, MP_BUFFER_READ);
    mp_get_buffer_raise(args[4], &signature, MP_BUFFER_READ);
    bool pss = length == 5 && memcmp(alg, "PS256", 5) == 0;
    if (!pss && !(length == 5 && memcmp(alg, "RS256", 5) == 0)) {
        mp_raise_ValueError(MP_ERROR_TEXT("alg: PS256 or RS256"));
    }
    if (digest.len != 32) {
        mp_raise_ValueError(MP_ERROR_TEXT("digest: 32 bytes"));
    }
    #if !defined(MBEDTLS_PKCS1_V21)
    if (pss) {
        mp_raise_NotImplementedError(MP_ERROR_TEXT("this build has no RSA-PSS"));
    }
    #endif
    mp_uint_t before = failed_allocs;
    mbedtls_rsa_context rsa;
    mbedtls_rsa_init(&rsa);
    int result = mbedtls_rsa_import_raw(&rsa, n.buf, n.len, NULL, 0, NULL, 0, NULL, 0, e.buf, e.len);
    if (result == 0) {
        result = mbedtls_rsa_complete(&rsa);
    }
    bool form = result == 0 && mbedtls_rsa_check_pubkey(&rsa) == 0;
    if (form && signature.len != mbedtls_rsa_get_len(&rsa)) {
        result = MBEDTLS_ERR_RSA_VERIFY_FAILED;
    } else if (form && pss) {
        #if defined(MBEDTLS_PKCS1_V21)
        result = mbedtls_rsa_set_padding(&rsa, MBEDTLS_RSA_PKCS_V21, MBEDTLS_MD_SHA256);
        if (result == 0) {
            result = mbedtls_rsa_rsassa_pss_verify_ext(&rsa, MBEDTLS_MD_SHA256, 32, digest.buf,
                MBEDTLS_MD_SHA256, 32, signature.buf);
        }
        #endif
    } else if (form) {
        result = mbedtls_rsa_rsassa_pkcs1_v15_verify(&rsa, MBEDTLS_MD_SHA256, 32, digest.buf, signature.buf);
    }
    mbedtls_rsa_free(&rsa);
    if (failed_allocs != before || result == MBEDTLS_ERR_MPI_ALLOC_FAILED
        || result == MBEDTLS_ERR_RSA_PUBLIC_FAILED + MBEDTLS_ERR_MPI_ALLOC_FAILED) {
        mp_raise_OSError(MP_ENOMEM);
    }
    if (!form) {
        mp_raise_ValueError(MP_ERROR_TEXT("not a public key"));
    }
    return mp_obj_new_bool(result == 0);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(tlsopt_verify_obj, 5, 5, tlsopt_verify);

// ---------------------------------------------------------------------------------------------
// The module.

// HOOKED changes while the program runs, so it cannot sit in the table.
void tlsopt_attr(mp_obj_t self, qstr attribute, mp_obj_t *destination);
void tlsopt_attr(mp_obj_t self, qstr attribute, mp_obj_t *destination) {
    (void)self;
    if (attribute == MP_QSTR_HOOKED && destination[0] == MP_OBJ_NULL) {
        destination[0] = mp_obj_new_bool(config_defaults_ran && set_bio_ran);
    }
}

static mp_obj_t tlsopt_init(void) {
    #if defined(ESP_PLATFORM)
    #if defined(MBEDTLS_PLATFORM_MEMORY) && !defined(MBEDTLS_PLATFORM_CALLOC_MACRO)
    mbedtls_platform_set_calloc_free(counting_calloc, esp_mbedtls_mem_free);
    #endif
    heap_caps_register_failed_alloc_callback(heap_failed);
    #endif
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_0(tlsopt_init_obj, tlsopt_init);

static MP_DEFINE_STR_OBJ(tlsopt_version, MBEDTLS_VERSION_STRING);

#if defined(MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH)
#define HAS_VARIABLE_BUFFER MP_ROM_TRUE
#else
#define HAS_VARIABLE_BUFFER MP_ROM_FALSE
#endif
#if defined(MBEDTLS_SSL_KEEP_PEER_CERTIFICATE)
#define HAS_KEEP_PEER MP_ROM_TRUE
#else
#define HAS_KEEP_PEER MP_ROM_FALSE
#endif
#if defined(MBEDTLS_SSL_MAX_FRAGMENT_LENGTH)
#define HAS_MFL MP_ROM_TRUE
#else
#define HAS_MFL MP_ROM_FALSE
#endif
#if defined(MBEDTLS_X509_TRUSTED_CERTIFICATE_CALLBACK)
#define HAS_CA_CALLBACK MP_ROM_TRUE
#else
#define HAS_CA_CALLBACK MP_ROM_FALSE
#endif
#if defined(TLSOPT_BIGNUM)
#define HAS_BIGNUM MP_ROM_TRUE // the module tlsbignum is linked
#else
#define HAS_BIGNUM MP_ROM_FALSE
#endif
#if defined(MBEDTLS_SSL_PROTO_TLS1_3)
#define HAS_TLS13 MP_ROM_TRUE
#else
#define HAS_TLS13 MP_ROM_FALSE
#endif

static const mp_rom_map_elem_t tlsopt_globals_table[] = {
    { MP_ROM_QSTR(MP_QSTR___name__), MP_ROM_QSTR(MP_QSTR_tlsopt) },
    { MP_ROM_QSTR(MP_QSTR___init__), MP_ROM_PTR(&tlsopt_init_obj) },
    { MP_ROM_QSTR(MP_QSTR_configure), MP_ROM_PTR(&tlsopt_configure_obj) },
    { MP_ROM_QSTR(MP_QSTR_offer), MP_ROM_PTR(&tlsopt_offer_obj) },
    { MP_ROM_QSTR(MP_QSTR_roots), MP_ROM_PTR(&tlsopt_roots_obj) },
    { MP_ROM_QSTR(MP_QSTR_seen), MP_ROM_PTR(&tlsopt_seen_obj) },
    { MP_ROM_QSTR(MP_QSTR_established), MP_ROM_PTR(&tlsopt_established_obj) },
    { MP_ROM_QSTR(MP_QSTR_info), MP_ROM_PTR(&tlsopt_info_obj) },
    { MP_ROM_QSTR(MP_QSTR_forget_key), MP_ROM_PTR(&tlsopt_forget_key_obj) },
    { MP_ROM_QSTR(MP_QSTR_session), MP_ROM_PTR(&tlsopt_session_obj) },
    { MP_ROM_QSTR(MP_QSTR_verify), MP_ROM_PTR(&tlsopt_verify_obj) },
    { MP_ROM_QSTR(MP_QSTR_failed_allocs), MP_ROM_PTR(&tlsopt_failed_allocs_obj) },
    #if TLSOPT_TRACK
    { MP_ROM_QSTR(MP_QSTR_mem), MP_ROM_PTR(&tlsopt_mem_obj) },
    { MP_ROM_QSTR(MP_QSTR_fail_alloc), MP_ROM_PTR(&tlsopt_fail_alloc_obj) },
    #endif
    { MP_ROM_QSTR(MP_QSTR_IN_CONTENT_LEN), MP_ROM_INT(MBEDTLS_SSL_IN_CONTENT_LEN) },
    { MP_ROM_QSTR(MP_QSTR_OUT_CONTENT_LEN), MP_ROM_INT(MBEDTLS_SSL_OUT_CONTENT_LEN) },
    { MP_ROM_QSTR(MP_QSTR_VARIABLE_BUFFER), HAS_VARIABLE_BUFFER },
    { MP_ROM_QSTR(MP_QSTR_KEEP_PEER_CERTIFICATE), HAS_KEEP_PEER },
    { MP_ROM_QSTR(MP_QSTR_MFL), HAS_MFL },
    { MP_ROM_QSTR(MP_QSTR_CA_CALLBACK), HAS_CA_CALLBACK },
    { MP_ROM_QSTR(MP_QSTR_BIGNUM), HAS_BIGNUM },
    { MP_ROM_QSTR(MP_QSTR_TLS13), HAS_TLS13 },
    { MP_ROM_QSTR(MP_QSTR_MBEDTLS_VERSION), MP_ROM_PTR(&tlsopt_version) },
};
static MP_DEFINE_CONST_DICT(tlsopt_globals, tlsopt_globals_table);

const mp_obj_module_t tlsopt_module = {
    .base = { &mp_type_module },
    .globals = (mp_obj_dict_t *)&tlsopt_globals,
};

MP_REGISTER_MODULE(MP_QSTR_tlsopt, tlsopt_module);
MP_REGISTER_MODULE_DELEGATION(tlsopt_module, tlsopt_attr);
