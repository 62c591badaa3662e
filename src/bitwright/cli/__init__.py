"""The command: what is typed is parsed, called and printed here, and nowhere else.

Nothing is imported until it runs, so that Ctrl-C is answered from the first moment on.
"""

from __future__ import annotations

import importlib
import sys


def main() -> None:
    """Entry point of the command."""
    try:
        edge = importlib.import_module("bitwright.cli.edge")
    except KeyboardInterrupt:
        sys.stderr.write("\nbitwright: interrupted before anything was done\n")
        sys.exit(130)
    edge.run()
