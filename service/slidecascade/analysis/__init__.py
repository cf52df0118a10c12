"""Analysing a region: the plan, the flow and who holds them together."""
