"""Rendered tissue with exact truth: a folder for each tissue, and above them what all of them are painted with.

`lattice` and `window` place things, `darts` spaces them, `canvas` paints stain, `stain` makes pixels of it,
`slides` and `tiff` write whole slides. Needs numpy and OpenCV; nothing of the service and no other package here.
"""
