#define MICROPY_HW_BOARD_NAME "Azure IoT on ESP32"
#define MICROPY_HW_MCU_NAME "ESP32"

// Bluetooth would take more of the internal memory than a TLS connection needs.
#define MICROPY_PY_BLUETOOTH (0)
#define MICROPY_BLUETOOTH_NIMBLE (0)
