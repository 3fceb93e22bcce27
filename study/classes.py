"""Every class of a row: how well it is found, how sure that is, and what it costs the mean."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from cityseg.labels import NUM_CLASSES
from study.analysis import FoldTable
from study.bootstrap import Unit
from study.counts import OBJECTIVES
from study.evidence import IntervalTable, ScoreEvidence
from study.space import Objective
from study.statistics import (
    UNKNOWN,
    ClassStatistics,
    Interval,
    class_statistics,
    limiting_classes,
)


@dataclass(frozen=True, eq=False)
class ClassScores:
    """The 19 classes of a row by one of its scores, over the folds that are done.

    By the official rule a class that occurs neither in a fold's labels nor in its predictions has
    no IoU there (NaN) and is left out of that fold's mean; one that is only predicted has 0.
    """

    folds: FoldTable
    objective: Objective
    iou: Float64[np.ndarray, "k 19"]
    """Of each fold; NaN as above, or because the fold has no scores yet."""
    statistics: tuple[ClassStatistics, ...]
    """Of each class, in train-id order."""
    intervals: tuple[Interval, ...]
    """95 % of the mean over the folds that have the class, for these networks on other frames
    (the bootstrap's); unknown (NaN) unless all folds are done."""
    unit: Unit | None
    """What was drawn for the intervals; None without any."""

    @property
    def limiting(self) -> list[int]:
        """Train ids of the classes whose rise to the median would raise the mean most."""
        return limiting_classes(self.statistics)


def class_scores(
    folds: FoldTable, objective: Objective, intervals: IntervalTable | None = None
) -> ClassScores:
    """Classes of a row by one of its scores.

    Args:
        folds: the row's scores.
        objective: which of them.
        intervals: of the same row, if all its folds are done.
    """
    scores = [cell.score(*OBJECTIVES[objective]) for cell in folds.cells]
    absent = np.full(NUM_CLASSES, np.nan)
    nothing = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    counts = [score.confusion for score in scores if score] or [nothing]
    evidence = _evidence(intervals, objective)
    return ClassScores(
        folds=folds,
        objective=objective,
        iou=np.array([score.iou if score else absent for score in scores]),
        statistics=class_statistics(np.stack(counts)),
        intervals=_intervals(evidence),
        unit=evidence.estimates.unit if evidence else None,
    )


def _evidence(intervals: IntervalTable | None, objective: Objective) -> ScoreEvidence | None:
    scores = intervals.scores if intervals else ()
    return next((score for score in scores if score.objective == objective), None)


def _intervals(evidence: ScoreEvidence | None) -> tuple[Interval, ...]:
    if evidence is None:
        return (UNKNOWN,) * NUM_CLASSES
    return tuple(one.interval for one in evidence.estimates.class_mean)
