"""Results on disk in the formats of other programs."""
