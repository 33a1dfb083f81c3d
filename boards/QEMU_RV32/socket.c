// socket: TCP connections of the emulated board, carried over its second serial line.
//
// The helper on the host (taproot.emulated_board) opens one loopback connection per socket. Bytes
// received lie outside the MicroPython heap, as lwIP's do on an ESP32.
//
// Frames, both ways: kind, slot, length (16 bit, little-endian), payload.
//
//   to the helper                          from the helper
//   1 open    port (16 bit), host name     1 opened
//   2 data                                 2 data
//   3 close                                3 closed: the slot is free again
//   4 window  bytes more that may be sent (16 bit), to either side
//                                          5 end of stream
//                                          6 error: errno of this C library (1 byte)
//
// Each side may send WINDOW bytes of data and then as many as the other side has taken. A slot is
// used again only after the helper's `closed`, so no frame reaches a later connection.

#include <string.h>

#include "py/mperrno.h"
#include "py/mphal.h"
#include "py/runtime.h"
#include "py/stream.h"
#include "board.h"

#define SLOTS (6)
#define WINDOW (4096)
#define MAX_DATA (1024) // in one frame from here
#define HEADER (4)

enum { OPEN = 1, DATA, CLOSE, WINDOW_MORE, END, ERROR };
enum { FREE, OPENING, CONNECTED, CLOSING };

typedef struct _slot_t {
    uint8_t state;
    uint8_t error; // errno; 0 = none
    bool ended; // the peer sends no more
    uint16_t may_send;
    uint16_t first, held; // the ring
    uint16_t taken; // and not yet given back to the helper's window
    uint8_t ring[WINDOW];
} slot_t;

typedef struct _socket_obj_t {
    mp_obj_base_t base;
    slot_t *slot; // NULL before connect and after close
    bool closed;
    mp_int_t timeout_ms; // -1: wait for ever
} socket_obj_t;

static slot_t slots[SLOTS];
static const mp_obj_type_t socket_type;

// ---------------------------------------------------------------------------------------------
// Frames.

static void send(slot_t *slot, uint8_t kind, const void *payload, size_t length) {
    uint8_t header[HEADER] = { kind, slot - slots, length, length >> 8 };
    channel_write(header, sizeof(header));
    channel_write(payload, length);
}

static void arrived(slot_t *slot, uint8_t kind, const uint8_t *payload) {
    if (kind == CLOSE) {
        slot->state = FREE;
    } else if (kind == OPEN && slot->state == OPENING) {
        slot->state = CONNECTED;
    } else if (kind == WINDOW_MORE) {
        slot->may_send += payload[0] | payload[1] << 8;
    } else if (kind == END) {
        slot->ended = true;
    } else if (kind == ERROR) {
        slot->error = payload[0];
    }
}

void socket_poll(void) {
    static uint8_t header[HEADER], payload[2];
    static size_t have; // bytes of this frame so far
    int byte;
    while ((byte = channel_read()) >= 0) {
        if (have < HEADER) {
            header[have] = byte;
        }
        size_t length = header[2] | header[3] << 8;
        slot_t *slot = &slots[header[1] % SLOTS];
        if (have >= HEADER && header[0] != DATA) {
            payload[(have - HEADER) % sizeof(payload)] = byte;
        } else if (have >= HEADER && slot->held < WINDOW) {
            slot->ring[(slot->first + slot->held++) % WINDOW] = byte;
        }
        have++;
        if (have >= HEADER && have == HEADER + length) {
            have = 0;
            arrived(slot, header[0], payload);
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Sockets.

static mp_obj_t socket_make_new(const mp_obj_type_t *type, size_t n_args, size_t n_kw, const mp_obj_t *args) {
    mp_arg_check_num(n_args, n_kw, 0, 3, false);
    (void)args; // streams over IPv4 are all there is
    socket_obj_t *self = mp_obj_malloc_with_finaliser(socket_obj_t, type);
    self->slot = NULL;
    self->closed = false;
    self->timeout_ms = -1;
    return MP_OBJ_FROM_PTR(self);
}

// What a poll finds of what `flags` asks.
static uintptr_t ready(socket_obj_t *self, uintptr_t flags) {
    socket_poll();
    slot_t *slot = self->slot;
    if (self->closed) {
        return MP_STREAM_POLL_NVAL;
    }
    if (slot == NULL) {
        return MP_STREAM_POLL_HUP;
    }
    if (slot->error) {
        return (flags & (MP_STREAM_POLL_RD | MP_STREAM_POLL_WR)) | MP_STREAM_POLL_ERR;
    }
    uintptr_t found = 0;
    if (slot->held > 0 || slot->ended) {
        found |= flags & MP_STREAM_POLL_RD;
    }
    if (slot->state == CONNECTED && slot->may_send > 0) {
        found |= flags & MP_STREAM_POLL_WR;
    }
    return found;
}

// Wait for what `flags` asks; an errno, 0 when it is there.
static int wait_for(socket_obj_t *self, uintptr_t flags) {
    mp_uint_t started = mp_hal_ticks_ms();
    uintptr_t found;
    while ((found = ready(self, flags)) == 0) {
        if (self->timeout_ms >= 0 && mp_hal_ticks_ms() - started >= (mp_uint_t)self->timeout_ms) {
            return self->timeout_ms == 0 ? MP_EAGAIN : MP_ETIMEDOUT;
        }
        mp_event_wait_ms(1);
    }
    if (found & MP_STREAM_POLL_NVAL) {
        return MP_EBADF;
    }
    if (found & MP_STREAM_POLL_HUP) {
        return MP_ENOTCONN;
    }
    return found & MP_STREAM_POLL_ERR ? self->slot->error : 0;
}

static mp_obj_t socket_connect(mp_obj_t self_in, mp_obj_t address) {
    socket_obj_t *self = MP_OBJ_TO_PTR(self_in);
    mp_obj_t *items;
    mp_obj_get_array_fixed_n(address, 2, &items);
    size_t length;
    const char *host = mp_obj_str_get_data(items[0], &length);
    mp_int_t port = mp_obj_get_int(items[1]);
    uint8_t payload[2 + 255] = { port, port >> 8 };
    if (self->closed || !channel_present()) {
        mp_raise_OSError(self->closed ? MP_EBADF : MP_ENODEV);
    }
    if (self->slot != NULL) {
        mp_raise_OSError(MP_EISCONN);
    }
    if (length > sizeof(payload) - 2) {
        mp_raise_OSError(MP_EINVAL);
    }
    slot_t *slot = slots;
    while (slot < slots + SLOTS && slot->state != FREE) {
        slot++;
    }
    if (slot == slots + SLOTS) {
        mp_raise_OSError(MP_ENOBUFS);
    }
    memset(slot, 0, offsetof(slot_t, ring));
    slot->state = OPENING;
    slot->may_send = WINDOW;
    self->slot = slot;
    memcpy(payload + 2, host, length);
    send(slot, OPEN, payload, 2 + length);
    int error = self->timeout_ms == 0 ? MP_EINPROGRESS : wait_for(self, MP_STREAM_POLL_WR);
    if (error != 0) {
        mp_raise_OSError(error);
    }
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_2(socket_connect_obj, socket_connect);

static mp_uint_t socket_read(mp_obj_t self_in, void *buffer, mp_uint_t size, int *errcode) {
    socket_obj_t *self = MP_OBJ_TO_PTR(self_in);
    *errcode = wait_for(self, MP_STREAM_POLL_RD);
    slot_t *slot = self->slot;
    if (*errcode != 0 && (slot == NULL || slot->held == 0)) {
        return MP_STREAM_ERROR; // what had arrived before an error is still read
    }
    size = MIN(size, slot->held);
    for (size_t i = 0; i < size; i++) {
        ((uint8_t *)buffer)[i] = slot->ring[(slot->first + i) % WINDOW];
    }
    slot->first = (slot->first + size) % WINDOW;
    slot->held -= size;
    slot->taken += size;
    if (slot->taken >= WINDOW / 2) {
        uint8_t more[2] = { slot->taken, slot->taken >> 8 };
        slot->taken = 0;
        send(slot, WINDOW_MORE, more, sizeof(more));
    }
    return size;
}

static mp_uint_t socket_write(mp_obj_t self_in, const void *buffer, mp_uint_t size, int *errcode) {
    socket_obj_t *self = MP_OBJ_TO_PTR(self_in);
    *errcode = wait_for(self, MP_STREAM_POLL_WR);
    if (*errcode != 0) {
        return MP_STREAM_ERROR;
    }
    size = MIN(MIN(size, MAX_DATA), self->slot->may_send);
    self->slot->may_send -= size;
    send(self->slot, DATA, buffer, size);
    return size;
}

static mp_uint_t socket_ioctl(mp_obj_t self_in, mp_uint_t request, uintptr_t argument, int *errcode) {
    socket_obj_t *self = MP_OBJ_TO_PTR(self_in);
    if (request == MP_STREAM_POLL) {
        return ready(self, argument);
    }
    if (request == MP_STREAM_CLOSE) {
        if (self->slot != NULL) {
            self->slot->state = CLOSING;
            send(self->slot, CLOSE, NULL, 0);
            self->slot = NULL;
        }
        self->closed = true;
        return 0;
    }
    *errcode = MP_EINVAL;
    return MP_STREAM_ERROR;
}

static mp_obj_t socket_settimeout(mp_obj_t self_in, mp_obj_t seconds) {
    socket_obj_t *self = MP_OBJ_TO_PTR(self_in);
    self->timeout_ms = seconds == mp_const_none ? -1 : (mp_int_t)(1000 * mp_obj_get_float(seconds));
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_2(socket_settimeout_obj, socket_settimeout);

static mp_obj_t socket_setblocking(mp_obj_t self_in, mp_obj_t on) {
    socket_obj_t *self = MP_OBJ_TO_PTR(self_in);
    self->timeout_ms = mp_obj_is_true(on) ? -1 : 0;
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_2(socket_setblocking_obj, socket_setblocking);

// Nothing to set: the helper's connections have no Nagle.
static mp_obj_t socket_setsockopt(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    (void)args;
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(socket_setsockopt_obj, 4, 4, socket_setsockopt);

static const mp_rom_map_elem_t socket_locals_table[] = {
    { MP_ROM_QSTR(MP_QSTR___del__), MP_ROM_PTR(&mp_stream_close_obj) },
    { MP_ROM_QSTR(MP_QSTR_close), MP_ROM_PTR(&mp_stream_close_obj) },
    { MP_ROM_QSTR(MP_QSTR_connect), MP_ROM_PTR(&socket_connect_obj) },
    { MP_ROM_QSTR(MP_QSTR_settimeout), MP_ROM_PTR(&socket_settimeout_obj) },
    { MP_ROM_QSTR(MP_QSTR_setblocking), MP_ROM_PTR(&socket_setblocking_obj) },
    { MP_ROM_QSTR(MP_QSTR_setsockopt), MP_ROM_PTR(&socket_setsockopt_obj) },
    { MP_ROM_QSTR(MP_QSTR_read), MP_ROM_PTR(&mp_stream_read_obj) },
    { MP_ROM_QSTR(MP_QSTR_readinto), MP_ROM_PTR(&mp_stream_readinto_obj) },
    { MP_ROM_QSTR(MP_QSTR_readline), MP_ROM_PTR(&mp_stream_unbuffered_readline_obj) },
    { MP_ROM_QSTR(MP_QSTR_recv), MP_ROM_PTR(&mp_stream_read1_obj) },
    { MP_ROM_QSTR(MP_QSTR_send), MP_ROM_PTR(&mp_stream_write1_obj) },
    { MP_ROM_QSTR(MP_QSTR_write), MP_ROM_PTR(&mp_stream_write_obj) },
};
static MP_DEFINE_CONST_DICT(socket_locals, socket_locals_table);

static const mp_stream_p_t socket_stream = {
    .read = socket_read,
    .write = socket_write,
    .ioctl = socket_ioctl,
};

static MP_DEFINE_CONST_OBJ_TYPE(
    socket_type,
    MP_QSTR_socket,
    MP_TYPE_FLAG_NONE,
    make_new, socket_make_new,
    protocol, &socket_stream,
    locals_dict, &socket_locals
    );

// getaddrinfo(host, port, …): the name itself is the address; the helper looks it up.
static mp_obj_t socket_getaddrinfo(size_t n_args, const mp_obj_t *args) {
    (void)n_args;
    mp_obj_t items[5] = {
        MP_OBJ_NEW_SMALL_INT(2), MP_OBJ_NEW_SMALL_INT(1), MP_OBJ_NEW_SMALL_INT(0),
        MP_OBJ_NEW_QSTR(MP_QSTR_), mp_obj_new_tuple(2, args),
    };
    mp_obj_t found = mp_obj_new_tuple(5, items);
    return mp_obj_new_list(1, &found);
}
static MP_DEFINE_CONST_FUN_OBJ_VAR_BETWEEN(socket_getaddrinfo_obj, 2, 6, socket_getaddrinfo);

static const mp_rom_map_elem_t socket_globals_table[] = {
    { MP_ROM_QSTR(MP_QSTR___name__), MP_ROM_QSTR(MP_QSTR_socket) },
    { MP_ROM_QSTR(MP_QSTR_socket), MP_ROM_PTR(&socket_type) },
    { MP_ROM_QSTR(MP_QSTR_getaddrinfo), MP_ROM_PTR(&socket_getaddrinfo_obj) },
    { MP_ROM_QSTR(MP_QSTR_AF_INET), MP_ROM_INT(2) },
    { MP_ROM_QSTR(MP_QSTR_SOCK_STREAM), MP_ROM_INT(1) },
};
static MP_DEFINE_CONST_DICT(socket_globals, socket_globals_table);

const mp_obj_module_t socket_module = {
    .base = { &mp_type_module },
    .globals = (mp_obj_dict_t *)&socket_globals,
};

MP_REGISTER_MODULE(MP_QSTR_socket, socket_module);
