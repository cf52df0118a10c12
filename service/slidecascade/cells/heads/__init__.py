"""Heads: one module per kind of network output, each with one function from maps to a label image."""
