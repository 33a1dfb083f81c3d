# The make half of the emulated board; `make board` builds it (tools/setup/board.py).
QEMU_ARCH = riscv32
QEMU_MACHINE = virt

# Debian's libraries know no rv32imac_zicsr, the port's default: without these two lines the 64-bit
# libraries are linked.
RV32_ARCH = rv32imac
AFLAGS += -misa-spec=2.2
MPY_CROSS_FLAGS += -march=rv32imc

CFLAGS += -I$(BOARD_DIR) -DMP_CONFIGFILE='"board_mpconfig.h"' -DQEMU_SOC_VIRT
CFLAGS += -DMICROPY_HW_MCU_NAME='"$(RV32_ARCH)"'

LDSCRIPT = $(BOARD_DIR)/board.ld
LDFLAGS += -Wl,--wrap=uart_rx_chr -Wl,--wrap=mp_hal_stdio_poll

SRC_BOARD_O += shared/runtime/gchelper_native.o shared/runtime/gchelper_rv32i.o
vpath %.c $(BOARD_DIR)
SRC_C += board.c channel.c socket.c shared/timeutils/timeutils.c

# As the ESP32 boards: TLS with tlsopt, RSA verification in software.
MICROPY_PY_SSL = 1
MICROPY_SSL_MBEDTLS = 1
MICROPY_VFS_LFS2 = 1
MBEDTLS_CONFIG_FILE = \"board_mbedtls_config.h\"
USER_C_MODULES = $(BOARD_DIR)/../usermod
TLSBIGNUM = 1

MICROPY_HEAP_SIZE ?= 98304
FROZEN_MANIFEST ?= $(BOARD_DIR)/manifest.py
MPY_LIB_DIR = $(BOARD_DIR)/../unix/mpylib
