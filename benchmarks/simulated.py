"""Studies made up from effects of known size, so that every score's true value is known, too.

A pixel of class c is right with the chance Phi(eta), eta being a sum of normal effects: of the
class, the city, the frame, the size of what is seen, and of the training. Phi of a normal variable
has the mean Phi(mean / sqrt(1 + variance)), and an IoU of endlessly many frames is a ratio of such
means: the truths below are exact. Frames are Cityscapes' train split: 2,975 of 18 cities.

What a network learned depends on its training frames and on its seed. The k networks of a
cross-validation share (k - 2) / (k - 1) of their training frames, so the first of these effects is
drawn for the folds' frames and summed over those that a network has seen; with it come correlated
scores, of which the spread over folds does not tell.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy import stats
from scipy.special import ndtr

from benchmarks.analysis_scale import COMMON, FULL_PX, SHARES
from cityseg.data import CITYSCAPES_TRAIN
from cityseg.folds import assign_cities
from study.tally import Layout, Tally

Grouping = Literal["frames", "cities"]

IOU: Final = np.array([
    .94, .80, .90, .50, .52, .57, .60, .70, .91, .59, .93, .76, .52, .92, .58, .68, .50, .48, .72,
])  # fmt: skip
"""About what a network of the paper's kind reaches in each class: 0.69 on average."""
SIZE_STD: Final = 0.8
"""Of the logarithm of how many pixels a class has in a frame that has it."""
SIZE_SLOPE: Final = 0.15
"""Large things are seen better: probits for one std of size."""
FALSE: Final = 0.05
"""Pixels of every frame that are taken for a class and are not, over its average of the class."""
CITY_LIKENESS: Final = 8.0
"""Of how often cities have a class: the sum of the parameters of a beta distribution."""
FRAME_STD: Final = 0.25
FRAME_CLASS_STD: Final = 0.5
"""Effects of a frame, on all its classes alike and on each by itself, in probits."""
OWN_SHARE: Final = 0.3
"""Of the variances of city and frame by class: of one row alone; rows have the rest in common."""


@dataclass(frozen=True)
class Effects:
    """Standard deviations, in points of mIoU (hundredths) where all classes move alike."""

    city: float = 3.0
    city_class: float = 6.0
    """Of each class by itself, as `training_class` and `seed_class`."""
    training: float = 0.4
    """What another training set of the same size does."""
    training_class: float = 0.8
    seed: float = 0.4
    seed_class: float = 0.8


@functools.cache
def _levels() -> tuple[Float64[np.ndarray, " c"], float]:
    """Probits of each class, and points of mIoU for one of all, for `Effects` of the usual size."""
    variance = 1 + SIZE_SLOPE**2 + FRAME_STD**2 + FRAME_CLASS_STD**2
    goal = stats.norm.ppf(np.minimum(IOU * (1 + FALSE), 0.99))
    slope = 100 * float((stats.norm.pdf(goal) / np.sqrt(variance)).mean()) / (1 + FALSE)
    return goal * np.sqrt(variance) - SIZE_SLOPE * SIZE_STD, slope


def probits(points: float) -> float:
    """That move the mIoU by so many hundredths if all classes move by them."""
    return points / _levels()[1]


def _variance(*points: float) -> float:
    return sum(probits(one) ** 2 for one in points)


@functools.lru_cache(maxsize=64)
def make_layout(
    grouping: Grouping, folds: int, seed: int, cities: int = len(CITYSCAPES_TRAIN)
) -> Layout:
    """The first cities of Cityscapes' train split in folds, whole ones by the product's own way."""
    sizes = dict(list(CITYSCAPES_TRAIN.items())[:cities])
    names = [f"{city}_000000_{i:06d}" for city, count in sizes.items() for i in range(count)]
    city = np.repeat(np.arange(cities), list(sizes.values()))
    if grouping == "cities":
        everywhere = dict.fromkeys(sizes, np.ones(1, bool))
        fold_of = assign_cities(sizes, everywhere, folds, seed)
        fold = np.array([fold_of[name] for name in sizes])[city]
    else:
        order = np.random.default_rng(seed).permutation(len(names))
        fold = np.empty(len(names), np.int64)
        fold[order] = np.arange(len(names)) * folds // len(names)
    return Layout(tuple(names), fold, city, folds)


@dataclass(frozen=True, eq=False)
class Truth:
    """What a row would score on endlessly many frames, 0-1."""

    classes: Float64[np.ndarray, " c"]
    """Of each class, mean of the folds."""
    pooled: Float64[np.ndarray, " c"]
    """Of each class, of all folds' pixels together."""

    @property
    def miou(self) -> float:
        """Mean of the folds' mIoU."""
        return float(self.classes.mean())


TruthName = Literal[
    "networks, same cities",
    "networks, new cities",
    "trainings, same cities",
    "trainings, new cities",
]
"""Of these k networks or of the recipe, whose networks are trained anew on as many frames; on
other frames of the same cities (of each network's own fold, where these are folds) or of others."""


@dataclass(frozen=True, eq=False)
class Simulated:
    """One study."""

    tallies: dict[str, Tally]
    """By the row's name, `v000` and on. All rows are equally good recipes."""
    truths: dict[str, dict[TruthName, Truth]]


def simulate(
    layout: Layout,
    effects: Effects,
    rows: int,
    rng: np.random.Generator,
    gains: Sequence[float] = (),
) -> Simulated:
    """Draw a study.

    Args:
        layout: its frames and folds.
        effects: how large they are.
        rows: how many.
        rng: of all draws.
        gains: points of mIoU by which each recipe is better than the first; 0 by default.
    """
    shared = _Shared.draw(layout, effects, rng)
    tallies, truths = {}, {}
    for row in range(rows):
        gain = probits(gains[row]) if len(gains) else 0.0
        tallies[f"v{row:03d}"], truths[f"v{row:03d}"] = shared.row(gain, rng)
    return Simulated(tallies, truths)


@dataclass(frozen=True, eq=False)
class _Shared:
    """What the rows of a study have in common."""

    layout: Layout
    effects: Effects
    presence: Float64[np.ndarray, "y c"]
    """How often each city has a class."""
    labels: Float32[np.ndarray, "n c"]
    """Pixels of each class."""
    frame: Float32[np.ndarray, "n c"]
    """Probits of what is seen, without the city."""
    city: Float64[np.ndarray, "y c"]
    training: Float64[np.ndarray, "k c"]
    """What the training frames did, as far as they do it to every row."""

    @staticmethod
    def draw(layout: Layout, effects: Effects, rng: np.random.Generator) -> "_Shared":
        frames, cities, classes = len(layout.names), layout.cities, len(IOU)
        shape = (frames, classes)
        presence = rng.beta(CITY_LIKENESS * COMMON, CITY_LIKENESS * (1 - COMMON) + 1e-9,
                            (cities, classes))  # fmt: skip
        there = rng.random(shape, np.float32) < presence[layout.city]
        size = rng.standard_normal(shape, np.float32)
        usual = (SHARES / COMMON * FULL_PX * np.exp(-(SIZE_STD**2) / 2)).astype(np.float32)
        labels = there * usual * np.exp(np.float32(SIZE_STD) * size)
        frame = np.float32(SIZE_SLOPE) * size
        frame += np.float32(FRAME_STD) * rng.standard_normal((frames, 1), np.float32)
        frame += np.float32(np.sqrt(1 - OWN_SHARE) * FRAME_CLASS_STD) * rng.standard_normal(
            shape, np.float32
        )
        city = probits(effects.city) * rng.standard_normal((cities, 1)) + np.sqrt(1 - OWN_SHARE) * (
            probits(effects.city_class) * rng.standard_normal((cities, classes))
        )
        training = _training(layout, effects, rng) * np.sqrt(0.5)
        return _Shared(layout, effects, presence, labels, frame, city, training)

    def row(self, gain: float, rng: np.random.Generator) -> tuple[Tally, dict[TruthName, Truth]]:
        layout, effects, classes = self.layout, self.effects, len(IOU)
        own = np.sqrt(OWN_SHARE)
        city = self.city + own * probits(effects.city_class) * rng.standard_normal(self.city.shape)
        training = self.training + _training(layout, effects, rng) * np.sqrt(0.5)
        training = training + probits(effects.seed) * rng.standard_normal((layout.folds, 1))
        training = training + probits(effects.seed_class) * rng.standard_normal(
            (layout.folds, classes)
        )
        level = _levels()[0] + gain
        known = (level + city[None] + training[:, None]).astype(np.float32)
        eta = known[layout.fold, layout.city] + self.frame
        eta += np.float32(own * FRAME_CLASS_STD) * rng.standard_normal(eta.shape, np.float32)
        hits = np.floor(self.labels * ndtr(eta))
        counts = np.stack([hits, np.floor(self.labels) + np.ceil(FALSE * SHARES * FULL_PX)], 1)
        return Tally(layout, counts.astype(np.uint32)), self._truths(level, city, training)

    def _truths(
        self, level: Float64[np.ndarray, " c"], city: Float64[np.ndarray, "y c"],
        training: Float64[np.ndarray, "k c"],
    ) -> dict[TruthName, Truth]:  # fmt: skip
        one = self.effects
        of_frame = 1 + SIZE_SLOPE**2 + FRAME_STD**2 + FRAME_CLASS_STD**2
        of_city = _variance(one.city, one.city_class)
        of_training = _variance(one.training, one.training_class, one.seed, one.seed_class)
        level = level + SIZE_SLOPE * SIZE_STD
        # how many frames of a fold are of each city, as far as that is known beforehand
        cell = self.layout.fold * self.layout.cities + self.layout.city
        shape = (self.layout.folds, self.layout.cities)
        mix = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
        if (mix > 0).all():
            mix = np.ones((self.layout.folds, 1)) * mix.sum(0)

        def same(training: Float64[np.ndarray, "k c"], variance: float) -> Truth:
            chance = ndtr((level + city[None] + training[:, None]) / np.sqrt(variance))
            hits = np.einsum("ky,yc,kyc->kc", mix, self.presence, chance)
            unions = mix @ (self.presence + FALSE * COMMON)
            return _truth(hits, unions)

        def new(training: Float64[np.ndarray, "k c"], variance: float) -> Truth:
            chance = ndtr((level + training) / np.sqrt(variance))
            sizes = self.layout.sizes[:, None] * COMMON
            return _truth(sizes * chance, sizes * (1 + FALSE))

        nothing = np.zeros_like(training)
        return {
            "networks, same cities": same(training, of_frame),
            "networks, new cities": new(training, of_frame + of_city),
            "trainings, same cities": same(nothing, of_frame + of_training),
            "trainings, new cities": new(nothing, of_frame + of_city + of_training),
        }


def _truth(hits: Float64[np.ndarray, "k c"], unions: Float64[np.ndarray, "k c"]) -> Truth:
    return Truth((hits / unions).mean(0), hits.sum(0) / unions.sum(0))


def _training(
    layout: Layout, effects: Effects, rng: np.random.Generator
) -> Float64[np.ndarray, "k c"]:
    """What the training frames do: of unit variance a network before it is scaled to `effects`."""
    alike = seen_sums(layout.sizes, rng.standard_normal((layout.folds, 1)))
    apart = seen_sums(layout.sizes, rng.standard_normal((layout.folds, len(IOU))))
    return probits(effects.training) * alike + probits(effects.training_class) * apart


def seen_sums(
    sizes: Int64[np.ndarray, " k"], draws: Float64[np.ndarray, "k c"]
) -> Float64[np.ndarray, "k c"]:
    """Sums over the frames that each fold's network has seen, scaled to unit variance.

    Args:
        sizes: frames of each fold.
        draws: of unit variance, one for each fold's frames together.
    """
    root = np.sqrt(sizes)[:, None]
    of_folds = draws * root
    return (of_folds.sum(0) - of_folds) / np.sqrt(sizes.sum() - sizes)[:, None]


def corrected_variance_ratio(folds: int, trained: float) -> float:
    """Expected estimate of Nadeau and Bengio over the true variance of a mean of k equal folds.

    With independent variance 1 a fold and `trained` times as much from the training sets, whose
    correlation is (k - 2) / (k - 1): above 1 the interval is too wide, below too narrow.
    """
    spread = 1 + trained / (folds - 1)
    true = 1 / folds + trained * (folds - 1) / folds
    return (1 / folds + 1 / (folds - 1)) * spread / true
