"""Synthesized fluorescence images of cells with exact instance masks and counted spots.

`masks` draws cells, `networks` runs mask generators and image translators given as ONNX, `spots` places spots,
`optics` renders what a camera sees, `dataset` writes a folder of them.
"""
