"""Rewrites of the captured float network before it is quantised; its answers stay what they are."""
