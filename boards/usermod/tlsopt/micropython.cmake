# For CMake ports: make … USER_C_MODULES=<checkout>/boards/usermod/tlsopt/micropython.cmake
add_library(usermod_tlsopt INTERFACE)
target_sources(usermod_tlsopt INTERFACE ${CMAKE_CURRENT_LIST_DIR}/tlsopt.c)
target_include_directories(usermod_tlsopt INTERFACE ${CMAKE_CURRENT_LIST_DIR})
# Each wrapped function is a hook: the module's version runs first and calls the real one.
target_link_options(usermod_tlsopt INTERFACE
    "-Wl,--wrap=mbedtls_ssl_config_defaults"
    "-Wl,--wrap=mbedtls_ssl_set_bio"
    "-Wl,--wrap=mbedtls_ssl_conf_own_cert"
)
# ESP-IDF wraps this one itself for its dynamic buffers, which exclude variable ones.
if(CONFIG_MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH OR NOT ESP_PLATFORM)
    target_link_options(usermod_tlsopt INTERFACE "-Wl,--wrap=mbedtls_ssl_free")
endif()
if(NOT ESP_PLATFORM)
    # Mbed TLS allocates from the MicroPython heap there; on ESP32 the module counts by callback.
    target_compile_definitions(usermod_tlsopt INTERFACE TLSOPT_TRACK=1)
    target_link_options(usermod_tlsopt INTERFACE
        "-Wl,--wrap=m_tracked_calloc"
        "-Wl,--wrap=m_tracked_free"
    )
endif()
target_link_libraries(usermod INTERFACE usermod_tlsopt)
