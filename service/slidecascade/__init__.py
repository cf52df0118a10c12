"""SlideCascade: an open inference server for pathology. For research use only."""

__version__ = "0.1.0"
