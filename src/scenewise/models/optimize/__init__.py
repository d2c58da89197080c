"""Faster, equal forms of a network for inference."""
