"""Readers of public formats: each gives a `schema.Log` and rejects bad rows."""
