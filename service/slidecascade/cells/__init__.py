"""Cells: what they are, how network maps become them, and how they are classified."""
