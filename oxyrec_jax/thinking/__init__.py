"""Slow thinking: instructions written near-line, and the store they are read from."""
