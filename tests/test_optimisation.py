"""Optimisers, schedules and averages against torch's own or a closed form."""

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from tiny import tiny_config
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    PolynomialLR,
    SequentialLR,
)

from cityseg.config import Train
from cityseg.model import UNet, build_unet
from cityseg.optimisation import average_of, factor_of, optimizer_of, rate_of, schedule_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> UNet:
    return build_unet("resnet18", 0.0625)


def train(**settings: Any) -> Train:
    return tiny_config(train={"lr": 0.1, "epochs": 5, **settings}).train


def torchs_rates(make: Any, warmup: int, steps: int) -> list[float]:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    parts: list[LRScheduler] = [make(optimizer, steps - warmup)]
    if warmup:
        parts.insert(0, LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup))
    schedule = SequentialLR(optimizer, parts, [warmup] * bool(warmup))
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            schedule.step()
    return rates


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"schedule": "poly"}, lambda o, n: PolynomialLR(o, total_iters=n, power=0.9)),
        ({"schedule": "cosine"}, lambda o, n: CosineAnnealingLR(o, T_max=n)),
        (
            {"schedule": "cosine", "min_lr": 0.01},
            lambda o, n: CosineAnnealingLR(o, T_max=n, eta_min=0.01),
        ),
    ],
    ids=["poly", "cosine", "cosine to a least rate"],
)
def test_rates_by_step_are_torchs(settings: dict[str, Any], make: Any, warmup: int):
    """5 epochs of 4 steps; the rise is LinearLR's, over as many steps."""
    factor = factor_of(train(warmup_epochs=warmup / 4, **settings), epoch_steps=4)
    wanted = torchs_rates(make, warmup, 20)
    assert [0.1 * factor(step) for step in range(20)] == pytest.approx(wanted, rel=1e-6)


def test_poly_falls_to_the_least_rate():
    """As mmsegmentation's: (lr - least) (1 - t)^0.9 + least."""
    factor = factor_of(train(schedule="poly", min_lr=0.02), epoch_steps=4)
    wanted = [(0.1 - 0.02) * (1 - step / 20) ** 0.9 + 0.02 for step in range(20)]
    assert [0.1 * factor(step) for step in range(20)] == pytest.approx(wanted)
    assert factor(20) == factor(25) == pytest.approx(0.2)


@pytest.mark.parametrize("schedule", ["poly", "plateau"])
def test_the_encoders_rate_stays_its_share_of_the_rest(model: UNet, schedule: str):
    settings = train(encoder_lr_factor=0.1, schedule=schedule, optimizer="adamw", min_lr=0.01)
    optimizer = optimizer_of(settings, model, CPU)
    rates = schedule_of(settings, optimizer, 4)
    for step in range(20):
        rates.before_step(step)
        rates.after_epoch(1.0)
        slow, fast = sorted({float(group["lr"]) for group in optimizer.param_groups})
        assert slow == pytest.approx(0.1 * fast)
        assert rate_of(optimizer) == fast
    assert rate_of(optimizer) < 0.02


def test_norms_and_biases_do_not_decay(model: UNet):
    settings = train(optimizer="adamw", weight_decay=0.5)
    before = copy.deepcopy(model).state_dict()
    network = copy.deepcopy(model)
    optimizer = optimizer_of(settings, network, CPU)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, module in network.named_modules():
        for own, parameter in module.named_parameters(prefix=name, recurse=False):
            kept = isinstance(module, nn.BatchNorm2d) or own.endswith("bias")
            torch.testing.assert_close(parameter.data, before[own] * (1 if kept else 0.95))


def test_the_papers_optimiser_has_one_group_in_the_networks_order(model: UNet):
    """So that it is Adam(model.parameters(), lr), and its state that of earlier trainings."""
    (group,) = optimizer_of(train(), model, CPU).param_groups
    assert all(a is b for a, b in zip(group["params"], model.parameters(), strict=True))
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum_by_hand(model: UNet, nesterov: bool):
    """A gradient of 1 twice: the velocity is 1, then 1 + m; nesterov looks m times it ahead."""
    settings = train(optimizer="sgd", momentum=0.5, nesterov=nesterov)
    network = copy.deepcopy(model)
    parameter = next(network.parameters())
    before = parameter.detach().clone()
    optimizer = optimizer_of(settings, network, CPU)
    for _ in range(2):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    moved = (1 + 0.5 * 1) + (1 + 0.5 * 1.5) if nesterov else 1 + 1.5
    torch.testing.assert_close(before - 0.1 * moved, parameter.data)


def test_the_average_is_the_closed_form(model: UNet):
    """Weights k = 1, 2, ... after step k, from 0: the sum of each step's share of what is left."""
    trained = copy.deepcopy(model)
    weight, statistic = next(trained.parameters()), next(trained.buffers())
    for tensor in (weight.data, statistic):
        tensor.zero_()
    average = average_of(train(ema_decay=0.5), trained)
    decays = [min(0.5, (1 + n) / (10 + n)) for n in range(12)]
    assert decays[:2] == [0.1, 2 / 11] and decays[-1] == 0.5
    for k in range(1, 13):
        weight.data.fill_(k)
        statistic.fill_(10 * k)
        average.update()
    wanted = sum((1 - decays[k - 1]) * k * math.prod(decays[k:]) for k in range(1, 13))
    assert next(average.model.parameters()).flatten()[0].item() == pytest.approx(wanted)
    assert next(average.model.buffers())[0].item() == pytest.approx(10 * wanted)
    assert (weight == 12).all()


def test_an_average_goes_on_from_its_state_to_the_bit(model: UNet):
    def moved(steps: range, state: dict[str, Any] | None = None) -> dict[str, Any]:
        trained = copy.deepcopy(model)
        average = average_of(train(ema_decay=0.9), trained)
        if state:
            average.load_state_dict(state)
        for step in steps:
            next(trained.parameters()).data.fill_(step)
            average.update()
        return copy.deepcopy(average.state_dict())

    unbroken, resumed = moved(range(6)), moved(range(3, 6), moved(range(3)))
    assert resumed["steps"] == unbroken["steps"] == 6
    for name, value in unbroken["model"].items():
        assert torch.equal(value, resumed["model"][name])


def test_without_an_average_the_network_itself_is_scored(model: UNet):
    average = average_of(train(), model)
    assert average.model is model
    assert average.state_dict() == {}
