"""`python -m pyhar SUBCOMMAND ...` is the console command `pyhar`."""

import sys

from pyhar.cli import console

sys.exit(console())
