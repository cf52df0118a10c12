"""Turns trained checkpoints into served model packages."""
