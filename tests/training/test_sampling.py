"""Batches follow from (seed, stage, task, step) alone."""

import collections

import pytest
import tiny_training
import torch

from pyhar.errors import UserError
from pyhar.training.config import StageConfig
from pyhar.training.sampling import StepBatches, Stream, TrainingData, load


def data(stills=10, clips=6):
    poses = [tiny_training.TinyData("pose", size=stills)]
    return TrainingData({"pose": poses, "action": [tiny_training.TinyData("clips", size=clips)]})


def batches(name="joint", start=0, seed=3, rank=0, world=1, steps=8):
    return StepBatches(name, StageConfig(steps=steps, images=4, clips=2), data(), (), seed, start, rank, world)


def test_each_pass_takes_every_sample_once_in_another_order():
    stream = Stream([7], (), [0])
    passes = [[stream.key(position)[1] for position in range(7 * n, 7 * n + 7)] for n in range(3)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert passes[0] != passes[1] != passes[2]
    draws = {stream.key(position)[2] for position in range(21)}
    assert len(draws) == 21  # another augmentation each time


def test_any_position_can_be_asked_first():
    in_order, afresh = Stream([5, 9], (0.8, 0.2), [1, 2]), Stream([5, 9], (0.8, 0.2), [1, 2])
    keys = [in_order.key(position) for position in range(500)]
    assert [afresh.key(position) for position in (499, 3, 250)] == [keys[499], keys[3], keys[250]]


def test_shares_hold_and_each_source_is_passed_over_evenly():
    stream = Stream([30, 11, 7], (0.5, 0.375, 0.125), [0])
    keys = [stream.key(position) for position in range(400)]
    assert collections.Counter(source for source, _, _ in keys) == {0: 200, 1: 150, 2: 50}
    for source, size in enumerate((30, 11, 7)):
        taken = collections.Counter(index for of, index, _ in keys if of == source)
        assert len(taken) == size
        assert max(taken.values()) - min(taken.values()) <= 1


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.5, 0.375, 0.125)])
def test_shares_hold_over_ten_thousand_draws_and_at_any_place(shares):
    sizes = (22246, 1258, 313)[: len(shares)]
    stream = Stream(sizes, shares, [4, 0])
    sources = [stream.key(position)[0] for position in range(10_000)]
    counts = collections.Counter(sources)
    assert [counts[source] for source in range(len(shares))] == [round(10_000 * share) for share in shares]
    # Mixed through and through: any 200 in a row are within some of their share.
    for first in range(0, 9_800, 97):
        run = collections.Counter(sources[first : first + 200])
        assert all(abs(run[source] - 200 * share) <= 30 for source, share in enumerate(shares))


def test_mixed_streams_resume_in_mid_epoch():
    sizes, shares = (97, 31, 11), (0.5, 0.375, 0.125)
    whole = Stream(sizes, shares, [4, 0])
    keys = [whole.key(position) for position in range(1500)]
    for place in (1, 96, 97, 250, 777):  # within, at and behind the end of a pass, and of a block of the mix
        later = Stream(sizes, shares, [4, 0])
        assert [later.key(position) for position in range(place, place + 300)] == keys[place : place + 300]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_take_disjoint_shares_of_every_pass(world):
    source = TrainingData({"pose": [tiny_training.TinyData("pose", size=36)], "action": []})
    stage = StageConfig(steps=6, images=12)
    taken = [
        [key for keys in StepBatches("pose", stage, source, (), 5, rank=rank, world=world) for key in keys]
        for rank in range(world)
    ]
    first_pass = [key[2] for of_rank in taken for key in of_rank[: 36 // world]]
    assert sorted(first_pass) == list(range(36))
    both = [set(of_rank) for of_rank in taken]
    assert all(not a & b for number, a in enumerate(both) for b in both[number + 1 :])
    assert len(set().union(*both)) == 72


def test_a_small_share_is_never_rounded_away():
    stream = Stream([5, 5], (0.999, 0.001), [0])
    assert {stream.key(position)[0] for position in range(400)} == {0, 1}


def test_joint_batches_alternate_and_have_their_sizes():
    tasks = [(keys[0][0], len(keys)) for keys in batches()]
    assert tasks == [("pose", 4), ("action", 2)] * 4
    assert all(len({key[0] for key in keys}) == 1 for keys in batches())


def test_a_resumed_stage_goes_on_with_the_same_batches():
    whole = list(batches())
    assert list(batches(start=5)) == whole[5:]
    assert len(batches(start=5)) == 3


def test_stages_and_seeds_differ():
    assert batches("pose").keys(0) != batches("joint").keys(0)
    assert batches(seed=3).keys(0) != batches(seed=4).keys(0)


def test_processes_share_the_batch():
    for step in range(4):
        shares = [batches(rank=rank, world=2).keys(step) for rank in (0, 1)]
        assert shares[0] + shares[1] == batches().keys(step)


def test_workers_change_nothing():
    alone, helped = list(load(data(), batches(), 0, False)), list(load(data(), batches(), 2, False))
    assert len(alone) == len(helped) == 8
    for a, b in zip(alone, helped, strict=True):
        assert a["name"] == b["name"]
        assert torch.equal(a["frames"], b["frames"])


def test_the_place_of_a_source_is_its_head():
    both = TrainingData({"pose": [], "action": [tiny_training.TinyData("clips"), tiny_training.TinyData("clips")]})
    assert both["action", 1, 5, 0]["action_head"].item() == 1
    assert both["action", 0, 5, 0]["action_head"].item() == 0


def test_an_unreadable_sample_is_replaced_and_reported():
    source = TrainingData({"pose": [tiny_training.TinyData("pose", size=10, broken=(3, 4))], "action": []})
    sample = source["pose", 0, 3, 7]
    assert sample["name"] == "tiny/pose/5"
    assert sample["replaced"] == "tiny/3.jpg is broken\ntiny/4.jpg is broken"
    assert source["pose", 0, 5, 7]["replaced"] == ""


class InBatches(tiny_training.TinyData):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.asked, self.read = [], 0

    def __getitems__(self, keys):
        self.asked.append(keys)
        samples = [self[key] for key in keys]
        self.read += len(samples)
        return samples


def test_a_data_set_is_asked_for_its_part_of_a_batch_at_once():
    sources = [InBatches("clips"), tiny_training.TinyData("clips"), InBatches("clips", broken=(3,))]
    source = TrainingData({"pose": [], "action": sources})
    keys = [("action", number, index, 7) for index in (2, 3, 30) for number in (0, 1, 2)]
    samples = source.__getitems__(keys)
    # 30 of 24; the one that cannot be read is replaced as it is by itself.
    assert sources[0].asked == [[(2, 7), (3, 7), (6, 7)]]
    assert (sources[0].read, sources[2].read) == (3, 0)
    for key, sample in zip(keys, samples, strict=True):
        expected = source[key]
        assert (sample["name"], sample["replaced"]) == (expected["name"], expected["replaced"])
        assert sample["action_head"] == key[1]
        torch.testing.assert_close(sample["pose"], expected["pose"])
    assert [sample["replaced"] for sample in samples] == [""] * 5 + ["tiny/3.jpg is broken"] + [""] * 3


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_unreadable_samples_is_one_clear_error(workers):
    source = TrainingData({"pose": [tiny_training.TinyData("pose", broken=range(24))], "action": []})
    stage = StepBatches("pose", StageConfig(steps=2, images=2), source, (), 0)
    with pytest.raises(UserError, match=r"^20 samples in a row cannot be read; the last: tiny/\d+.jpg is broken$"):
        next(load(source, stage, workers, False))
