"""The integer program and its proof, and the greedy rules beside it."""
