"""The unix port as a device: for host tests and gateways."""
