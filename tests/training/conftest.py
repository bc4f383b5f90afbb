"""What the tests of training share: a tiny data set, registered anew for each test."""

import sys
from pathlib import Path

import pytest
import torch

# For the helper beside this file, which is also run as a program.
sys.path.insert(0, str(Path(__file__).parent))

import tiny_training


@pytest.fixture(autouse=True)
def _tiny_data_set():
    tiny_training.register()


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Threads wait longer for each other than so small a network takes to compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
