"""Scores of a run on a split, and how sure a difference between two is."""
