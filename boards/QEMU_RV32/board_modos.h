// os.urandom of the board: included by extmod/modos.c. TEST FIRMWARE ONLY, see board.c.
#include "board.h"

static mp_obj_t mp_os_urandom(mp_obj_t count) {
    vstr_t text;
    vstr_init_len(&text, mp_obj_get_int(count));
    board_random((uint8_t *)text.buf, text.len);
    return mp_obj_new_bytes_from_vstr(&text);
}
static MP_DEFINE_CONST_FUN_OBJ_1(mp_os_urandom_obj, mp_os_urandom);
