"""Steps after the bits are chosen: one file a step."""
