"""What moves the weights and how fast: optimisers, learning-rate schedules, the average of weights.

Everything is safe to be replayed as a CUDA graph: a rate lies in a tensor on the GPU, which a
schedule overwrites, and nothing is read back.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cityseg.config import Train
from cityseg.model import UNet


def optimizer_of(settings: Train, model: UNet, device: torch.device) -> Optimizer:
    """The configured optimiser of a network's weights, in groups by rate and decay."""
    on_gpu = device.type == "cuda"
    groups = [
        # a tensor on the GPU: a recorded step reads the rate anew at each replay
        {"params": part, "lr": torch.tensor(lr, device=device) if on_gpu else lr, "weight_decay": d}
        for (lr, d), part in _groups(settings, model).items()
    ]
    lr = groups[0]["lr"]
    match settings.optimizer:
        case "adam":
            return Adam(groups, lr=lr, fused=True, capturable=on_gpu)
        case "adamw":
            return AdamW(groups, lr=lr, fused=True, capturable=on_gpu)
        case "sgd":
            momentum, nesterov = settings.momentum, settings.nesterov
            return SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)


def _groups(settings: Train, model: UNet) -> dict[tuple[float, float], list[nn.Parameter]]:
    """Parameters by their learning rate and weight decay, in the network's order.

    Vectors (biases, and scale and shift of normalisation) are not decayed.
    """
    of_encoder = {id(parameter) for parameter in model.encoder.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for parameter in model.parameters():
        factor = settings.encoder_lr_factor if id(parameter) in of_encoder else 1.0
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups[settings.lr * factor, decay].append(parameter)
    return groups


def rate_of(optimizer: Optimizer) -> float:
    """The learning rate of now, of all but the encoder, whose own is never higher."""
    return max(float(group["lr"]) for group in optimizer.param_groups)


class Plateau:
    """ReduceLROnPlateau: the rate falls after epochs that made the validation loss no better."""

    def __init__(self, settings: Train, optimizer: Optimizer):
        self.scheduler = ReduceLROnPlateau(
            optimizer,
            factor=settings.plateau_factor,
            patience=settings.plateau_patience,
            min_lr=[
                settings.min_lr * float(group["lr"]) / settings.lr
                for group in optimizer.param_groups
            ],
        )

    def before_step(self, step: int) -> None:
        """Within an epoch the rate stays."""

    def after_epoch(self, val_loss: float) -> None:
        """Take up the epoch's validation loss."""
        self.scheduler.step(val_loss)

    def state_dict(self) -> dict[str, Any]:
        """The best loss so far, and for how long it has been."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a saved state."""
        self.scheduler.load_state_dict(state)


class Curve:
    """The rate as a function of the step alone, so that there is nothing to remember.

    torch's own schedulers read a rate that lies on a GPU back at each step, and so wait for it.
    """

    def __init__(self, factor: Callable[[int], float], optimizer: Optimizer):
        self.factor = factor
        self.optimizer = optimizer
        self.highest = [float(group["lr"]) for group in optimizer.param_groups]

    def before_step(self, step: int) -> None:
        """Set each group's highest rate times the step's factor."""
        factor = self.factor(step)
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            set_rate(group, highest * factor)

    def after_epoch(self, val_loss: float) -> None:
        """The validation loss plays no part."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to go back to."""


Schedule = Plateau | Curve
"""Sets an optimiser's learning rates: before each step, and after each epoch."""


def schedule_of(settings: Train, optimizer: Optimizer, epoch_steps: int) -> Schedule:
    """The configured schedule.

    Args:
        settings: of the training.
        optimizer: whose rates are set.
        epoch_steps: steps of one epoch.
    """
    if settings.schedule == "plateau":
        return Plateau(settings, optimizer)
    return Curve(factor_of(settings, epoch_steps), optimizer)


def set_rate(group: dict[str, Any], lr: float) -> None:
    """Overwrite a group's rate, where it lies."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def factor_of(settings: Train, epoch_steps: int) -> Callable[[int], float]:
    """The rate at a step (from 0), as a share of the highest: up evenly, then down by the curve.

    With W steps of warm-up: (1 + step) / (1 + W), then poly or cosine over the steps that are left,
    from 1 towards `min_lr`, which is what the step after the last would have.
    """
    shape = _poly(settings.poly_power) if settings.schedule == "poly" else _cosine
    warmup = round(settings.warmup_epochs * epoch_steps)
    falling = max(1, settings.epochs * epoch_steps - warmup)
    least = settings.min_lr / settings.lr

    def factor(step: int) -> float:
        if step < warmup:
            return (1 + step) / (1 + warmup)
        return least + (1 - least) * shape(min(1.0, (step - warmup) / falling))

    return factor


def _poly(power: float) -> Callable[[float], float]:
    return lambda t: (1 - t) ** power


def _cosine(t: float) -> float:
    return (1 + math.cos(math.pi * t)) / 2


class Itself:
    """The network as it is trained."""

    def __init__(self, model: UNet):
        self.model = model

    def update(self) -> None:
        """It is up to date."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to go back to."""


class MovingAverage:
    """An exponential moving average of weights and of the statistics of normalisation.

    By torch's averaging function, but not its `AveragedModel`, which asks the GPU at each step
    how many it has averaged.
    """

    def __init__(self, trained: UNet, decay: float):
        self.model = copy.deepcopy(trained).requires_grad_(False)
        self.decay = decay
        self.steps = 0
        self.ours, self.theirs = _real_values(self.model), _real_values(trained)

    def update(self) -> None:
        """Move towards the weights after a step; by more in the beginning, when they are young."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        get_ema_multi_avg_fn(decay)(self.ours, self.theirs, self.steps)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """The average and its age."""
        return {"model": self.model.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a saved state."""
        self.model.load_state_dict(state["model"])
        self.steps = state["steps"]


Average = Itself | MovingAverage
"""Holds the network that is scored and kept, and takes up each step of the trained one."""


def average_of(settings: Train, model: UNet) -> Average:
    """The configured average; without one, the network itself."""
    return MovingAverage(model, settings.ema_decay) if settings.ema_decay else Itself(model)


def _real_values(model: UNet) -> list[Tensor]:
    """Weights and statistics, as they lie in memory; counters of steps play no part."""
    return [value for value in model.state_dict().values() if value.is_floating_point()]
