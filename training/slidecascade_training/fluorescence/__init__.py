"""The bundled networks for fluorescent nuclei: one trunk with three heads, trained together, served apart."""
