"""`python -m ckmigrate`."""

import sys

from ckmigrate.cli import main

if __name__ == "__main__":
    sys.exit(main())
