"""Where the bits go: the table of measured choices, its costs, and exact allocation."""
