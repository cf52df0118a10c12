"""Rendered kidney, stained with PAS and haematoxylin, with the exact masks of its glomeruli.

`section` chooses how a slide looks, `tubules` and `bodies` paint, `tissue` puts a window together, `slides` writes
whole slides.
"""
