"""MODEL and D specifications turned into objects."""
