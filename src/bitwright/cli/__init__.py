"""The command: what is typed is parsed, called and printed here, and nowhere else."""

from bitwright.cli.app import app, main

__all__ = ["app", "main"]
