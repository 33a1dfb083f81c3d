#define MICROPY_HW_BOARD_NAME "Azure IoT on ESP32-C3"
#define MICROPY_HW_MCU_NAME "ESP32C3"

// Bluetooth would take more of the internal memory than a TLS connection needs.
#define MICROPY_PY_BLUETOOTH (0)
#define MICROPY_BLUETOOTH_NIMBLE (0)

// Modules with an external USB serial chip get a REPL too.
#define MICROPY_HW_ENABLE_UART_REPL (1)
