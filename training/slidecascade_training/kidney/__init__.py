"""The recipe of the bundled glomeruli network, which is trained on rendered kidney alone."""
