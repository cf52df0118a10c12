"""Encoders of the kind `patches`."""
