"""Metrics, and two networks side by side."""
