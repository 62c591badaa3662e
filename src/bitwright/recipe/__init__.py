"""A run as one frozen value, and the built-in recipes."""
