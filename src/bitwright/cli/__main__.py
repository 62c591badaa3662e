"""`python -m bitwright.cli` is the command."""

from bitwright.cli import main

if __name__ == "__main__":
    main()
