"""Rendered H&E liver."""
