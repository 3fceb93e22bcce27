"""A step of the optimisation: the plain one's numbers, however it is arranged."""

import copy

import pytest
import torch
from tiny import tiny_config
from torch import nn
from torch.optim import SGD, Adam

from cityseg.inputs import TrainBatch, normalise
from cityseg.losses import cross_entropy
from cityseg.model import UNet, build_unet
from cityseg.step import training_step

CPU = torch.device("cpu")


def batches(count: int) -> list[TrainBatch]:
    drawn = torch.Generator().manual_seed(0)
    return [
        TrainBatch(
            torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=drawn),
            torch.randint(0, 19, (2, 64, 64), dtype=torch.uint8, generator=drawn),
        )
        for _ in range(count)
    ]


def plain_steps(model: UNet, optimizer: Adam, samples: list[TrainBatch]) -> list[float]:
    """As everybody writes it."""
    losses = []
    for batch in samples:
        loss = cross_entropy(model(normalise(batch.image)), batch.target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_a_step_is_the_plain_step_to_the_bit():
    torch.manual_seed(0)
    model = build_unet(tiny_config().model)
    other = copy.deepcopy(model)
    plain, ours = (Adam(m.parameters(), lr=1e-3, fused=True) for m in (model, other))
    wanted = plain_steps(model, plain, batches(4))
    step = training_step(other, ours, cross_entropy, tiny_config(), CPU)
    assert [float(step(batch)) for batch in batches(4)] == wanted
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        states = plain.state[a], ours.state[b]
        assert float(states[0]["step"]) == float(states[1]["step"]) == 4
        assert torch.equal(states[0]["exp_avg_sq"], states[1]["exp_avg_sq"])


class TwoOutputs(UNet):
    """Supervised twice by the same logits."""

    def supervised(self, image: torch.Tensor) -> list[torch.Tensor]:
        logits = self(image)
        return [logits, logits]


def test_further_outputs_count_by_their_weight():
    """The same logits again, for a quarter: loss and gradient are 1.25 times as large."""
    torch.manual_seed(0)
    model = build_unet(tiny_config().model)
    other = copy.deepcopy(model)
    other.__class__, other.supervision = TwoOutputs, (1.0, 0.25)
    losses, moves = [], []
    for network in (model, other):
        optimizer = Adam(network.parameters(), lr=1e-3, fused=True)
        step = training_step(network, optimizer, cross_entropy, tiny_config(), CPU)
        losses.append(float(step(batches(1)[0])))
        moves.append(optimizer.state[network.head[1].weight]["exp_avg"])  # pyright: ignore
    assert losses[1] == pytest.approx(1.25 * losses[0], rel=1e-6)
    torch.testing.assert_close(moves[1], 1.25 * moves[0])


def still_norms(model: UNet) -> UNet:
    """Batch norm by its kept statistics: no sample then depends on its batch."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_accumulated_passes_are_one_pass_over_them_all(clip: float):
    """With unevenly labelled parts, too; SGD, as Adam would hide the gradient's length."""
    torch.manual_seed(0)
    model = still_norms(build_unet(tiny_config().model))
    one, other = batches(2)
    image, target = torch.cat([one.image, other.image]), torch.cat([one.target, other.target])
    batch = TrainBatch(image, target)
    batch.target[0, :50] = 255
    before, moved, losses = copy.deepcopy(model.state_dict()), [], []
    for size, passes in ((4, 1), (2, 2), (1, 4)):
        model.load_state_dict(before)
        optimizer = SGD(model.parameters(), lr=0.1, fused=True)
        train = {"batch_size": size, "accumulate": passes, "clip_norm": clip}
        step = training_step(model, optimizer, cross_entropy, tiny_config(train=train), CPU)
        losses.append(float(step(batch)))
        moves = (p.detach() - before[name] for name, p in model.named_parameters())
        moved.append(torch.cat([move.flatten() for move in moves]))
    assert losses[1:] == pytest.approx(losses[:1] * 2)
    for others in moved[1:]:
        torch.testing.assert_close(others, moved[0], rtol=1e-3, atol=1e-6)
    length = float(moved[0].norm())
    assert length == pytest.approx(0.1 * clip, rel=1e-3) if clip else length > 0.1 * 0.01
