"""Two processes on the CPU against one with the same batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_training
import torch
import torch.multiprocessing as multiprocessing
from safetensors.torch import load_file
from torch import nn

from pyhar.data.sample import model_input
from pyhar.errors import UserError
from pyhar.models import SPNet
from pyhar.models.io import MODEL_FILE
from pyhar.training import distributed, loop
from pyhar.training.config import LossConfig, StageConfig
from pyhar.training.loop import _check_shares, train
from pyhar.training.losses import batch_losses
from pyhar.training.sampling import StepBatches, TrainingData, load
from pyhar.training.stages import prepare, task_at


def two_steps(world: distributed.World) -> dict[str, object]:
    """Gradients, losses and batch-norm statistics of a pose batch and of an action batch, in double precision."""
    torch.manual_seed(0)
    model = SPNet(tiny_training.MODEL).double()
    prepare(model, "decoupled")
    distributed.synchronise_batch_norms(model, torch.device("cpu"), world)
    data = TrainingData({"pose": [tiny_training.TinyData("pose")], "action": [tiny_training.TinyData("clips")]})
    stage = StageConfig(steps=2, images=6, clips=4)
    found: dict[str, object] = {}
    batches = StepBatches("decoupled", stage, data, (), 0, 0, world.rank, world.size)
    for step, batch in enumerate(load(data, batches, 0, False)):
        task, _ = task_at("decoupled", step)
        model.zero_grad(set_to_none=True)
        losses = batch_losses(task, model(model_input(batch["frames"], dtype=torch.float64)), batch, LossConfig())
        losses.total.backward()
        mean = distributed.average_gradients(model.parameters(), losses.total.detach().reshape(1), world)
        found[task] = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found[f"{task} loss"] = mean
    found["buffers"] = {name: value.clone() for name, value in model.named_buffers()}
    return found


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="localhost",
        MASTER_PORT=Path(folder, "port").read_text(),
    )
    world, device = distributed.start("cpu")
    assert (world.rank, world.size, device.type) == (rank, 2, "cpu")
    assert distributed.gather(rank * 10, world) == [0, 10]
    torch.save(two_steps(world), Path(folder, f"{rank}.pt"))
    distributed.stop()


def free_port() -> str:
    import socket

    with socket.socket() as server:
        server.bind(("localhost", 0))
        return str(server.getsockname()[1])


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-12))


def test_gradients_are_those_of_one_process(tmp_path):
    (tmp_path / "port").write_text(free_port())
    multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = two_steps(distributed.World())
    for task in ("pose", "action"):
        assert first[task].keys() == second[task].keys() == alone[task].keys()
        assert all(torch.equal(first[task][name], second[task][name]) for name in first[task])
        worst = max(difference(first[task][name], value) for name, value in alone[task].items())
        assert worst < 1e-9, worst
        assert difference(first[f"{task} loss"], alone[f"{task} loss"]) < 1e-6
    assert not any(".action." in name for name in alone["pose"])
    for name, value in alone["buffers"].items():
        torch.testing.assert_close(first["buffers"][name], value, rtol=1e-9, atol=1e-10)


def test_batch_norm_in_a_world_of_one_is_batch_norm(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        plain, synchronised = (
            nn.BatchNorm2d(3, eps=1e-3, momentum=0.01),
            distributed.SyncBatchNorm(3, eps=1e-3, momentum=0.01),
        )
        x = (torch.randn(4, 3, 5, 6) * 3 + 7).requires_grad_()
        y = x.detach().clone().requires_grad_()
        weights = torch.randn(4, 3, 5, 6)
        (plain(x) * weights).sum().backward()
        (synchronised(y) * weights).sum().backward()
        torch.testing.assert_close(y.grad, x.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(dict(synchronised.state_dict()), dict(plain.state_dict()))
        torch.testing.assert_close(synchronised.eval()(y), plain.eval()(x))
    finally:
        torch.distributed.destroy_process_group()


def test_only_plain_batch_norms_of_several_processes_are_replaced():
    model = SPNet(tiny_training.MODEL)
    distributed.synchronise_batch_norms(model, torch.device("cpu"), distributed.World())
    assert not any(isinstance(module, distributed.SyncBatchNorm) for module in model.modules())
    names = list(model.state_dict())
    distributed.synchronise_batch_norms(model, torch.device("cpu"), distributed.World(0, 2))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(module, distributed.SyncBatchNorm) for module in norms)
    assert list(model.state_dict()) == names


def test_torchrun_ends_with_the_weights_of_one_process(tmp_path, monkeypatch):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, tiny_training.__file__, "tiny", "--run-dir", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TINY_DOUBLE": "1"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained model:") == 1  # one process speaks
    for name in ("SPNet", "model_input"):  # set back afterwards
        monkeypatch.setattr(loop, name, getattr(loop, name))
    tiny_training.in_double()
    tiny_training.run(tiny_training.config(tmp_path / "one"))
    one, two = (load_file(tmp_path / name / MODEL_FILE) for name in ("one", "two"))
    assert one["entry.stem.weight"].dtype == torch.float64
    assert one.keys() == two.keys()
    # Sums in another order, which RMSprop's divisions by small roots bring out, more or less as data have it. Steps
    # are of about 1e-3.
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-7, atol=1e-5)
    lines = [(tmp_path / name / "log.jsonl").read_text().count("\n") for name in ("one", "two")]
    assert lines[0] == lines[1] > 0


def test_batches_that_cannot_be_shared_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"stages\.pose\.images = 3 cannot be shared equally by 2 processes"):
        train(tiny_training.config(tmp_path, images=3), tmp_path, distributed.World(0, 2), torch.device("cpu"))
    assert list(tmp_path.iterdir()) == []
    one_stage = tiny_training.only(tiny_training.config(images=3), "action")
    _check_shares(one_stage, distributed.World(0, 2))  # it takes clips alone
