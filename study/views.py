"""What the figures of a study show, as small typed records: counted and put in order, not drawn."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from cityseg.labels import NUM_CLASSES
from study.analysis import FoldTable, Panel, Variant, VariantTable, classes_in
from study.counts import OBJECTIVES
from study.parameters import short_names
from study.progress import RowProgress, RowStatus
from study.space import Objective, Range, value_of
from study.store import variant_name


@dataclass(frozen=True, eq=False)
class ConfusionShares:
    """What the pixels of each class were taken for, in the out-of-fold frames of a row."""

    title: str
    data: str
    objective: Objective
    shares: Float64[np.ndarray, "19 19"]
    """Rows are labels, columns predictions, 0-1. A row sums to 1; NaN: the class is in no label."""


@dataclass(frozen=True, eq=False)
class Axis:
    """One parameter that the rows of a study differ in."""

    key: str
    """Dotted, as in the configuration."""
    name: str
    """The same in short."""
    is_log: bool
    """Whether the sampler drew its logarithm evenly."""
    values: tuple[object, ...]
    """Of each row; the base configuration's where the row does not change it."""


@dataclass(frozen=True, eq=False)
class SearchView:
    """Rows of a study by the values that they tried."""

    title: str
    data: str
    objective: Objective
    rows: tuple[str, ...]
    """Their names, the base one among them."""
    scores: Float64[np.ndarray, " n"]
    """Mean of the folds, 0-1; NaN unless the row is done."""
    best: int | None
    """Index of the best finished row."""
    base: int
    """Index of the base row."""
    axes: tuple[Axis, ...]


@dataclass(frozen=True, eq=False)
class EffortRow:
    """One row's score as it grew with the epochs spent on it."""

    name: str
    status: RowStatus
    epochs: Int64[np.ndarray, " n"]
    """Spent on all folds together, as far as each of them is."""
    score: Float64[np.ndarray, " n"]
    """Mean of the folds, 0-1, as if the training had ended there."""


@dataclass(frozen=True, eq=False)
class EffortView:
    """Rows of a study by what they cost."""

    title: str
    data: str
    objective: Objective
    rows: tuple[EffortRow, ...]
    """Those that every fold has a score of, after the same epoch, by their number."""
    left_out: int
    """The other rows."""
    best: str | None
    """Name of the best finished row."""


def confusion_shares(folds: FoldTable, objective: Objective) -> ConfusionShares:
    """Shares of each class' pixels by one of a row's scores, of its finished folds together."""
    scores = [cell.score(*OBJECTIVES[objective]) for cell in folds.cells]
    total = sum(
        (score.confusion for score in scores if score),
        np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64),
    )
    labelled = total.sum(1, keepdims=True)
    shares = total / np.where(labelled == 0, np.nan, labelled)
    return ConfusionShares(folds.variant.title, folds.variant.data, objective, shares)


def search_view(table: VariantTable) -> SearchView:
    """Values and scores of all rows."""
    base, rows = table.variant.record, table.rows
    names, space = short_names(table.varied), base.search.space
    axes = []
    for key in table.varied:
        usual, dimension = value_of(base.config, key), space.get(key)
        is_log = isinstance(dimension, Range) and dimension.log
        values = tuple(row.parameters.get(key, usual) for row in rows)
        axes.append(Axis(key, names[key], is_log, values))
    numbers = [row.number for row in rows]
    return SearchView(
        title=base.name,
        data=table.variant.data,
        objective=table.objective,
        rows=tuple(variant_name(number) for number in numbers),
        scores=np.array([row.spread(table.objective).mean for row in rows]),
        best=None if table.best is None else numbers.index(table.best.number),
        base=numbers.index(0),
        axes=tuple(axes),
    )


def effort_view(table: VariantTable) -> EffortView:
    """Curves of all rows, from their tables of epochs."""
    rows = [_effort_row(row, table.objective) for row in table.progress.values()]
    there = tuple(row for row in rows if row is not None)
    return EffortView(
        title=table.variant.record.name,
        data=table.variant.data,
        objective=table.objective,
        rows=there,
        left_out=len(rows) - len(there),
        best=None if table.best is None else variant_name(table.best.number),
    )


def _effort_row(row: RowProgress, objective: Objective) -> EffortRow | None:
    curves = [cell.curve(objective) for cell in row.cells]
    common = min(len(curve) for curve in curves)
    score = np.mean([curve[:common] for curve in curves], axis=0)
    epochs = len(curves) * np.arange(1, common + 1)
    there = ~np.isnan(score)  # not each epoch is scored at full resolution
    if not there.any():
        return None
    return EffortRow(variant_name(row.variant), row.status, epochs[there], score[there])


def worst_and_best(variant: Variant, panels: Mapping[int, Panel], each: int = 3) -> Panel | None:
    """The frames of the lowest and the highest mIoU among the kept ones of all folds.

    Args:
        variant: the row.
        panels: of its folds, by their number.
        each: so many of either, fewer where there are not enough.
    """
    rows = sorted(
        (
            replace(row, name=f"{row.name} (fold {fold})")
            for fold, panel in panels.items()
            for row in panel.rows
            if not math.isnan(row.miou)
        ),
        key=lambda row: row.miou,
    )
    if not rows:
        return None
    low = min(each, (len(rows) + 1) // 2)
    chosen = rows[:low] + rows[max(low, len(rows) - each) :]
    return Panel(
        title=f"{variant.title}: the worst and the best of {len(rows)} kept frames",
        data=variant.data,
        rows=tuple(chosen),
        classes=classes_in([ids for row in chosen for ids in (row.target, row.prediction)]),
    )
