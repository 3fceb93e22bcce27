"""Rows of a study against each other, paired on the same frames and folds: differences, verdicts.

Two things could make a difference an accident: the frames it was scored on, and the training. The
bootstrap of whole cities tells of the first, the corrected t test over folds of both, but weakly
with few folds. A row is called better only if both say so; the larger p of the two keeps the 5 %
(an intersection-union test: Berger, Technometrics 24, 1982), and of their intervals the wider is
given.
"""

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float64
from threadpoolctl import threadpool_limits

from study.bootstrap import Estimate, Resampling, Unit, estimate
from study.statistics import (
    ALPHA,
    CorrectedMean,
    Interval,
    corrected_mean,
    detectable_difference,
    holm,
    two_sided_t,
)
from study.tally import Tally, mean_of_folds, miou

MOST_THREADS: Final = 8
"""Rows that draws are laid on at a time."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """One row minus another, in mIoU (0-1)."""

    row: str
    base: str
    by_fold: CorrectedMean
    """Of the differences fold by fold."""
    by_unit: Estimate
    """Bootstrap of the difference of the means of folds."""
    unit: Unit
    unit_p_value: float
    """Two-sided, by Student's t of the bootstrap's standard error, as `by_unit.interval`; NaN where
    nothing can be drawn."""
    adjusted: float
    """`p_value` after Holm over the rows compared; NaN if that is."""
    unit_adjusted: float
    """`unit_p_value` after Holm, likewise."""
    compared: int
    """Rows that were compared with the base one."""

    @property
    def difference(self) -> float:
        """Of the means of folds; positive: the row is above the base one."""
        return self.by_unit.value

    @property
    def p_value(self) -> float:
        """The larger of the two; NaN if either is."""
        return float(np.maximum(self.by_fold.p_value, self.unit_p_value))

    @property
    def interval(self) -> Interval:
        """95 %: the wider of the two; the other where one is not known."""
        both = (self.by_fold.interval, self.by_unit.interval)
        return max(both, key=lambda interval: np.nan_to_num(interval.width, nan=-1))

    @property
    def detectable(self) -> float:
        """Smallest true difference that both tests would find, each with 80 % power at 5 %; NaN
        where either is not known."""
        of_units = detectable_difference(self.by_unit.std_error, self.by_unit.freedom)
        return float(np.maximum(self.by_fold.detectable, of_units))

    @property
    def is_shown(self) -> bool:
        """Whether a difference is shown at 5 %, of all rows compared."""
        return self.adjusted <= ALPHA

    @property
    def verdict(self) -> str:
        """In words, in points of mIoU (hundredths)."""
        return f"{self._finding()} ({self._evidence()}){self._networks()}{self._limit()}"

    def _finding(self) -> str:
        points = _points(abs(self.difference))
        if self.is_shown:
            word = "better" if self.difference > 0 else "worse"
            return f"{self.row} is {word} than {self.base} by {points} points"
        sign = "-" if points != "0.0" and self.difference < 0 else ""
        return f"No difference of {self.row} to {self.base} is shown: {sign}{points} points"

    def _evidence(self) -> str:
        low, high = (_points(end) for end in (self.interval.low, self.interval.high))
        apart = self.interval.low > 0 or self.interval.high < 0
        alone = " of this row alone" if apart and not self.is_shown else ""
        interval = f"95 % interval {low} to {high}{alone}"
        if math.isnan(self.adjusted):
            return f"{interval}, no test possible"
        rows = f"{self.compared} row{'s' if self.compared != 1 else ''}"
        return f"{interval}, {_p_words(self.adjusted)} after Holm over {rows}"

    def _networks(self) -> str:
        """What the frames show where the trainings do not."""
        if self.is_shown or not self.unit_adjusted <= ALPHA:
            return ""
        chance = f"{_p_words(self.unit_adjusted)} after Holm"
        return f"; these very networks do differ on other {self.unit} ({chance})"

    def _limit(self) -> str:
        folds = self.by_fold.folds
        if math.isnan(self.detectable):
            return f"; {folds} folds on these frames tell nothing of a difference's chance"
        seen = f"differences under {_points(self.detectable)} points could not be seen"
        return f"; with {folds} folds {seen}"


@dataclass(frozen=True, eq=False)
class Selection:
    """The score of the best of several rows, freed of having been chosen by that score."""

    best: str
    """By the mean of the folds' mIoU, the first of equals."""
    naive: float
    """Its score as it stands, 0-1."""
    corrected: float
    """0-1; at most the naive one but for chance; equal to it where there is one row."""
    interval: Interval
    """95 %, of the corrected score, over units left out of the draws: wide, and on the safe side
    (they are a third of all). NaN where nothing can be drawn."""
    chosen: Mapping[str, float]
    """How often each row was the best among the units drawn, 0-1."""
    unit: Unit


@dataclass(frozen=True, eq=False)
class Replicates:
    """A row's mean of folds' mIoU, 0-1, as the frames vary."""

    drawn: Float64[np.ndarray, " b"]
    """Over the units drawn in each replicate."""
    left_over: Float64[np.ndarray, " b"]
    """Over those that were not: out of the bag."""
    without_one: tuple[Float64[np.ndarray, " m"], ...]
    """For each stratum, without each of its units in turn."""
    miou: Float64[np.ndarray, " k"]
    """Of each fold, over all frames, 0-1."""


def replicate(rows: Mapping[str, Tally], resampling: Resampling) -> dict[str, Replicates]:
    """Lay the draws on every row, several rows at a time.

    BLAS is kept to one thread meanwhile: its products are small here, and threads that wait for
    each other on a busy machine took 70 times as long.

    Raises:
        InputError: rows were not scored on the same frames in the same folds.
    """
    count = min(os.cpu_count() or 1, MOST_THREADS)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(count) as threads:
        replicates = threads.map(lambda tally: _replicate(tally, resampling), rows.values())
        return dict(zip(rows, replicates, strict=True))


def _replicate(tally: Tally, resampling: Resampling) -> Replicates:
    sums = resampling.unit_sums(tally)
    return Replicates(
        mean_of_folds(resampling.drawn(sums)),
        mean_of_folds(resampling.left_over(sums)),
        tuple(mean_of_folds(left) for left in resampling.without_one(sums)),
        miou(resampling.totals(sums)),
    )


def compare(
    rows: Mapping[str, Tally],
    base: str,
    resampling: Resampling,
    replicates: Mapping[str, Replicates] | None = None,
) -> tuple[Comparison, ...]:
    """Compare every row with the base one, in the order of `rows`.

    Args:
        rows: counts by the row's name, the base one among them.
        base: name of the row that the others are compared with.
        resampling: draws of units; the bootstrap is paired by them.
        replicates: of the same rows and draws, if they are there already.

    Raises:
        InputError: rows were not scored on the same frames in the same folds.
    """
    there = replicate(rows, resampling) if replicates is None else replicates
    compared = [_comparison(name, base, there, resampling) for name in rows if name != base]
    adjusted = holm([one.p_value for one in compared])
    unit_adjusted = holm([one.unit_p_value for one in compared])
    count = int(np.count_nonzero(~np.isnan(adjusted)))
    return tuple(
        replace(one, adjusted=float(p), unit_adjusted=float(unit_p), compared=count)
        for one, p, unit_p in zip(compared, adjusted, unit_adjusted, strict=True)
    )


def _comparison(
    name: str,
    base: str,
    replicates: Mapping[str, Replicates],
    resampling: Resampling,
) -> Comparison:
    row, other = replicates[name], replicates[base]
    differences = row.drawn - other.drawn
    lefts = [one - two for one, two in zip(row.without_one, other.without_one, strict=True)]
    by_fold = row.miou - other.miou
    value = float(by_fold.mean())
    freedom = resampling.freedom if resampling.possible else math.nan
    by_unit = estimate(value, differences, lefts, freedom)
    return Comparison(
        row=name,
        base=base,
        by_fold=corrected_mean(by_fold, resampling.layout.test_train_ratio),
        by_unit=by_unit,
        unit=resampling.unit,
        unit_p_value=two_sided_t(value, by_unit.std_error, by_unit.freedom),
        adjusted=math.nan,
        unit_adjusted=math.nan,
        compared=0,
    )


def correct_selection(
    rows: Mapping[str, Tally],
    resampling: Resampling,
    replicates: Mapping[str, Replicates] | None = None,
) -> Selection:
    """Bootstrap bias correction of cross-validation for the best of several rows.

    After Tsamardinos, Greasidou and Borboudakis ("Bootstrapping the out-of-sample predictions for
    efficient and accurate cross-validation", Machine Learning 107, 2018): in each replicate the
    best row on the units drawn is scored on those left over. Their estimate is the mean of these
    scores. The mIoU of a third of the frames is biased in itself (rare classes are missing), so
    here the mean of what the chosen row scores above the overall best one, on the same units, is
    added to the latter's naive score: the same for scores that are linear in the frames, and for
    one row exactly its own score. `replicates` are of the same rows and draws, if they are there.

    Raises:
        InputError: rows were not scored on the same frames in the same folds.
    """
    names = list(rows)
    there = replicate(rows, resampling) if replicates is None else replicates
    naive = np.array([there[name].miou.mean() for name in names])
    drawn = np.stack([there[name].drawn for name in names])
    left = np.stack([there[name].left_over for name in names])
    best, chosen = int(_first_best(naive)), _first_best(drawn)
    out = left[chosen, np.arange(left.shape[1])]
    corrected, interval = _corrected(float(naive[best]), out, left[best], resampling.possible)
    shares = np.bincount(chosen, minlength=len(names)) / len(chosen)
    return Selection(
        best=names[best],
        naive=float(naive[best]),
        corrected=corrected,
        interval=interval,
        chosen=dict(zip(names, shares.tolist(), strict=True)),
        unit=resampling.unit,
    )


def _first_best(scores: np.ndarray) -> np.ndarray:
    """Row of the highest score, along the first axis; NaN is below all."""
    return np.argmax(np.where(np.isnan(scores), -np.inf, scores), axis=0)


def _corrected(
    naive: float,
    chosen: Float64[np.ndarray, " b"],
    best: Float64[np.ndarray, " b"],
    possible: bool,
) -> tuple[float, Interval]:
    """Score and interval, from what the chosen and the overall best row score out of the bag."""
    there = ~np.isnan(chosen) & ~np.isnan(best)
    if not possible or not there.any():
        return math.nan, Interval(math.nan, math.nan)
    corrected = naive + float((chosen - best)[there].mean())
    low, high = np.quantile(chosen[there] - chosen[there].mean(), [ALPHA / 2, 1 - ALPHA / 2])
    return corrected, Interval(corrected + float(low), corrected + float(high))


def _points(score: float) -> str:
    return "unknown" if math.isnan(score) else f"{100 * score:.1f}".replace("-0.0", "0.0")


def _p_words(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"
