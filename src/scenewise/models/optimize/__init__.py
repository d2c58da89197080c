"""Faster equivalents of a network for inference: fused batch norms, Winograd convolutions."""
