"""The HTTP side: what a request passes on its way in, and its answer on the way out."""
