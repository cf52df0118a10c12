"""Encoders of the kind `areas`."""
