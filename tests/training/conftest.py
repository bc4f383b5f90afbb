"""What the tests of training share: a tiny data set, registered anew for each test."""

import sys
from pathlib import Path

import pytest

# For the helper beside this file, which is also run as a program.
sys.path.insert(0, str(Path(__file__).parent))

import tiny_training


@pytest.fixture(autouse=True)
def _tiny_data_set():
    tiny_training.register()
