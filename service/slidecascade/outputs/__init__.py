"""Encoders: what an `Analysis` looks like as GeoJSON, heatmap, summary, overlay and archive."""
