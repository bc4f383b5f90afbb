"""Batches: what default_collate makes, and the same again on the other side of a process boundary."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from pyhar.data.batches import Batch, collate


def sample(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    return {
        "frames": torch.from_numpy(rng.integers(0, 256, (160, 160, 3), dtype=np.uint8)),
        "pose": torch.from_numpy(rng.normal(size=(16, 3)).astype(np.float32)),
        "valid": torch.from_numpy(rng.random((16, 3)) < 0.5),
        "to_crop": torch.from_numpy(rng.normal(size=(3, 3))),
        "action": torch.tensor(number),
        "name": f"sample {number}",
    }


def assert_alike(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert found[key].dtype == value.dtype
            assert torch.equal(found[key], value)
        else:
            assert found[key] == value


def test_a_batch_is_what_pytorch_makes() -> None:
    samples = [sample(number) for number in range(3)]
    assert_alike(collate(samples), default_collate(samples))


class Samples(torch.utils.data.Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> dict[str, Any]:
        return sample(number)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_workers_batch_arrives_as_a_plain_dictionary(start: str) -> None:
    loader = DataLoader(Samples(), 3, num_workers=1, collate_fn=collate, multiprocessing_context=start)
    batches = list(loader)
    for number, batch in enumerate(batches):
        assert type(batch) is dict
        assert_alike(batch, default_collate([sample(i) for i in range(3 * number, 3 * number + 3)]))
        # Pixels alone in shared memory; the rest is the receiver's own and can be written.
        assert [key for key, value in batch.items() if isinstance(value, torch.Tensor) and value.is_shared()] == [
            "frames"
        ]
        batch["pose"].zero_()


def test_a_batch_in_bytes() -> None:
    batch = collate([sample(0)])
    assert isinstance(batch, Batch)
    assert_alike(pickle.loads(pickle.dumps(batch)), batch)
