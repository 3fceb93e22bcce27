"""Scoring a network: exact confusion counts of every frame, at two resolutions.

Nothing is divided here; every score is computed from the counts later (`metrics`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from cityseg import atomic
from cityseg.cell import DAMAGED
from cityseg.config import Config
from cityseg.confusion import confusion_counts
from cityseg.errors import InputError
from cityseg.inference import Scorer, scorer
from cityseg.inputs import ValBatch, normalise, seen
from cityseg.labels import NUM_CLASSES
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
    """At the input size, against resized labels; rows are labels, columns predictions. Scores of
    another size (`inference.input` native) are resized to it."""
    full: Int64[np.ndarray, "m 19 19"]
    """Logits upsampled to each frame's own size, against its own labels; of the same frames, or of
    none where the batches hold no such labels."""


def write_counts(path: Path, evaluation: Evaluation) -> None:
    """Write an evaluation as a compressed npz: `names`, `loss`, `low` and `full`."""
    with atomic.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **asdict(evaluation))


def read_counts(path: Path) -> Evaluation:
    """Read what `write_counts` wrote.

    Raises:
        InputError: the file is damaged or not of this form.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = [str(name) for name in arrays["names"]]
            return Evaluation(names, float(arrays["loss"]), arrays["low"], arrays["full"])
    except DAMAGED as error:
        raise InputError(f"{path} is not a table of counts", got=str(error)) from None


class Forward:
    """From images to logits, in the configured precision; compiled if so configured and `fused`.

    Only batches of the first one's size use the compiled code: it is made for one size, and the
    last batch of an epoch may be short. It takes a minute or more to make: not for a few images.
    """

    def __init__(self, model: UNet, config: Config, device: torch.device, fused: bool = True):
        self.model = model
        self.precision = precision_of(config, device)
        fused = fused and config.train.compile and device.type == "cuda"
        self.compiled = torch.compile(self._logits, dynamic=False) if fused else self._logits
        self.size: torch.Size | None = None

    def __call__(self, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 19 h w"]:
        """Logits of images of 0-255 that are on the device."""
        self.size = self.size or image.shape
        return self.compiled(image) if image.shape == self.size else self._logits(image)

    def _logits(self, image: Tensor) -> Tensor:
        with self.precision.autocast():
            return self.model(normalise(image))


class Tally:
    """What is known of the frames scored so far."""

    def __init__(self, device: torch.device):
        self.names: list[str] = []
        self.low: list[Tensor] = []
        self.full: list[Tensor] = []
        self.loss, self.pixels = torch.zeros(2, dtype=torch.float64, device=device)

    def add(self, batch: ValBatch, scores: Float[Tensor, "b c _ _"]) -> None:
        """Count a batch that is on the device, with its scores at the size of its images."""
        logits = resize(scores, batch.target.shape[-2:])
        batch_loss, batch_pixels = cross_entropy_sum(logits, batch.target)
        self.loss += batch_loss
        self.pixels += batch_pixels
        self.names += batch.names
        self.low.append(confusion_counts(prediction(logits), batch.target))
        self.full.append(_full_counts(scores, batch.full_targets))

    def evaluation(self) -> Evaluation:
        """Counts of all frames; waits for the device."""
        mean_loss = float(self.loss / self.pixels.clamp(min=1))
        low, full = (torch.cat(counts).cpu().numpy() for counts in (self.low, self.full))
        return Evaluation(self.names, mean_loss, low, full)


def evaluate(
    model: UNet,
    batches: Iterable[ValBatch],
    config: Config,
    device: torch.device,
    forward: Forward | None = None,
) -> Evaluation:
    """Score a network on validation batches, in their order, by `config.inference`.

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
    score = scorer(config.inference, [forward or Forward(model, config, device)])
    return count(score, batches, device)


@torch.no_grad()
def count(score: Scorer, batches: Iterable[ValBatch], device: torch.device) -> Evaluation:
    """Counts of whatever scores images, over validation batches in their order."""
    tally = Tally(device)
    for batch in batches:
        placed = batch.to(device)
        tally.add(placed, score(placed.image))
    return tally.evaluation()


def low_only(batches: Iterable[ValBatch]) -> Iterator[ValBatch]:
    """The batches without their full-size labels: they are then scored at the input size alone."""
    return (replace(batch, full_targets=[]) for batch in batches)


def _full_counts(
    logits: Float[Tensor, "b c _ _"], own: list[UInt8[Tensor, "_ _"]]
) -> Int64[Tensor, "m 19 19"]:
    if not own:
        return torch.zeros((0, NUM_CLASSES, NUM_CLASSES), dtype=torch.int64, device=logits.device)
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


def predict(
    model: UNet, image: UInt8[np.ndarray, "h w 3"], config: Config, device: torch.device
) -> UInt8[np.ndarray, "h w"]:
    """Train ids of one RGB image, at its own size, as evaluation computes them."""
    model.eval()
    score = scorer(config.inference, [Forward(model, config, device, fused=False)])
    return segmented(score, image, config, device)


@torch.no_grad()
def segmented(
    score: Scorer, image: UInt8[np.ndarray, "h w 3"], config: Config, device: torch.device
) -> UInt8[np.ndarray, "h w"]:
    """Train ids of one RGB image, at its own size, by whatever scores images."""
    batch = torch.from_numpy(seen(image, config))[None].permute(0, 3, 1, 2).to(device)
    return full_prediction(score(batch)[0], *image.shape[:2]).cpu().numpy()
