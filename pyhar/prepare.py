"""`pyhar prepare DATASET ROOT`: the command line of `pyhar.data.prepare` under the console command."""

from __future__ import annotations

import sys

from pyhar import cli


def main(argv: list[str] | None = None) -> int:
    """Read the command line, prepare the data set, and return 0. Raises UserError for what the user can mend."""
    from pyhar.data import prepare

    return prepare.main(argv, prog="pyhar prepare")


if __name__ == "__main__":
    sys.exit(cli.run(main))
