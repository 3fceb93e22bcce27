"""A dense conditional random field over a frame's scores: neighbours of a colour are of a class.

Kraehenbuehl and Koltun, *Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials*
(NIPS 2011): their energy (equations 1 to 3, Potts compatibility) and their mean field
(algorithm 1). Their messages between all pairs of pixels go through a permutohedral lattice; here,
as in Teichmann and Cipolla's *Convolutional CRFs* (2018), they are exact, but end at a window, and
may be passed at a lower resolution. With a window over the whole frame and `blur` 1 this is the
mean field of the fully connected field.

Own code, as the packages with the lattice (pydensecrf, its fork pydensecrf2, SimpleCRF) are C++
sources that are not kept up: last released in 2018, 2024 and 2021.
"""

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate, log_softmax, softmax

from cityseg.config import Crf

TINY: Final = 1e-20
"""Keeps a pixel without any neighbour of its colour from dividing by zero."""

Slices = tuple[slice, slice]


class Pair(NamedTuple):
    """All pairs of pixels at one offset: where the first ones lie, and the second ones."""

    here: Slices
    there: Slices
    appearance: Float[Tensor, "b 1 _ _"]
    smoothness: float


def refine(
    scores: Float[Tensor, "b c h w"], image: UInt8[Tensor, "b 3 h w"], settings: Crf
) -> Float[Tensor, "b c h w"]:
    """Scores after some rounds of mean field; of no round, the very same.

    Args:
        scores: logits or log-probabilities, whose softmax is the unary term.
        image: RGB, 0-255, of the same size.
        settings: rounds, weights and reach.

    Beyond the arguments it takes the memory of a few score maps, whatever the window.
    """
    if settings.iterations == 0:
        return scores
    unary = log_softmax(scores.float(), 1)
    messages = Messages(_shrunk(image.float(), settings.blur), settings)
    refined = unary
    for _ in range(settings.iterations):
        beliefs = _shrunk(softmax(refined, 1), settings.blur)
        refined = unary + _grown(messages(beliefs), unary)
    return refined


class Messages:
    """What every pixel hears from its neighbours: their beliefs, weighted by two Gaussian kernels.

    Equation 3: an appearance kernel on place and colour, a smoothness kernel on place alone, each
    normalised symmetrically by its sums over the window, so that the weights mean the same at
    any reach. A pixel does not hear itself.
    """

    def __init__(self, image: Float[Tensor, "b 3 h w"], settings: Crf):
        self.image = image
        self.settings = settings
        self.appearance, self.smoothness = self._norms()

    def __call__(self, beliefs: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Weighted sums of the neighbours' beliefs: what they add to the scores of each class."""
        heard = torch.zeros_like(beliefs)
        for pair in self._pairs():
            weight = self._weight(pair)
            _at(heard, pair.here).addcmul_(weight, _at(beliefs, pair.there))
            _at(heard, pair.there).addcmul_(weight, _at(beliefs, pair.here))
        return heard

    def _weight(self, pair: Pair) -> Float[Tensor, "b 1 _ _"]:
        appearance, smoothness = (
            kernel * _at(norm, pair.here) * _at(norm, pair.there)
            for kernel, norm in (
                (pair.appearance, self.appearance),
                (pair.smoothness, self.smoothness),
            )
        )
        s = self.settings
        return s.appearance_weight * appearance + s.smoothness_weight * smoothness

    def _norms(self) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b 1 h w"]]:
        appearance, smoothness = (torch.zeros_like(self.image[:, :1]) for _ in range(2))
        for pair in self._pairs():
            for place in (pair.here, pair.there):
                _at(appearance, place).add_(pair.appearance)
                _at(smoothness, place).add_(pair.smoothness)
        return (appearance + TINY).rsqrt(), (smoothness + TINY).rsqrt()

    def _pairs(self) -> Iterator[Pair]:
        """Every pair within the window once; its kernels are the same from both sides."""
        s, (h, w) = self.settings, self.image.shape[-2:]
        for dy, dx in _offsets(s.radius, h, w):
            here, there = _overlap(dy, dx, h, w)
            distance = (dy**2 + dx**2) * s.blur**2  # in pixels of the frame
            difference = _at(self.image, here) - _at(self.image, there)
            color = difference.square().sum(1, keepdim=True) / s.color_sd**2
            appearance = torch.exp(-0.5 * (color + distance / s.position_sd_px**2))
            smoothness = math.exp(-0.5 * distance / s.smoothness_sd_px**2)
            yield Pair(here, there, appearance, smoothness)


def _offsets(radius: int, h: int, w: int) -> list[tuple[int, int]]:
    """Half of the window's offsets, the other half being their opposites; none beyond the frame."""
    rows, columns = min(radius, h - 1), min(radius, w - 1)
    return [
        (dy, dx)
        for dy in range(rows + 1)
        for dx in range(-columns, columns + 1)
        if dy > 0 or dx > 0
    ]


def _overlap(dy: int, dx: int, h: int, w: int) -> tuple[Slices, Slices]:
    """Of pixels (y, x) and (y + dy, x + dx): where both are in the frame."""
    left, right = max(0, -dx), min(w, w - dx)
    here = slice(0, h - dy), slice(left, right)
    there = slice(dy, h), slice(left + dx, right + dx)
    return here, there


def _at(x: Tensor, place: Slices) -> Tensor:
    return x[:, :, place[0], place[1]]


def _shrunk(x: Float[Tensor, "b c h w"], blur: int) -> Float[Tensor, "b c _ _"]:
    """Means over blocks of `blur` pixels a side."""
    if blur == 1:
        return x
    return interpolate(x, size=[-(-side // blur) for side in x.shape[-2:]], mode="area")


def _grown(x: Float[Tensor, "b c _ _"], like: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    if x.shape == like.shape:
        return x
    return interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
