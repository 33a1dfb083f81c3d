"""`taproot probe`: what a device needs to know of a TLS server before it meets it."""
