"""Recipes that made the bundled models, and synthetic tissue with exact truth."""
