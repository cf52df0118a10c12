"""The kind `areas`: the work on a tile, its result and its parts."""
