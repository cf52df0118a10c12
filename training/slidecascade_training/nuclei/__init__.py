"""The bundled nuclei model: its network, crops, training, thresholds and package, also on a user's tiles."""
