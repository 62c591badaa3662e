"""`python -m bitwright` is the command."""

from bitwright.cli import main

if __name__ == "__main__":
    main()
