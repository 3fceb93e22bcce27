"""Fold-aware pruning: is a row of the table so far behind the leader that it cannot catch up?

A row is judged on paired evidence only: its scores against those of finished rows in the same folds
at the same epochs, so that a hard fold or a young cell never counts against it. From the finished
rows the rule learns, at every call anew,

- what standing at this point is worth at the end: a line from a row's score now to its final mean
  (curves that cross make it shallow, or turn it, and a slow starter is kept);
- how far rows ended from that line: what a row can still make up;
- the noise of a cell: the spread over folds of the paired differences between finished rows.

Nothing here trains, reads files or remembers: a verdict is a function of the curves alone. It costs
one pass over the other rows: about 0.4 ms for 20 of them, 8 ms for 1,000. How often it errs, what
it saves, and why its constants are what they are: `benchmarks/pruning.md`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.special import stdtrit

BASELINE: Final = 0
"""The row that a study measures the others against; it is never pruned."""

MIN_FINISHED: Final = 3
"""Finished rows before any row is pruned: the fewest that a line has an error to, beside the
priors below."""

MIN_EPOCHS: Final = 3
MIN_SHARE: Final = 0.1
"""Epochs of a cell, and share of them, before a row is judged: the first epochs of real cells jump
by tens of per cent of their score."""

LOOK_LEVEL: Final = 0.1
"""Chance that a single look may take of being wrong about the end. A row is looked at after every
epoch: that the looks repeat each other and the priors are wide keeps its own chance below this."""

NOISE_LEVEL: Final = 0.02
"""Chance that seed noise alone makes the difference between two rows that a look takes for real."""

NOISE_PRIOR: Final = 0.005
"""Noise of a cell's final score before any is known, as standard deviation of mIoU."""

CROSSING_PRIOR: Final = 0.05
"""Deviation from the line before any is known, as standard deviation of mIoU, for rows that have
all their epochs left; it shrinks with the share that is left, as slow starters come into sight."""

SLOPE_PRIOR: Final = 1.0
"""Deviation of the line's slope from 1 before any is known, likewise."""

PRIOR_WEIGHT: Final = 6.0
"""Finished rows that the priors of noise and crossing count for."""


@dataclass(frozen=True)
class RowCurves:
    """The scores of one row so far."""

    variant: int
    epochs: int
    """Planned for each cell of the row."""
    curves: Mapping[int, Float64[np.ndarray, " n"]]
    """Fold (from 1) -> score after epochs 1..n, 0-1: the objective as if training had ended there.
    Folds that have not begun are absent or empty; NaN is an epoch without a score."""


@dataclass(frozen=True)
class Verdict:
    """A decision on a row and the numbers behind it; scores are 0-1, NaN where not known."""

    prune: bool
    reason: str
    """One line for the table; points are 100 x mIoU."""
    finished: int = 0
    """Finished rows that the decision was learned from."""
    leader: int | None = None
    """The finished row with the highest mean."""
    folds: tuple[int, ...] = ()
    """Folds that were compared."""
    epochs: tuple[int, ...] = ()
    """Epoch at which each of them was compared."""
    behind: float = np.nan
    """Leader minus row, in the same folds at the same epochs; folds weigh in by their epochs."""
    room: float = np.nan
    """The most that the row could make up, noise included; it is pruned when further behind."""
    noise: float = np.nan
    """Standard deviation that seeds alone give to the difference of two rows' means."""


@dataclass(frozen=True)
class Evidence:
    """The numbers of `weigh`, one for each of b candidates; see `Verdict`."""

    leader: Int64[np.ndarray, " b"]
    behind: Float64[np.ndarray, " b"]
    room: Float64[np.ndarray, " b"]
    noise: Float64[np.ndarray, " b"]
    floor: Float64[np.ndarray, " b"]
    """What noise of seeds and the leader's luck alone explain: the least that `room` can be."""


def judge(candidate: RowCurves, others: Sequence[RowCurves], folds: int) -> Verdict:
    """Say whether a row shall be stopped, all its cells together.

    Only rows that were planned for as many epochs as the candidate and have finished them in every
    fold are evidence. Running rows may still move, and pruned ones were chosen for being behind:
    what is learned from them would confirm itself.

    Args:
        candidate: The row in question.
        others: All other rows that have not failed, in any order.
        folds: Number of folds of the study.
    """
    if candidate.variant == BASELINE:
        return Verdict(False, "the baseline is never pruned")
    epochs = np.array([_epochs_done(candidate, fold) for fold in range(1, folds + 1)])
    if not epochs.any():
        return Verdict(False, "no score yet")
    if (epochs == candidate.epochs).all():
        return Verdict(False, "finished")
    if epochs.max() < first_look(candidate.epochs):
        return Verdict(False, f"kept: not judged before epoch {first_look(candidate.epochs)}")
    rows = [row for row in others if _is_evidence(row, candidate, folds)]
    if len(rows) < MIN_FINISHED:
        reason = f"kept: {len(rows)} of the {MIN_FINISHED} finished rows that a verdict needs"
        return Verdict(False, reason, finished=len(rows))
    return _compare(candidate, epochs, sorted(rows, key=lambda row: row.variant))


def first_look(epochs: int) -> int:
    """The epoch of its oldest cell from which a row is judged, out of the planned ones."""
    return max(MIN_EPOCHS, math.ceil(MIN_SHARE * epochs))


def weigh(
    epochs: Int64[np.ndarray, "b k"],
    planned: int,
    now: Float64[np.ndarray, "b k"],
    then: Float64[np.ndarray, "b n k"],
    early: Float64[np.ndarray, "b n k"],
    final: Float64[np.ndarray, "b n k"],
    finished: Bool[np.ndarray, "b n"],
) -> Evidence:
    """Weigh b candidates in k folds, each against its own n rows of which some are finished.

    Args:
        epochs: Epochs that the candidate has run in each fold; some above 0.
        planned: Epochs of a whole cell.
        now: The candidate's scores after these epochs; anything finite where there are none.
        then: Scores of the rows after the same epochs in the same folds, likewise.
        early: Scores of the rows in all folds after the epoch `mean_epoch` of the candidate.
        final: Scores of the rows after their last epoch.
        finished: Rows that count, at least three for each candidate; the others may hold any
            finite numbers.
    """
    share = epochs / epochs.sum(1, keepdims=True)
    x_row = (share * now).sum(1)
    x = (share[:, None] * then).sum(2)
    y = final.mean(2)
    leader = np.where(finished, y, -np.inf).argmax(1)
    cell = _cell_variance(final, finished)
    seen = np.maximum(cell, _cell_variance(early, finished)) * (share**2).sum(1)
    mean = cell / final.shape[2]
    left = 1 - (share * epochs).sum(1) / planned
    prior = seen + (CROSSING_PRIOR * left) ** 2
    expected, variance = _predict(x_row, x, y, finished, prior, left)
    best = _pick(y, leader)
    behind = _pick(x, leader) - x_row
    freedom = finished.sum(1) - 2 + PRIOR_WEIGHT
    quantile = stdtrit(freedom, 1 - LOOK_LEVEL)
    luck = _luck(best, y, finished, mean)
    ends_behind = best - luck - expected
    at_least = ends_behind - quantile * np.sqrt(variance + mean)
    floor = luck + stdtrit(freedom, 1 - NOISE_LEVEL) * np.sqrt(2 * seen)
    room = np.maximum(behind - at_least, floor)
    return Evidence(leader, behind, room, np.sqrt(2 * mean), floor)


def mean_epoch(epochs: Int64[np.ndarray, "b k"]) -> Int64[np.ndarray, " b"]:
    """The epoch at which candidates are compared, over their folds as these weigh in; from 1."""
    return np.rint((epochs**2).sum(1) / epochs.sum(1)).astype(np.int64)


def _compare(
    candidate: RowCurves, epochs: Int64[np.ndarray, " k"], rows: Sequence[RowCurves]
) -> Verdict:
    """Verdict on a row that has run some epochs, from enough finished rows."""
    folds = range(1, epochs.size + 1)
    then = [
        [row.curves[fold][epoch - 1] for fold, epoch in zip(folds, epochs, strict=True)]
        for row in rows
    ]
    middle = int(mean_epoch(epochs[None])[0])
    early = [[row.curves[fold][middle - 1] for fold in folds] for row in rows]
    final = [[row.curves[fold][row.epochs - 1] for fold in folds] for row in rows]
    now = [
        candidate.curves[fold][epoch - 1] if epoch else 0.0
        for fold, epoch in zip(folds, epochs, strict=True)
    ]
    found = weigh(
        epochs[None],
        candidate.epochs,
        np.array([now], float),
        np.array([then], float),
        np.array([early], float),
        np.array([final], float),
        np.ones((1, len(rows)), bool),
    )
    prune = bool(found.behind[0] > found.room[0])
    compared = {fold: int(epoch) for fold, epoch in zip(folds, epochs, strict=True) if epoch}
    leader = rows[int(found.leader[0])].variant
    behind, room = float(found.behind[0]), float(found.room[0])
    return Verdict(
        prune=prune,
        reason=_reason(prune, leader, compared, behind, room),
        finished=len(rows),
        leader=leader,
        folds=tuple(compared),
        epochs=tuple(compared.values()),
        behind=behind,
        room=room,
        noise=float(found.noise[0]),
    )


def _reason(prune: bool, leader: int, compared: dict[int, int], behind: float, room: float) -> str:
    """Such as `behind v002 by 3.1 points at epoch 12 on folds 1, 2; could make up at most 1.2`."""
    epochs = list(compared.values())
    at = (
        f"epoch {epochs[0]}"
        if len(set(epochs)) == 1
        else f"epochs {', '.join(str(epoch) for epoch in epochs)}"
    )
    on = f"fold{'s' if len(compared) > 1 else ''} {', '.join(str(fold) for fold in compared)}"
    side = f"behind v{leader:03d} by" if behind >= 0 else f"ahead of v{leader:03d} by"
    line = f"{side} {abs(100 * behind):.1f} points at {at} on {on}"
    return f"{'' if prune else 'kept: '}{line}; could make up at most {100 * room:.1f}"


def _epochs_done(row: RowCurves, fold: int) -> int:
    """Epochs of a cell that can be compared: up to its last one that has a score."""
    curve = np.asarray(row.curves.get(fold, ()), float)[: row.epochs]
    scored = np.flatnonzero(np.isfinite(curve))
    return int(scored[-1]) + 1 if scored.size else 0


def _is_evidence(row: RowCurves, candidate: RowCurves, folds: int) -> bool:
    """Another row of the same length, finished in every fold, with a score after every epoch."""
    if row.variant == candidate.variant or row.epochs != candidate.epochs:
        return False
    cells = [row.curves.get(fold, ()) for fold in range(1, folds + 1)]
    return all(len(cell) >= row.epochs and bool(np.isfinite(cell).all()) for cell in cells)


def _cell_variance(
    final: Float64[np.ndarray, "b n k"], finished: Bool[np.ndarray, "b n"]
) -> Float64[np.ndarray, " b"]:
    """Variance of a cell's score about what its row and its fold account for.

    The residual mean square of the two-way table, half the variance over folds of the paired
    difference of two rows, pooled over all pairs; with NOISE_PRIOR for PRIOR_WEIGHT more degrees
    of freedom. It holds the noise of the seed and what a row is better in one fold than in others.
    """
    rows = finished.sum(1)
    there = finished[:, :, None]
    by_row = final - final.mean(2, keepdims=True)
    by_fold = (by_row * there).sum(1, keepdims=True) / rows[:, None, None]
    squares = (there * (by_row - by_fold) ** 2).sum((1, 2))
    freedom = (rows - 1) * (final.shape[2] - 1)
    return (squares + PRIOR_WEIGHT * NOISE_PRIOR**2) / (freedom + PRIOR_WEIGHT)


def _predict(
    x_row: Float64[np.ndarray, " b"],
    x: Float64[np.ndarray, "b n"],
    y: Float64[np.ndarray, "b n"],
    finished: Bool[np.ndarray, "b n"],
    prior_variance: Float64[np.ndarray, " b"],
    left: Float64[np.ndarray, " b"],
) -> tuple[Float64[np.ndarray, " b"], Float64[np.ndarray, " b"]]:
    """Expected final mean of a row that scores x_row now, and the variance of that prediction.

    Bayesian linear regression of y on x over the finished rows: flat prior on the level, normal
    about 1 on the slope, inverse chi-square on the rows' deviations from the line.
    """
    n = finished.sum(1)
    x_mean, y_mean = ((finished * value).sum(1) / n for value in (x, y))
    dx, dy = finished * (x - x_mean[:, None]), finished * (y - y_mean[:, None])
    xx, xy = (dx**2).sum(1), (dx * dy).sum(1)
    freedom = n - 2 + PRIOR_WEIGHT
    steepest = xy / np.where(xx > 0, xx, 1)
    squares = ((dy - steepest[:, None] * dx) ** 2).sum(1)
    scatter = (squares + PRIOR_WEIGHT * prior_variance) / freedom

    trust = scatter / (SLOPE_PRIOR * np.maximum(left, 1e-6)) ** 2
    slope = (xy + trust) / (xx + trust)
    squares = ((dy - slope[:, None] * dx) ** 2).sum(1)
    scatter = (squares + PRIOR_WEIGHT * prior_variance) / freedom
    reach = x_row - x_mean
    return y_mean + slope * reach, scatter * (1 + 1 / n + reach**2 / (xx + trust))


def _luck(
    best: Float64[np.ndarray, " b"],
    y: Float64[np.ndarray, "b n"],
    finished: Bool[np.ndarray, "b n"],
    noise: Float64[np.ndarray, " b"],
) -> Float64[np.ndarray, " b"]:
    """What the leader owes to having been chosen as the best of several noisy means.

    Its lead over the average row, times the share of noise in the spread of the rows' means (the
    shrinkage of James and Stein): all of it where noise alone explains that spread.
    """
    n = finished.sum(1)
    mean = (finished * y).sum(1) / n
    spread = (finished * (y - mean[:, None]) ** 2).sum(1) / (n - 1)
    return (best - mean) * np.minimum(1, noise / np.maximum(spread, noise))


def _pick(values: Float64[np.ndarray, "b n"], index: Int64[np.ndarray, " b"]) -> np.ndarray:
    """The value at an index of each line."""
    return np.take_along_axis(values, index[:, None], 1)[:, 0]
