"""The kind `patches`: the work on a tile, its result and its parts."""
