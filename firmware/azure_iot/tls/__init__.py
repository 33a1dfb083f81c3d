"""TLS of the device: what a connection needs, what a failure means, contexts that verify."""
