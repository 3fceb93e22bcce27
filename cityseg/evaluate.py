"""Scoring a network: exact confusion counts of every frame, at two resolutions.

Nothing is divided here; every score is computed from the counts later (`metrics`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from cityseg.config import Config
from cityseg.confusion import confusion_counts
from cityseg.inputs import ValBatch, normalise, resized
from cityseg.losses import cross_entropy_sum
from cityseg.model import UNet, resize
from cityseg.precision import precision_of

STRIP_ROWS: Final = 16
"""Rows of logits that a CPU upsamples at a time."""


@dataclass(frozen=True)
class Evaluation:
    """Counts of every frame of a set, and the loss over all of it."""

    names: list[str]
    loss: float
    """Cross-entropy over all labelled pixels at the input size, nats a pixel."""
    low: Int64[np.ndarray, "n 19 19"]
    """At the input size, against resized labels; rows are labels, columns predictions."""
    full: Int64[np.ndarray, "n 19 19"]
    """Logits upsampled to each frame's own size, against its own labels."""


class Forward:
    """From images to logits, in the configured precision; compiled if so configured.

    Only batches of the first one's size use the compiled code: it is made for one size, and the
    last batch of an epoch may be short.
    """

    def __init__(self, model: UNet, config: Config, device: torch.device):
        self.model = model
        self.precision = precision_of(config, device)
        fused = config.train.compile and device.type == "cuda"
        self.compiled = torch.compile(self._logits, dynamic=False) if fused else self._logits
        self.size: torch.Size | None = None

    def __call__(self, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 19 h w"]:
        """Logits of images of 0-255 that are on the device."""
        self.size = self.size or image.shape
        return self.compiled(image) if image.shape == self.size else self._logits(image)

    def _logits(self, image: Tensor) -> Tensor:
        with self.precision.autocast():
            return self.model(normalise(image))


@torch.no_grad()
def evaluate(
    model: UNet,
    batches: Iterable[ValBatch],
    config: Config,
    device: torch.device,
    forward: Forward | None = None,
) -> Evaluation:
    """Score a network on validation batches, in their order.

    Args:
        model: the network; it is put into evaluation mode.
        batches: what it is scored on.
        config: that it was trained with.
        device: where it is.
        forward: its forward pass, if it was made before: a compiled one is not compiled again.

    Full-resolution logits (160 MB for one Cityscapes frame) exist for one frame at a time, on a CPU
    for a few rows of it.
    """
    model.eval()
    forward = forward or Forward(model, config, device)
    names: list[str] = []
    low: list[Tensor] = []
    full: list[Tensor] = []
    loss, pixels = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
    for batch in batches:
        image, target, *own = (
            part.to(device, non_blocking=True)
            for part in (batch.image, batch.target, *batch.full_targets)
        )
        logits = forward(image)
        batch_loss, batch_pixels = cross_entropy_sum(logits, target)
        loss += batch_loss
        pixels += batch_pixels
        names += batch.names
        low.append(confusion_counts(prediction(logits), target))
        full.append(_full_counts(logits, own))
    mean_loss = float(loss / pixels.clamp(min=1))
    return Evaluation(names, mean_loss, *(torch.cat(c).cpu().numpy() for c in (low, full)))


def _full_counts(
    logits: Float[Tensor, "b c _ _"], own: list[UInt8[Tensor, "_ _"]]
) -> Int64[Tensor, "b 19 19"]:
    predictions = [full_prediction(frame, *t.shape) for frame, t in zip(logits, own, strict=True)]
    if len({t.shape for t in own}) == 1:
        return confusion_counts(torch.stack(predictions), torch.stack(own))
    pairs = zip(predictions, own, strict=True)
    return torch.cat([confusion_counts(p[None], t[None]) for p, t in pairs])


def prediction(logits: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b h w"]:
    """Train ids of the largest logits."""
    if logits.device.type == "cpu":  # where the comparison wants a pixel's logits side by side
        logits = logits.contiguous(memory_format=torch.channels_last)
    return logits.argmax(1).to(torch.uint8)


def full_prediction(logits: Float[Tensor, "c _ _"], h: int, w: int) -> UInt8[Tensor, "{h} {w}"]:
    """Train ids at a frame's own size: logits upsampled first, then the arg-max."""
    logits = logits[None].float()
    if logits.device.type == "cuda":
        return prediction(resize(logits.contiguous(), (h, w)))[0]
    logits = logits.contiguous(memory_format=torch.channels_last)
    rows = [prediction(strip)[0] for strip in _upsampled(logits, h, w)]
    return torch.cat(rows)


def _upsampled(
    logits: Float[Tensor, "1 c _ _"], h: int, w: int
) -> Iterator[Float[Tensor, "1 c _ {w}"]]:
    """`resize` a few rows at a time, which stay in the processor's cache.

    To the bit, as the place of a row in the low resolution is exact in binary where the factor is a
    power of two; for other factors all rows come at once.
    """
    factor = h / logits.shape[2]
    if factor not in (2, 4, 8):
        yield resize(logits, (h, w))
        return
    times, height = int(factor), logits.shape[2]
    for top in range(0, height, STRIP_ROWS):
        bottom = min(height, top + STRIP_ROWS)
        first, last = max(0, top - 1), min(height, bottom + 1)  # a row more for the interpolation
        strip = resize(logits[:, :, first:last], (times * (last - first), w))
        yield strip[:, :, times * (top - first) : times * (bottom - first)]


@torch.no_grad()
def predict(
    model: UNet, image: UInt8[np.ndarray, "h w 3"], config: Config, device: torch.device
) -> UInt8[np.ndarray, "h w"]:
    """Train ids of one RGB image, at its own size, as evaluation computes them."""
    model.eval()
    h, w = image.shape[:2]
    small, _ = resized(image, np.zeros((h, w), np.uint8), config.data.input_size)
    batch = torch.from_numpy(small)[None].permute(0, 3, 1, 2).to(device)
    logits = Forward(model, config, device)(batch)
    return full_prediction(logits[0], h, w).cpu().numpy()
