"""Bootstrap over out-of-fold frames or whole cities: how far scores hold for other frames.

Networks are taken as they were trained; only the frames that they are scored on vary. Frames of a
city are alike, so drawing whole cities (a cluster bootstrap) is the more honest. Draws stay within
folds, and m - 1 of m units are drawn with replacement, which makes the bootstrap variance of a
mean the unbiased s^2 / m (Rao and Wu, JASA 83, 1988): with 6 cities a fold, m draws would give a
sixth less.

`scipy.stats.bootstrap` resamples arrays by index: it knows no clusters, no strata and no shared
draws, and would gather frames x 38 counts a replicate. Here a replicate is one row of a matrix
product with how often each unit was drawn; sums of counts stay exact in float64 (below 2^53).

Of the intervals, that by Student's t is printed, with the replicates' standard error and the
freedom of units of unlike size: quantiles of the replicates, plain or by BCa, hold the truth too
seldom where cities are few (benchmarks/coverage.md).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.special import ndtr, ndtri

from cityseg.errors import InputError
from study.statistics import ALPHA, UNKNOWN, Interval, t_interval
from study.tally import (
    Layout,
    Tally,
    class_iou,
    group_members,
    mean_of_folds,
    mean_over,
    pooled_miou,
)

Unit = Literal["frames", "cities"]
"""What is drawn: single frames, or cities with all their frames."""
REPLICATES: Final = 2000
"""Enough for the ends of a 95 % interval to move by about a twentieth of its width."""
MIN_FREEDOM: Final = 5
"""Cities more than strata, from which on whole cities are drawn."""

UnitSums = list[Float64[np.ndarray, "m f 2 c"]]
"""Of one row, for each stratum: counts of each of its units in each of its folds."""


@dataclass(frozen=True, eq=False)
class Stratum:
    """Units that are drawn among each other, and how often each was."""

    frames: Int64[np.ndarray, " n"]
    """Indices into the layout."""
    unit: Int64[np.ndarray, " n"]
    """Of each of these frames, from 0."""
    folds: Int64[np.ndarray, " f"]
    """That these frames stand in."""
    fold: Int64[np.ndarray, " n"]
    """Of each of these frames, as an index into `folds`."""
    weights: Float64[np.ndarray, "b m"]
    """How often each unit was drawn in each replicate; whole numbers that sum to m - 1."""

    @property
    def units(self) -> int:
        """How many there are to be drawn from (m)."""
        return self.weights.shape[1]

    @functools.cached_property
    def not_drawn(self) -> Float64[np.ndarray, "b m"]:
        """1 for each unit that a replicate has not drawn, else 0."""
        return (self.weights == 0).astype(np.float64)

    @functools.cached_property
    def membership(self) -> sparse.csr_array:
        """Which frames are of each unit in each fold: its product with their counts sums them."""
        shape = (self.units, len(self.folds))
        group = np.ravel_multi_index((self.unit, self.fold), shape)
        return group_members(group, math.prod(shape))


@dataclass(frozen=True, eq=False)
class Resampling:
    """Draws of units, the same for every row that they are laid on: comparisons are paired.

    A stratum is a fold; where cities stand in several folds, it is all the folds that share any,
    and a city brings its frames to each of them.
    """

    layout: Layout
    unit: Unit
    strata: tuple[Stratum, ...]
    replicates: int

    @property
    def units(self) -> int:
        """Frames or cities in all."""
        return sum(stratum.units for stratum in self.strata)

    @property
    def possible(self) -> bool:
        """Whether every stratum has two units or more: one alone says nothing about others."""
        return all(stratum.units > 1 for stratum in self.strata)

    @functools.cached_property
    def freedom(self) -> float:
        """Degrees of freedom of a score of all frames: effective units less strata, 1 or more."""
        frames = [np.bincount(stratum.unit)[:, None] for stratum in self.strata]
        return float(_freedom(frames)[0])

    def class_freedom(self, sums: UnitSums) -> Float64[np.ndarray, " c"]:
        """The same of each class' IoU, by how its pixels are spread over the units."""
        return _freedom([units[:, :, 1].sum(1) for units in sums])

    @property
    def scale(self) -> Float64[np.ndarray, " k"]:
        """What a fold's sums are multiplied by before folds are pooled: m - 1 draws stand for m."""
        scale = np.ones(self.layout.folds)
        for stratum in self.strata:
            scale[stratum.folds] = stratum.units / max(stratum.units - 1, 1)
        return scale / scale.max()

    def unit_sums(self, tally: Tally) -> UnitSums:
        """For each stratum, counts of each of its units in each of its folds.

        Raises:
            InputError: they are of other frames or folds than what was drawn.
        """
        self.check(tally)
        return [_unit_sums(tally, stratum) for stratum in self.strata]

    def totals(self, sums: UnitSums) -> Float64[np.ndarray, "k 2 c"]:
        """Each fold's sums over all units."""
        return self._laid_on(sums, [np.ones((1, stratum.units)) for stratum in self.strata])[0]

    def drawn(self, sums: UnitSums) -> Float64[np.ndarray, "b k 2 c"]:
        """Each fold's sums over the units drawn."""
        return self._laid_on(sums, [stratum.weights for stratum in self.strata])

    def left_over(self, sums: UnitSums) -> Float64[np.ndarray, "b k 2 c"]:
        """Each fold's sums over the units that were not drawn: out of the bag."""
        return self._laid_on(sums, [stratum.not_drawn for stratum in self.strata])

    def _laid_on(
        self, sums: UnitSums, weights: Sequence[Float64[np.ndarray, "b _m"]]
    ) -> Float64[np.ndarray, "b k 2 c"]:
        """By weights of each stratum's units."""
        laid = np.zeros((len(weights[0]), self.layout.folds, *sums[0].shape[2:]))
        for stratum, units, times in zip(self.strata, sums, weights, strict=True):
            products = times @ units.reshape(stratum.units, -1)
            laid[:, stratum.folds] = products.reshape(-1, *units.shape[1:])
        return laid

    def without_one(self, sums: UnitSums) -> list[Float64[np.ndarray, "m k 2 c"]]:
        """For each stratum, each fold's sums without each of its units in turn (a jackknife)."""
        totals, jackknives = self.totals(sums), []
        for stratum, units in zip(self.strata, sums, strict=True):
            left = np.repeat(totals[None], stratum.units, 0)
            left[:, stratum.folds] -= units
            jackknives.append(left)
        return jackknives

    def check(self, tally: Tally) -> None:
        """Refuse counts of other frames or folds.

        Raises:
            InputError: they cannot be paired with what was drawn.
        """
        if not self.layout.agrees(tally.layout):
            got, expected = (
                f"{len(layout.names)} frames in {layout.folds} folds"
                for layout in (tally.layout, self.layout)
            )
            raise InputError(
                "rows that were not scored on the same frames in the same folds cannot be paired",
                got=got, expected=f"the same {expected}",
            )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Estimate:
    """A statistic with what the bootstrap says of it, in the statistic's unit."""

    value: float
    """On all frames; NaN if it is not defined there, as then all is."""
    std_error: float
    """Sample std of the replicates; NaN where nothing can be drawn."""
    percentile: Interval
    """95 %: quantiles of the replicates."""
    bca: Interval
    """95 %, bias-corrected and accelerated (Efron, JASA 82, 1987). NaN where the value lies outside
    all replicates."""
    student: Interval
    """95 %: the value and its standard error, with Student's t."""
    freedom: float
    """Degrees of freedom of that t."""
    replicates: int
    """That the statistic is defined in: a rare class may be missing from some."""

    @property
    def interval(self) -> Interval:
        """95 %, the one that is printed: `student`, which held the truth most nearly as often as it
        says in simulated studies (benchmarks/coverage.md)."""
        return self.student


@dataclass(frozen=True, eq=False)
class ScoreEstimates:
    """One row's scores, 0-1, with their bootstrap."""

    unit: Unit
    units: int
    mean_of_folds: Estimate
    """Mean of the folds' mIoU."""
    pooled: Estimate
    """mIoU of the counts summed over the folds."""
    class_mean: tuple[Estimate, ...]
    """Of each class, the mean of its IoU over the folds that have it."""
    class_pooled: tuple[Estimate, ...]
    """Of each class, the IoU of the counts summed over the folds."""


def resample(layout: Layout, unit: Unit, replicates: int = REPLICATES, seed: int = 0) -> Resampling:
    """Draw units. The same layout, unit, number and seed give the same draws."""
    of_frame = np.arange(len(layout.names)) if unit == "frames" else layout.city
    rng = np.random.default_rng(seed)
    strata = tuple(
        _stratum(layout, of_frame, members, replicates, rng)
        for members in _strata(of_frame, layout.fold)
    )
    return Resampling(layout, unit, strata, replicates)


def widest_unit(layout: Layout) -> Unit:
    """Cities where there are enough to draw from, else frames.

    Enough: two or more in every stratum, and `MIN_FREEDOM` more than strata. Of fewer there are so
    few different draws that intervals end anywhere.
    """
    cities = resample(layout, "cities", 1)
    enough = cities.units - len(cities.strata) >= MIN_FREEDOM
    return "cities" if cities.possible and enough else "frames"


def _strata(
    unit: Int64[np.ndarray, " n"], fold: Int64[np.ndarray, " n"]
) -> list[Bool[np.ndarray, " n"]]:
    """Frames whose units share folds, directly or by way of others; by their first frame."""
    graph = sparse.coo_array((np.ones(len(unit)), (unit, fold + unit.max() + 1)),
                             shape=(unit.max() + fold.max() + 2,) * 2)  # fmt: skip
    _, component = connected_components(graph, directed=False)
    of_frame = component[unit]
    return [of_frame == label for label in dict.fromkeys(of_frame.tolist())]


def _stratum(
    layout: Layout,
    of_frame: Int64[np.ndarray, " n"],
    members: Bool[np.ndarray, " n"],
    replicates: int,
    rng: np.random.Generator,
) -> Stratum:
    frames = np.flatnonzero(members)
    units, unit = np.unique(of_frame[frames], return_inverse=True)
    weights = _draws(len(units), replicates, rng)
    folds, fold = np.unique(layout.fold[frames], return_inverse=True)
    return Stratum(frames, unit, folds, fold, weights)


def _draws(units: int, replicates: int, rng: np.random.Generator) -> Float64[np.ndarray, "b m"]:
    draws = rng.integers(units, size=(replicates, units - 1))
    flat = (draws + units * np.arange(replicates)[:, None]).ravel()
    counts = np.bincount(flat, minlength=replicates * units)
    return counts.reshape(replicates, units).astype(np.float64)


def _unit_sums(tally: Tally, stratum: Stratum) -> Float64[np.ndarray, "m f 2 c"]:
    """Counts of each unit in each of the stratum's folds."""
    counts = tally.counts[stratum.frames]
    sums = stratum.membership @ counts.reshape(len(counts), -1)
    shape = (stratum.units, len(stratum.folds), *counts.shape[1:])
    return sums.reshape(shape).astype(np.float64)


def _freedom(sizes: Sequence[Shaped[np.ndarray, "m c"]]) -> Float64[np.ndarray, " c"]:
    """Units in each stratum, less one, as if they were of the same size; 1 or more.

    A mean of units of unlike size varies as that of fewer like ones, (sum of sizes)^2 / (sum of
    their squares) (Carter, Schnepel and Steigerwald, Review of Economics and Statistics 99, 2017).
    """
    totals = [one.sum(0, dtype=np.float64) for one in sizes]
    squares = [(one.astype(np.float64) ** 2).sum(0) for one in sizes]
    effective = [
        total**2 / np.where(square == 0, 1, square)
        for total, square in zip(totals, squares, strict=True)
    ]
    return np.maximum(sum(np.maximum(one - 1, 0) for one in effective), 1)


def estimate_scores(tally: Tally, resampling: Resampling) -> ScoreEstimates:
    """Intervals of the mIoU and of every class' IoU, as the mean of folds and pooled."""
    classes = tally.counts.shape[-1]
    scores = functools.partial(_scores, scale=resampling.scale)
    sums = resampling.unit_sums(tally)
    values = _scores(resampling.totals(sums), np.ones(resampling.layout.folds))
    replicates = scores(resampling.drawn(sums))
    jackknives = [scores(left) for left in resampling.without_one(sums)]
    of_class = resampling.class_freedom(sums)
    freedom = np.concatenate([[resampling.freedom] * 2, of_class, of_class])
    estimates = [
        estimate(
            value,
            replicates[:, i],
            [left[:, i] for left in jackknives],
            freedom[i] if resampling.possible else math.nan,
            lowest=0,
        )
        for i, value in enumerate(values)
    ]
    return ScoreEstimates(
        unit=resampling.unit,
        units=resampling.units,
        mean_of_folds=estimates[0],
        pooled=estimates[1],
        class_mean=tuple(estimates[2 : 2 + classes]),
        class_pooled=tuple(estimates[2 + classes :]),
    )


def _scores(
    totals: Float64[np.ndarray, "*batch k 2 c"], scale: Float64[np.ndarray, " k"]
) -> Float64[np.ndarray, "*batch s"]:
    """Mean of folds' mIoU, pooled mIoU, mean of folds' IoU a class, pooled IoU a class."""
    scaled = totals * scale[:, None, None]
    means = np.stack([mean_of_folds(totals), pooled_miou(scaled)], -1)
    by_class = mean_over(np.swapaxes(class_iou(totals), -1, -2))
    return np.concatenate([means, by_class, class_iou(scaled.sum(-3))], -1)


def estimate(
    value: float,
    replicates: Float64[np.ndarray, " b"],
    jackknives: Sequence[Float64[np.ndarray, " m"]],
    freedom: float,
    lowest: float = -1,
) -> Estimate:
    """Take replicates of a statistic together; those that are NaN are left out.

    Args:
        value: the statistic on all frames.
        replicates: on the frames drawn.
        jackknives: for each stratum, the statistic without each unit in turn.
        freedom: of Student's t; NaN where there is nothing to draw from.
        lowest: that the statistic can be; at most it is 1.
    """
    there = replicates[~np.isnan(replicates)]
    if math.isnan(value) or len(there) < 2 or math.isnan(freedom):
        return Estimate(float(value), math.nan, UNKNOWN, UNKNOWN, UNKNOWN, math.nan, 0)
    std_error = float(there.std(ddof=1))
    student = t_interval(float(value), std_error, freedom)
    return Estimate(
        value=float(value),
        std_error=std_error,
        percentile=_quantiles(there, np.array([ALPHA / 2, 1 - ALPHA / 2])),
        bca=_bca(value, there, jackknives),
        student=Interval(max(student.low, lowest), min(student.high, 1.0)),
        freedom=float(freedom),
        replicates=len(there),
    )


def _quantiles(values: Float64[np.ndarray, " b"], shares: Float64[np.ndarray, "2"]) -> Interval:
    low, high = np.quantile(values, shares)
    return Interval(float(low), float(high))


def _bca(
    value: float,
    replicates: Float64[np.ndarray, " b"],
    jackknives: Sequence[Float64[np.ndarray, " m"]],
) -> Interval:
    below = ((replicates < value).mean() + (replicates <= value).mean()) / 2
    if not 0 < below < 1:
        return UNKNOWN
    bias = ndtri(below)
    tails = bias + ndtri([ALPHA / 2, 1 - ALPHA / 2])
    shares = ndtr(bias + tails / (1 - _acceleration(jackknives) * tails))
    return _quantiles(replicates, shares)


def _acceleration(jackknives: Sequence[Float64[np.ndarray, " m"]]) -> float:
    """Of several samples, as `scipy.stats.bootstrap` has it; 0 for a statistic that never moves."""
    cubes = squares = 0.0
    for values in jackknives:
        there = values[~np.isnan(values)]
        if len(there) > 1:
            influence = (len(there) - 1) * (there.mean() - there) / len(there)
            cubes += float((influence**3).sum())
            squares += float((influence**2).sum())
    return cubes / squares**1.5 / 6 if squares > 0 else 0.0
