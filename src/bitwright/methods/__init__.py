"""Methods that solve one unit at a time."""
