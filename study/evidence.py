"""What a study's counts allow to be claimed: intervals of a row, and rows against each other.

The counts of the out-of-fold frames come from `study.counts`; what is made of them is computed in
`study.statistics`, `study.bootstrap` and `study.comparison`.
"""

from dataclasses import dataclass

from study.analysis import Spread, Variant, VariantTable, spread_of_all, variant_counts
from study.bootstrap import Resampling, ScoreEstimates, estimate_scores, resample, widest_unit
from study.comparison import (
    Comparison,
    Selection,
    compare,
    correct_selection,
    replicate,
)
from study.counts import OBJECTIVES, OutOfFold
from study.space import Objective
from study.statistics import ClassStatistics, CorrectedMean, class_statistics, corrected_mean
from study.store import variant_name
from study.tally import Layout, miou


@dataclass(frozen=True, eq=False)
class ScoreEvidence:
    """One of a row's four scores, in mIoU (0-1)."""

    objective: Objective
    spread: Spread
    """Mean of the folds, and population std as in the paper."""
    corrected: CorrectedMean
    """The same mean with its sample std and the interval over trainings."""
    estimates: ScoreEstimates
    """Over frames or cities, for these networks."""
    classes: tuple[ClassStatistics, ...]


@dataclass(frozen=True, eq=False)
class IntervalTable:
    """How far a row's scores can be believed."""

    variant: Variant
    scores: tuple[ScoreEvidence, ...]
    """In the order of Table 1."""
    cities: int
    """That the frames are of."""
    test_train_ratio: float
    """Frames scored over frames trained on, mean of the folds."""


@dataclass(frozen=True, eq=False)
class ComparisonTable:
    """The finished rows of a study against its base row."""

    rows: VariantTable
    comparisons: tuple[Comparison, ...]
    """The best row first; none unless the base row is done."""
    selection: Selection
    """The best row's score, freed of having been chosen by it."""


def interval_table(variant: Variant) -> IntervalTable | None:
    """Intervals of all scores of a row; None unless all its folds are done.

    Raises:
        InputError: one of the cells' files is damaged.
    """
    counts = variant_counts(variant)
    if counts is None:
        return None
    tallies = counts.tallies
    draws = _draws(tallies["best_full"].layout, variant)
    return IntervalTable(
        variant,
        tuple(_score(name, counts, draws) for name in OBJECTIVES),
        cities=draws.layout.cities,
        test_train_ratio=draws.layout.test_train_ratio,
    )


def _draws(layout: Layout, variant: Variant) -> Resampling:
    return resample(layout, widest_unit(layout), seed=variant.record.config.seed)


def _score(name: Objective, counts: OutOfFold, draws: Resampling) -> ScoreEvidence:
    there = counts.tallies[name]
    scores = miou(there.totals)
    return ScoreEvidence(
        name,
        spread_of_all(scores),
        corrected_mean(scores, there.layout.test_train_ratio),
        estimate_scores(there, draws),
        class_statistics(counts.confusion[name]),
    )


def comparison_table(table: VariantTable) -> ComparisonTable | None:
    """The finished rows, by the study's objective; None for fewer than two.

    Raises:
        InputError: rows are not of the same frames.
    """
    done = [row.number for row in table.rows if row.number in table.tallies]
    if len(done) < 2:
        return None
    rows = {variant_name(number): table.tallies[number] for number in done}
    draws = _draws(next(iter(rows.values())).layout, table.variant)
    base = variant_name(0)
    replicates = replicate(rows, draws)
    comparisons = compare(rows, base, draws, replicates) if base in rows else ()
    return ComparisonTable(table, comparisons, correct_selection(rows, draws, replicates))
