"""Batches: what default_collate makes, and the same again on the other side of a process boundary."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from pyhar.data import batches
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
    loader = DataLoader(Samples(), 2, num_workers=1, collate_fn=collate, multiprocessing_context=start)
    # All are kept, so that none may be written over.
    for number, batch in enumerate(list(loader)):
        assert type(batch) is dict
        assert_alike(batch, default_collate([sample(i) for i in range(2 * number, 2 * number + 2)]))
        # All of it can be written.
        batch["pose"].zero_()
        batch["frames"].zero_()


@pytest.fixture
def a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process takes itself for a worker."""
    monkeypatch.setattr(batches, "get_worker_info", object)
    monkeypatch.setattr(batches, "_blocks", [])
    monkeypatch.setattr(batches, "_handed_over", set())
    monkeypatch.setattr(multiprocessing, "active_children", lambda: [multiprocessing.current_process()])


def sent(batch: Batch) -> dict[str, Any]:
    """A batch as another process gets it, but in this one: its pixels lie where they are sent."""
    rebuild, arguments = batch.__reduce__()
    return rebuild(*arguments)


@pytest.mark.usefixtures("a_worker")
def test_memory_is_used_again_when_nothing_of_a_batch_is_left() -> None:
    first = sent(collate([sample(0), sample(1)]))
    place = first["frames"].data_ptr()
    second = sent(collate([sample(2), sample(3)]))
    assert second["frames"].data_ptr() != place
    part = first["frames"][1].flatten()[5:]
    del first
    third = sent(collate([sample(4), sample(5)]))
    assert third["frames"].data_ptr() not in (place, second["frames"].data_ptr())
    assert torch.equal(part, sample(1)["frames"].flatten()[5:])
    del part
    fourth = sent(collate([sample(6)]))  # a smaller one
    assert fourth["frames"].data_ptr() == place
    assert_alike(fourth, default_collate([sample(6)]))
    assert_alike(second, default_collate([sample(2), sample(3)]))
    assert len(batches._blocks) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("a_worker")
def test_what_a_forked_process_drops_is_still_in_use() -> None:
    batch = sent(collate([sample(0)]))
    child = os.fork()
    if child == 0:
        del batch
        os._exit(0)
    os.waitpid(child, 0)
    assert sent(collate([sample(1)]))["frames"].data_ptr() != batch["frames"].data_ptr()


@pytest.mark.usefixtures("a_worker")
def test_pixels_alone_lie_in_shared_memory() -> None:
    batch = collate([sample(0)])
    assert [key for key, value in batch.items() if isinstance(value, torch.Tensor) and value.is_shared()] == ["frames"]


def test_a_batch_in_bytes() -> None:
    batch = collate([sample(0)])
    assert isinstance(batch, Batch)
    assert_alike(pickle.loads(pickle.dumps(batch)), batch)


@pytest.mark.usefixtures("a_worker")
def test_memory_is_handed_over_once() -> None:
    handed_over = []
    for number in range(3):
        rebuild, arguments = collate([sample(number)]).__reduce__()
        handed_over += [value for value in arguments[3]["frames"] if isinstance(value, torch.Tensor)]
        assert_alike(rebuild(*arguments), default_collate([sample(number)]))
        del arguments
    assert len(handed_over) == 1


def test_memory_of_ended_workers_is_given_up() -> None:
    for _ in range(2):
        loader = DataLoader(Samples(), 2, num_workers=1, collate_fn=collate)
        assert len(list(loader)) == 3
    assert len({worker for worker, _ in batches._received}) == 1
