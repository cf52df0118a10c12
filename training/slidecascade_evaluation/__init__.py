"""How well a pipeline finds cells, measured on images with known cells, through the production path.

`truth` reads the data, `trial` runs the pipeline, `rasters` turns its outlines into labels, `matching` pairs
cells, `scores` makes figures of the pairs, `report` and `plots` show them.
"""
