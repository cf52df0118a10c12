"""Recipes: from a data set to a trained, measured and packaged network."""
