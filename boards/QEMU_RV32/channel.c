// The board's second serial line: QEMU's pci-serial in slot 1, a 16550 behind the PCI bridge.
//
// QEMU connects it to the helper on the host before the board starts. Without one every function
// here finds nothing.

#include "board.h"

#define SLOT (1)
#define CONFIG (0x30000000 + (SLOT << 15)) // ECAM: bus 0, device SLOT, function 0
#define CONFIG_REGISTER(offset) (*(volatile uint32_t *)(CONFIG + (offset)))
#define PCI_SERIAL (0x00021b36) // vendor and device
#define PCI_COMMAND (0x04)
#define PCI_BAR0 (0x10)
#define PORT (0x1000) // where in the I/O window the UART is put
#define UART ((volatile uint8_t *)(0x03000000 + PORT))

// Registers of a 16550.
enum { DATA, IER, FCR, LCR, MCR, LSR };
#define LSR_DATA (0x01)
#define LSR_THRE (0x20)

static bool present;

void channel_open(void) {
    present = CONFIG_REGISTER(0) == PCI_SERIAL;
    if (present) {
        CONFIG_REGISTER(PCI_BAR0) = PORT | 1;
        CONFIG_REGISTER(PCI_COMMAND) = 1; // I/O space on
        UART[LCR] = 0x80;
        UART[DATA] = 1; // the highest rate
        UART[IER] = 0;
        UART[LCR] = 3; // 8 bits
        UART[FCR] = 0xc7; // FIFOs on and empty; QEMU gives it 14 bytes at a time
        UART[MCR] = 0x0b;
        UART[IER] = 1; // received data ends wfi
    }
}

bool channel_present(void) {
    return present;
}

int channel_read(void) {
    return present && (UART[LSR] & LSR_DATA) ? UART[DATA] : -1;
}

void channel_write(const uint8_t *from, size_t length) {
    while (present && length-- > 0) {
        while (!(UART[LSR] & LSR_THRE)) {
        }
        UART[DATA] = *from++;
    }
}
