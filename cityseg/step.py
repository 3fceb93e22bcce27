"""One step of the optimisation, as fast as the device lets: eager, or recorded as a CUDA graph.

At the paper's batch of two an H100 computes a step faster than Python can ask for its thousand
kernels. So the first steps run as usual, the next is recorded, and from then on one call replays
it: the same kernels on the same memory, hence the same numbers.
"""

from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from cityseg.config import Config
from cityseg.inputs import TrainBatch, normalise
from cityseg.labels import IGNORE
from cityseg.losses import Criterion
from cityseg.model import UNet
from cityseg.precision import precision_of

EAGER_STEPS: Final = 3
"""Before the recording: kernels are chosen, and the optimiser's state is made."""

Step = Callable[[TrainBatch], Float[Tensor, ""]]
"""Moves the network by one batch; returns the loss before the move, on the device: reading it waits
for the device."""


def training_step(
    model: UNet,
    optimizer: Optimizer,
    criterion: Criterion,
    config: Config,
    device: torch.device,
) -> Step:
    """The fastest step for a device, as configured; `model` is in training mode when it is used."""
    move = Move(model, optimizer, criterion, config, device)
    if device.type != "cuda":
        return lambda batch: move(*_on(device, batch))
    return GraphedStep(move, device)


class Move:
    """One step on a batch that is on the device: `train.accumulate` passes, each over an even part
    of it, whose gradients add up to one move.

    The parts count by their labelled pixels, so that the mean cross-entropy is that of the batch as
    a whole (other losses, and batch norm, see one part at a time).
    """

    def __init__(
        self,
        model: UNet,
        optimizer: Optimizer,
        criterion: Criterion,
        config: Config,
        device: torch.device,
    ):
        self.model = model
        self.optimizer = optimizer
        self.criterion = criterion
        self.passes = config.train.accumulate
        self.clip = _clipping(config.train.clip_norm)
        self.precision = precision_of(config, device)
        fused = config.train.compile and device.type == "cuda"
        self.loss_of = torch.compile(self._loss_of, dynamic=False) if fused else self._loss_of

    def __call__(
        self, image: UInt8[Tensor, "b 3 h w"], target: UInt8[Tensor, "b h w"]
    ) -> Float[Tensor, ""]:
        """Move the weights by the gradient; returns the loss before.

        Args:
            image: 0-255.
            target: train ids.
        """
        self.optimizer.zero_grad()
        losses: list[Tensor] = []
        parts = zip(image.chunk(self.passes), target.chunk(self.passes), strict=True)
        for (part, labels), share in zip(parts, _shares(target, self.passes), strict=True):
            loss = share * self.loss_of(part, labels)
            loss.backward()
            losses.append(loss.detach())
        self.clip(self.model)
        self.optimizer.step()
        return torch.stack(losses).sum()

    def _loss_of(self, image: Tensor, target: Tensor) -> Tensor:
        with self.precision.autocast():
            outputs = self.model.supervised(normalise(image))
        weighted = [
            weight * self.criterion(logits, target)
            for weight, logits in zip(self.model.supervision, outputs, strict=True)
        ]
        return torch.stack(weighted).sum()


def _shares(target: UInt8[Tensor, "b h w"], parts: int) -> Float[Tensor, " {parts}"]:
    """Share of a batch's labelled pixels that lies in each of its even parts."""
    labelled = (target != IGNORE).unflatten(0, (parts, -1)).sum((1, 2, 3))
    return labelled / labelled.sum().clamp(min=1)


def _clipping(longest: float) -> Callable[[nn.Module], None]:
    """What shortens a network's gradient, as one vector, to `longest`; 0 is off."""

    def clip(model: nn.Module) -> None:
        clip_grad_norm_(model.parameters(), longest)

    return clip if longest else lambda _: None


class GraphedStep:
    """A few steps one operation at a time, then replays of a CUDA graph of a whole step.

    All batches must be of one size, and the optimiser `capturable`, with a tensor for its rate. The
    memory of the recorded step stays taken.
    """

    def __init__(self, move: Move, device: torch.device):
        self.move = move
        self.device = device
        self.steps = 0
        self.stream = torch.cuda.Stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.image = self.target = self.loss = torch.empty(0)

    def __call__(self, batch: TrainBatch) -> Float[Tensor, ""]:
        """One step; the loss is overwritten by the next."""
        self.steps += 1
        if self.steps <= EAGER_STEPS:
            return self._eager(batch)
        if self.graph is None:
            self.graph = self._record(batch)
        self.image.copy_(batch.image, non_blocking=True)
        self.target.copy_(batch.target, non_blocking=True)
        self.graph.replay()
        return self.loss

    def _eager(self, batch: TrainBatch) -> Tensor:
        """On the stream of the recording: what autograd keeps is tied to it."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            loss = self.move(*_on(self.device, batch))
        torch.cuda.current_stream().wait_stream(self.stream)
        return loss

    def _record(self, batch: TrainBatch) -> torch.cuda.CUDAGraph:
        """Nothing is computed yet."""
        self.image, self.target = _on(self.device, batch)
        self.move.optimizer.zero_grad()  # gradients are to lie in the graph's own memory
        graph = torch.cuda.CUDAGraph()
        # the thread that pins batches calls CUDA, too: only this thread is to be recorded
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            self.loss = self.move(self.image, self.target)
        return graph


def _on(device: torch.device, batch: TrainBatch) -> tuple[Tensor, Tensor]:
    """The batch's tensors on the device, without waiting for it."""
    image, target = (part.to(device, non_blocking=True) for part in (batch.image, batch.target))
    return image, target
