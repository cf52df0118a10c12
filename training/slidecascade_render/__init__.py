"""Rendered tissue with exact truth."""
