"""Lets the tests of data sets on disk import the writers beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
