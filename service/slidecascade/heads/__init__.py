"""Heads: one module per kind of network output, each with one object in `heads.table`."""
