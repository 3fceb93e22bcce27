"""Scoring a network: exact confusion counts of every frame, at two resolutions.

Nothing is divided here; every score is computed from the counts later (`metrics`).
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from cityseg.augment import val_transform
from cityseg.config import Config
from cityseg.confusion import confusion_counts
from cityseg.losses import cross_entropy_sum
from cityseg.model import UNet, resize
from cityseg.samples import ValBatch, normalise, to_tensor


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


def autocast(config: Config, device: torch.device) -> AbstractContextManager[object]:
    """The precision of the forward pass: bfloat16 autocast, or nothing for float32."""
    wanted = config.train.precision
    on = wanted == "bfloat16" or (wanted == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=on)


@torch.no_grad()
def evaluate(
    model: UNet, batches: Iterable[ValBatch], config: Config, device: torch.device
) -> Evaluation:
    """Score a network on validation batches, in their order.

    Full-resolution logits (160 MB for one Cityscapes frame) exist for one frame at a time.
    """
    model.eval()
    names: list[str] = []
    low: list[Tensor] = []
    full: list[Tensor] = []
    loss, pixels = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
    for batch in batches:
        image, target = batch.image.to(device), batch.target.to(device)
        with autocast(config, device):
            logits = model(normalise(image))
        batch_loss, batch_pixels = cross_entropy_sum(logits, target)
        loss += batch_loss
        pixels += batch_pixels
        names += batch.names
        low += [confusion_counts(p, t) for p, t in zip(logits.argmax(1), target, strict=True)]
        full += [
            confusion_counts(full_prediction(frame, *own.shape), own.to(device))
            for frame, own in zip(logits, batch.full_targets, strict=True)
        ]
    mean_loss = float(loss / pixels.clamp(min=1))
    return Evaluation(names, mean_loss, *(torch.stack(c).cpu().numpy() for c in (low, full)))


def full_prediction(logits: Float[Tensor, "c _ _"], h: int, w: int) -> Int64[Tensor, "{h} {w}"]:
    """Train ids at a frame's own size: logits upsampled first, then the arg-max."""
    return resize(logits[None].float(), (h, w))[0].argmax(0)


@torch.no_grad()
def predict(
    model: UNet, image: UInt8[np.ndarray, "h w 3"], config: Config, device: torch.device
) -> UInt8[np.ndarray, "h w"]:
    """Train ids of one RGB image, at its own size, as evaluation computes them."""
    model.eval()
    h, w = image.shape[:2]
    resized, _ = val_transform(config.data)(image, np.zeros((h, w), np.uint8))
    with autocast(config, device):
        logits = model(normalise(to_tensor(resized)[None].to(device)))
    return full_prediction(logits[0], h, w).to(torch.uint8).cpu().numpy()
