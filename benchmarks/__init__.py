"""Scripts that time or count something, run from the repository's root as `python -m benchmarks.NAME`."""

import pyhar.cli  # noqa: F401  before PyTorch: how its threads wait for work is as on every command line
