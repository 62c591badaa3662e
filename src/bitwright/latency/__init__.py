"""How long units take in a runtime on this machine."""
