"""Recipes of the bundled models, and synthetic tissue with exact truth."""
