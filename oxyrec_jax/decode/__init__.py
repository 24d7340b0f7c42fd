"""Constrained search for the best semantic IDs, and the items they stand for."""
