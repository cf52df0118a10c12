"""Media types and constants of the HTTP API."""

from __future__ import annotations

RESEARCH_USE_ONLY = "For Research Use Only. Not for use in diagnostic procedures."
PROBLEM_PREFIX = "urn:slidecascade:problem:"
GEOJSON = "application/geo+json"
JSON = "application/json"
PNG = "image/png"
CSV = "text/csv"
ZIP = "application/zip"
PARQUET = "application/vnd.apache.parquet"
PROBLEM = "application/problem+json"
COMPRESSIBLE = (GEOJSON, JSON, CSV)
"""Types of answers worth packing with gzip; the others are compressed already."""
