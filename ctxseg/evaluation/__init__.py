"""Scores of a run on a split, and the confidence in a difference between two runs."""
