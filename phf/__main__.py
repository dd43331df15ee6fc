"""Runs the command line for `python -m phf`."""

import sys

from phf.cli import main

sys.exit(main())
