"""The page of a run: its words, its figures and its charts."""
