# Off unless asked for: make … TLSBIGNUM=1 (see tlsbignum.c).
ifeq ($(TLSBIGNUM),1)
TLSBIGNUM_DIR := $(USERMOD_DIR)
SRC_USERMOD_C += $(TLSBIGNUM_DIR)/tlsbignum.c
CFLAGS_USERMOD += -I$(TOP)/$(or $(MBEDTLS_DIR),lib/mbedtls)/library -DTLSOPT_BIGNUM=1
LDFLAGS_USERMOD += -Wl,--wrap=mbedtls_mpi_exp_mod_unsafe
endif
