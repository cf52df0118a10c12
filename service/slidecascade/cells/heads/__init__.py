"""Heads: a module per kind of network output, with the outputs it wants and a function from maps to labels."""
