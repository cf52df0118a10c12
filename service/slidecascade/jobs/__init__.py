"""Whole slides in fields: each is analysed once, stored on disk, and collected into files at the end."""
