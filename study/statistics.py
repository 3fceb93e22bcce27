"""What k folds' scores allow to be said: intervals, detectable differences, classes.

The folds of a cross-validation share most of their training frames, so their scores are not
independent, and the plain t interval is too narrow. Nadeau and Bengio ("Inference for the
Generalization Error", Machine Learning 52, 2003) put the variance of the mean at
(1/k + n_test / n_train) s^2, s^2 being the sample variance of the folds' scores.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import gammaincinv, ndtr, ndtri, stdtr, stdtrit

from study.tally import class_iou, hits_and_unions, mean_over

CONFIDENCE: Final = 0.95
ALPHA: Final = 1 - CONFIDENCE
"""Most often that a test may reject where nothing is."""
POWER: Final = 0.8
"""How often the smallest detectable difference is found, by Cohen's custom."""
QUANTILES: Final = 10_000
"""Enough for 6 digits."""


@dataclass(frozen=True)
class Interval:
    """Ends of a confidence interval, in the unit of what it is of; NaN where nothing is known."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """From end to end."""
        return self.high - self.low


UNKNOWN: Final = Interval(math.nan, math.nan)


@dataclass(frozen=True)
class CorrectedMean:
    """Mean of k folds' scores, or of their differences, with the Nadeau-Bengio correction.

    In the scores' unit (mIoU: 0-1). What varies is the training set and the network, too.
    """

    mean: float
    std: float
    """Sample std (ddof = 1); NaN for fewer than two folds, as all below."""
    std_error: float
    """sqrt(1/k + n_test / n_train) times the sample std."""
    folds: int
    interval: Interval
    """95 %, by Student's t with k - 1 degrees of freedom."""
    p_value: float
    """Two-sided, that the true mean is 0: of use for differences. 1 if all scores are 0."""
    detectable: float
    """Smallest true distance from 0 that is found in 80 of 100 studies such as this at 5 %."""


@dataclass(frozen=True)
class ClassStatistics:
    """One class in the out-of-fold predictions of a row. Ratios are 0-1."""

    iou: float
    """Mean over the folds that have one; NaN: the class occurs nowhere."""
    std: float
    """Sample std (ddof = 1) of the folds' IoU; NaN for fewer than two."""
    pooled_iou: float
    """Of the counts summed over the folds; NaN: the class occurs nowhere."""
    precision: float
    """TP / (TP + FP), pooled; NaN: never predicted."""
    recall: float
    """TP / (TP + FN), pooled; NaN: in no label."""
    share: float
    """Of all labelled pixels; NaN without any."""
    folds: int
    """Folds in whose labels the class occurs."""
    gain: float
    """What the mean of the folds' mIoU would gain if this class reached, in each fold, the median
    of the fold's classes; 0 for a class above it, NaN if the class has no IoU."""


def corrected_mean(
    scores: Float64[np.ndarray, " k"], test_train_ratio: float | None = None
) -> CorrectedMean:
    """Interval and test of the mean of folds' scores (Nadeau and Bengio 2003, section 3.2).

    Args:
        scores: one of each fold. One that is NaN makes all NaN: a study without one fold is
            another study.
        test_train_ratio: n_test / n_train; by default 1 / (k - 1), that of k equal folds.
    """
    count, mean = len(scores), float(np.mean(scores)) if len(scores) else math.nan
    if count < 2 or math.isnan(mean):
        unknown = math.nan
        return CorrectedMean(mean, unknown, unknown, count, UNKNOWN, unknown, unknown)
    ratio = 1 / (count - 1) if test_train_ratio is None else test_train_ratio
    std = float(np.std(scores, ddof=1))
    error, freedom = math.sqrt(1 / count + ratio) * std, count - 1
    interval = t_interval(mean, error, freedom)
    p_value = two_sided_t(mean, error, freedom)
    detectable = detectable_difference(error, freedom)
    return CorrectedMean(mean, std, error, count, interval, p_value, detectable)


def t_interval(value: float, std_error: float, freedom: float) -> Interval:
    """95 % interval of a value whose error has Student's t distribution."""
    half = float(stdtrit(freedom, 1 - ALPHA / 2)) * std_error
    return Interval(value - half, value + half)


def two_sided_t(mean: float, std_error: float, freedom: float) -> float:
    """p of a t test that the true mean is 0; without any spread 1 for a mean of 0, and 0 else."""
    if std_error == 0:
        return float(mean == 0)
    return float(2 * stdtr(freedom, -abs(mean) / std_error))


def detectable_difference(
    std_error: float, freedom: float, power: float = POWER, alpha: float = ALPHA
) -> float:
    """Smallest true mean that a two-sided t test finds with this power, in the error's unit.

    By the noncentral t distribution, to 6 digits; `freedom` may be infinite (a z test). NaN for
    an error that is.
    """
    if math.isnan(std_error):
        return math.nan
    return _noncentrality(freedom, power, alpha) * std_error


@functools.cache
def _noncentrality(freedom: float, power: float, alpha: float) -> float:
    """Shift of a t statistic by which the test rejects with this power.

    The noncentral t by its definition, a shifted normal over the root of a chi-square, of which
    `QUANTILES` stand for all: scipy's own `nct.cdf` gives NaN for few degrees of freedom.
    """
    if math.isinf(freedom):  # the far tail adds less than 1e-6 at any power worth asking for
        return float(ndtri(1 - alpha / 2) + ndtri(power))
    from scipy.optimize import brentq  # long to import: not where nothing is compared

    chances = (np.arange(QUANTILES) + 0.5) / QUANTILES
    stds = np.sqrt(2 * gammaincinv(freedom / 2, chances) / freedom)
    bars = stdtrit(freedom, 1 - alpha / 2) * stds

    def lacks(shift: float) -> float:
        above, below = ndtr(shift - bars), ndtr(-bars - shift)
        return float((above + below).mean()) - power

    # typed for `full_output`, too, which would return a pair
    return brentq(lacks, 0, bars[-1] + 10)  # pyright: ignore[reportReturnType] # see above


def holm(p_values: Sequence[float]) -> Float64[np.ndarray, " m"]:
    """p-values adjusted for being many (Holm, Scandinavian Journal of Statistics 6, 1979).

    No independence is asked for, as the rows of a study, all compared with one, have none. NaN
    stays NaN and does not count. Own code for four lines: scipy has the false discovery rate only
    (`false_discovery_control`), and statsmodels would be a dependency for this alone.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    adjusted = np.full(p.shape, np.nan)
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1)
    return adjusted


def class_statistics(confusion: Int64[np.ndarray, "k c c"]) -> tuple[ClassStatistics, ...]:
    """Every class, from each fold's summed confusion matrix (rows labels, columns predictions)."""
    iou, total = class_iou(hits_and_unions(confusion)), confusion.sum(0)
    hits, labelled, predicted = np.diagonal(total), total.sum(1), total.sum(0)
    columns = {
        "iou": mean_over(iou.T),
        "std": _sample_std(iou),
        "pooled_iou": _ratio(hits, labelled + predicted - hits),
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, labelled),
        "share": _ratio(labelled, np.full_like(labelled, total.sum())),
        "gain": _gain(iou),
    }
    folds = (confusion.sum(2) > 0).sum(0)
    return tuple(
        ClassStatistics(folds=int(folds[c]), **{k: float(v[c]) for k, v in columns.items()})
        for c in range(len(folds))
    )


def _ratio(part: np.ndarray, whole: np.ndarray) -> Float64[np.ndarray, " c"]:
    with np.errstate(invalid="ignore"):
        return part / np.where(whole == 0, np.nan, whole)


def _sample_std(iou: Float64[np.ndarray, "k c"]) -> Float64[np.ndarray, " c"]:
    there = [column[~np.isnan(column)] for column in iou.T]
    return np.array([np.std(v, ddof=1) if len(v) > 1 else np.nan for v in there])


def _gain(iou: Float64[np.ndarray, "k c"]) -> Float64[np.ndarray, " c"]:
    """A class is one of the fold's scored classes, and the fold one of k."""
    counts = (~np.isnan(iou)).sum(1)
    medians = np.array([np.median(f[~np.isnan(f)]) if n else np.nan
                        for f, n in zip(iou, counts, strict=True)])  # fmt: skip
    short = np.fmax(medians[:, None] - iou, 0) / np.fmax(counts, 1)[:, None]
    short[np.isnan(iou)] = 0
    return np.where(np.isnan(iou).all(0), np.nan, short.mean(0))


def limiting_classes(classes: Sequence[ClassStatistics], most: int = 3) -> list[int]:
    """Indices of the classes whose rise to the median would raise the mean most, the first first.

    Only classes with something to gain; equal gains in the order of the classes.
    """
    gains = np.array([value.gain for value in classes])
    order = np.argsort(-np.nan_to_num(gains), kind="stable")
    return [int(i) for i in order if gains[i] > 0][:most]
