"""Whole slides in fields: each worked on once, kept on disk, and collected into files at the end."""
