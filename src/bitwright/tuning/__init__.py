"""Tuning of the stitched network: statistics of folded batch-norms, then biases."""
