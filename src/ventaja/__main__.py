"""`python -m ventaja` is the command `ventaja`."""

import sys

from ventaja.cli import main

if __name__ == "__main__":
    sys.exit(main())
