"""What each stage trains, and how fast."""

import pytest
import tiny_training
import torch

from pyhar.models import SPNet
from pyhar.training.config import OptimizerConfig, ScheduleConfig
from pyhar.training.stages import learning_rate, make_optimizer, prepare, task_at


def model(seed=0):
    torch.manual_seed(seed)
    return SPNet(tiny_training.MODEL)


def action_loss_of(network):
    output = network(torch.rand(2, 4, 3, 32, 32) * 2 - 1)
    return sum(logits[0].square().sum() for logits in output.action_logits)


def pose_loss_of(network):
    return sum(pose.square().sum() for pose in network(torch.rand(2, 4, 3, 32, 32) * 2 - 1).poses)


def moved(parameter):
    return parameter.grad is not None and bool((parameter.grad != 0).any())


def test_tasks_in_turn():
    assert [task_at("joint", step) for step in range(4)] == [("pose", 0), ("action", 0), ("pose", 1), ("action", 1)]
    assert [task_at("decoupled", step)[0] for step in range(2)] == ["pose", "action"]
    assert task_at("pose", 3) == ("pose", 3)
    assert task_at("action", 3) == ("action", 3)


def test_action_stage_gives_the_pose_part_no_gradient():
    network = model()
    prepare(network, "action")
    action_loss_of(network).backward()
    assert all(p.grad is None for p in network.pose_parameters())
    assert all(moved(p) for p in network.action_parameters())
    prepare(network, "joint")
    assert all(p.requires_grad for p in network.parameters())
    assert all(module.training for module in network.modules())


def test_decoupled_actions_reach_supervised_maps_only_by_way_of_later_blocks():
    """Sec. 3.3.4: a block's action loss passes its replica, not its own maps; but what these maps put back into the
    features, later blocks still read.
    """
    network = model()
    prepare(network, "joint")
    action_loss_of(network).backward()
    first, last = (visit.block for visit in network.visits)
    assert moved(last.heat.weight)
    assert moved(last.depth.weight)

    network = model()
    prepare(network, "decoupled")
    first, last = (visit.block for visit in network.visits)
    action_loss_of(network).backward()
    assert not moved(last.heat.weight)
    assert not moved(last.depth.weight)
    for block in (first, last):
        assert moved(block.action.heat.weight)
        assert moved(block.action.depth.weight)
        assert moved(block.features.pointwise.weight)
    assert moved(first.heat.weight)  # by re-injection alone:
    for parameter in network.parameters():
        parameter.grad = None
    output = network(torch.rand(2, 4, 3, 32, 32))
    output.action_logits[0][0].square().sum().backward()
    assert not moved(first.heat.weight)
    assert not moved(first.depth.weight)


def test_decoupled_poses_do_not_train_the_replicas():
    network = model()
    prepare(network, "decoupled")
    pose_loss_of(network).backward()
    assert all(not moved(p) for p in network.action_parameters())
    assert all(moved(visit.block.heat.weight) for visit in network.visits)


def test_replicas_begin_as_copies():
    network = model()
    prepare(network, "decoupled")
    for visit in network.visits:
        assert torch.equal(visit.block.action.heat.weight, visit.block.heat.weight)
        assert visit.block.action.heat.weight is not visit.block.heat.weight
    prepare(network, "decoupled")  # preparing again, as a resumed run does, changes nothing


@pytest.mark.parametrize("kind", ["rmsprop", "sgd", "adamw"])
def test_a_step_leaves_weights_without_gradient_alone(kind):
    network = model()
    prepare(network, "joint")
    optimizer = make_optimizer(network, OptimizerConfig(kind, momentum=0.9, weight_decay=0.1))
    pose_loss_of(network).backward()
    poses, actions = list(network.pose_parameters()), list(network.action_parameters())
    before = [p.detach().clone() for p in poses], [p.detach().clone() for p in actions]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before[1], actions, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before[0], poses, strict=True))


def test_only_matrices_decay():
    optimizer = make_optimizer(model(), OptimizerConfig("adamw", weight_decay=0.1))
    decaying, others = optimizer.param_groups
    assert decaying["weight_decay"] == 0.1
    assert others["weight_decay"] == 0
    assert all(p.ndim == 4 for p in decaying["params"])
    assert all(p.ndim == 1 for p in others["params"])


def test_rmsprop_is_keras():
    # Keras: a = 0.9 a + 0.1 g^2; w -= lr g / (sqrt(a) + 1e-7)
    network = model()
    prepare(network, "pose")
    optimizer = make_optimizer(network, OptimizerConfig())
    weight = network.entry.stem.weight
    value, mean = weight.detach().clone(), torch.zeros_like(weight)
    for _ in range(3):
        gradient = torch.randn_like(weight)
        weight.grad = gradient
        optimizer.step()
        mean = 0.9 * mean + 0.1 * gradient**2
        value -= 1e-3 * gradient / (mean.sqrt() + 1e-7)
    torch.testing.assert_close(weight.detach(), value)


def test_schedules():
    def rates(schedule, steps=100):
        return [learning_rate(2.0, schedule, step, steps) for step in range(steps)]

    assert rates(ScheduleConfig()) == [2.0] * 100
    stepped = rates(ScheduleConfig("step", milestones=(0.5, 0.8)))
    assert stepped == pytest.approx([2.0] * 50 + [0.2] * 30 + [0.02] * 20)
    cosine = rates(ScheduleConfig("cosine", warmup=0.1, final=0.1))
    assert cosine[:10] == pytest.approx([2.0 * n / 11 for n in range(1, 11)])
    assert cosine[10] == pytest.approx(2.0)
    assert cosine[55] == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert cosine[99] == pytest.approx(0.2, abs=2e-3)
    assert cosine[10:] == sorted(cosine[10:], reverse=True)
    cycle = rates(ScheduleConfig("one-cycle", warmup=0.3))
    assert cycle[0] == pytest.approx(2 / 25, rel=0.1)
    assert max(cycle) == cycle[30] == pytest.approx(2.0)
    assert cycle[99] < 1e-2
