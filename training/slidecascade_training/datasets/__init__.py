"""Labelled crops and tiles from slides and annotations."""
