"""Scores of a whole dataset."""
