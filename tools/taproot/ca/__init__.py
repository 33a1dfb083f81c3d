"""`taproot ca`: certificates for tests and for an operator's own device PKI."""
