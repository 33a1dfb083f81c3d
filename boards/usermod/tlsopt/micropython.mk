TLSOPT_DIR := $(USERMOD_DIR)
SRC_USERMOD_C += $(TLSOPT_DIR)/tlsopt.c
CFLAGS_USERMOD += -I$(TLSOPT_DIR)
# Each wrapped function is a hook: the module's version runs first and calls the real one.
LDFLAGS_USERMOD += -Wl,--wrap=mbedtls_ssl_config_defaults -Wl,--wrap=mbedtls_ssl_set_bio
