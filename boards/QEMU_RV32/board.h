// What the board's files know of each other.
#ifndef BOARD_H
#define BOARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// board.c. TEST FIRMWARE ONLY: from a fixed seed, the same after every start.
void board_random(uint8_t *to, size_t length);

// channel.c: the second serial line, through which connections run.
void channel_open(void);
bool channel_present(void);
void channel_write(const uint8_t *from, size_t length);
int channel_read(void); // a byte, or -1

// socket.c: move what has arrived to the sockets.
void socket_poll(void);

#endif // BOARD_H
