"""A step of the optimisation: the plain one's numbers, however it is arranged."""

import copy

import torch
from tiny import tiny_config
from torch.optim import Adam

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
    model = build_unet("resnet18", 0.125)
    other = copy.deepcopy(model)
    plain, ours = (Adam(m.parameters(), lr=1e-3, fused=True) for m in (model, other))
    wanted = plain_steps(model, plain, batches(4))
    step = training_step(other, ours, tiny_config(), CPU)
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
    model = build_unet("resnet18", 0.125)
    other = copy.deepcopy(model)
    other.__class__, other.supervision = TwoOutputs, (1.0, 0.25)
    losses, moves = [], []
    for network in (model, other):
        optimizer = Adam(network.parameters(), lr=1e-3, fused=True)
        losses.append(float(training_step(network, optimizer, tiny_config(), CPU)(batches(1)[0])))
        moves.append(optimizer.state[network.head[1].weight]["exp_avg"])  # pyright: ignore
    assert losses[1] == 1.25 * losses[0]
    torch.testing.assert_close(moves[1], 1.25 * moves[0])
