"""Encoders of the kind `cells`."""
