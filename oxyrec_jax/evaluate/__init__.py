"""Honest figures: what a split asks, untrained recommenders, the evaluator."""
