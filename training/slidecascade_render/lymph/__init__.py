"""Rendered lymph nodes with metastases, with an exact mask of the tumour."""
