"""The authors' own network, run on the same weights and pictures, gives the same numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pyhar.convert import infer_config, load_release_weights, read_layers
from pyhar.models import SPNet

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
TOLERANCE = 1e-4


@pytest.mark.parametrize("name", ["A_tiny2d", "C_tiny3d_singleframe"])
def test_outputs_equal_the_release(name: str) -> None:
    weights = GOLDEN / f"{name}.hdf5"
    model = load_release_weights(SPNet(infer_config(read_layers(weights))), weights).eval()
    golden = np.load(GOLDEN / f"{name}.npz")
    with torch.no_grad():
        out = model(torch.from_numpy(golden["input"]).movedim(-1, -3))
    outputs = [*out.poses, *(probabilities for block in out.actions for probabilities in block)]
    assert len(outputs) == len(golden.files) - 1
    for k, value in enumerate(outputs):
        expected = torch.from_numpy(golden[f"out_{k}"])
        assert value.shape == expected.shape
        error = float((value - expected).abs().max())
        assert error < TOLERANCE, f"output {k} is off by {error:.2e}"
