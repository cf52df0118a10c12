"""Evaluates pipelines on images with ground truth, through the production path.

`truth` reads the data, `trial` runs the pipeline, `rasters` turns its outlines into labels, `matching` pairs
cells, `scores` computes metrics of the pairs, `report` and `plots` show them.
"""
