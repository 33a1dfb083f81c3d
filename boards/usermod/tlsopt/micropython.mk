TLSOPT_DIR := $(USERMOD_DIR)
SRC_USERMOD_C += $(TLSOPT_DIR)/tlsopt.c
CFLAGS_USERMOD += -I$(TLSOPT_DIR)
# Each wrapped function is a hook: the module's version runs first and calls the real one.
LDFLAGS_USERMOD += -Wl,--wrap=mbedtls_ssl_config_defaults -Wl,--wrap=mbedtls_ssl_set_bio
LDFLAGS_USERMOD += -Wl,--wrap=mbedtls_ssl_conf_own_cert -Wl,--wrap=mbedtls_ssl_free

# Where Mbed TLS allocates from the MicroPython heap: count its allocations and their failures.
# TLSOPT_TRACK=0 leaves the counters out (runs that count instructions).
TLSOPT_TRACK ?= 1
ifeq ($(TLSOPT_TRACK),1)
CFLAGS_USERMOD += -DTLSOPT_TRACK=1
LDFLAGS_USERMOD += -Wl,--wrap=m_tracked_calloc -Wl,--wrap=m_tracked_free
endif
