"""How work is run: memory, progress, the store."""
