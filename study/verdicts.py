"""Tables of evidence for people: intervals of a row, and its comparison with the others."""

import math
from collections.abc import Sequence
from typing import Final

import pandas as pd

from cityseg.labels import CLASS_NAMES
from study.analysis import FoldTable
from study.bootstrap import Estimate, Unit
from study.cautions import of_folds, of_frames, of_tests
from study.comparison import Comparison
from study.evidence import ComparisonTable, IntervalTable, ScoreEvidence
from study.space import Objective
from study.statistics import Interval
from study.store import variant_name
from study.tables import FOLD_HEADINGS, NO_VALUE, OBJECTIVE_WORDS, decimals, marked, signed

UNIT_WORDS: Final[dict[Unit, str]] = {"cities": "whole cities", "frames": "single frames"}
OTHERS_NAMED: Final = 3
"""Rows beside the best one that a verdict names."""


def headline(
    folds: FoldTable,
    objective: Objective,
    intervals: IntervalTable | None = None,
    compared: ComparisonTable | None = None,
) -> str:
    """What a study says, in one or two sentences, and on which data; to be read before all else.

    Args:
        folds: the row that is shown.
        objective: what the study compares its rows by.
        intervals: of the same row, if all its folds are done.
        compared: the finished rows, of a study of several.
    """
    return f"{_finding(folds, objective, intervals, compared)} Data: {folds.variant.data}."


def _finding(
    folds: FoldTable,
    objective: Objective,
    intervals: IntervalTable | None,
    compared: ComparisonTable | None,
) -> str:
    variant = folds.variant
    if compared and compared.comparisons:
        caution = of_tests(variant.folds, variant.grouping) if _shows(compared) else []
        best, *others = compared.comparisons
        return " ".join([f"{best.verdict}.", *others_shown(others), *caution])
    if intervals is None:
        done = f"{folds.finished} of {len(folds.cells)} folds"
        return f"Nothing can be claimed of {variant.title} yet: {done} are done."
    score = next(score for score in intervals.scores if score.objective == objective)
    ends = (decimals(end) for end in (score.corrected.interval.low, score.corrected.interval.high))
    return (
        f"The {OBJECTIVE_WORDS[objective]} of {variant.title} is {decimals(score.spread.mean)};"
        f" other trainings on such folds would give {' to '.join(ends)} (95 % interval,"
        f" {variant.folds} folds)."
    )


def others_shown(others: Sequence[Comparison]) -> list[str]:
    """Which rows beside the best one are shown to be better than the base row, in words."""
    shown = [one for one in others if one.is_shown and one.difference > 0]
    if not shown:
        return []
    named = [f"{one.row} (by {100 * one.difference:.1f} points)" for one in shown[:OTHERS_NAMED]]
    more = [f"{len(shown) - OTHERS_NAMED} more"] if len(shown) > OTHERS_NAMED else []
    return [f"Also shown to be better than {shown[0].base}: {', '.join([*named, *more])}."]


def _shows(table: ComparisonTable) -> bool:
    return any(one.is_shown for one in table.comparisons)


def interval_numbers(table: IntervalTable) -> pd.DataFrame:
    """Intervals in full precision: for each score one line of the mIoU, then one a class."""
    rows = [row for score in table.scores for row in _interval_rows(score)]
    return marked(pd.DataFrame(rows).astype({"folds": "Int64"}), table.variant)


def _interval_rows(score: ScoreEvidence) -> list[dict[str, object]]:
    estimates, corrected = score.estimates, score.corrected
    first = {"objective": score.objective, "class": "mIoU"}
    first |= {"std_population": score.spread.std, "std_sample": corrected.std}
    first |= _ends("t", corrected.interval)
    first |= _estimates(estimates.mean_of_folds, estimates.pooled)
    rows = [first]
    for name, one, mean, pooled in zip(
        CLASS_NAMES, score.classes, estimates.class_mean, estimates.class_pooled, strict=True
    ):
        row = {"objective": score.objective, "class": name, "std_sample": one.std}
        row |= _estimates(mean, pooled)
        row |= {"precision": one.precision, "recall": one.recall, "share": one.share}
        rows.append(row | {"folds": one.folds, "gain_at_median": one.gain})
    return [row | {"drawn": estimates.unit, "units": estimates.units} for row in rows]


def _estimates(mean: Estimate, pooled: Estimate) -> dict[str, object]:
    numbers: dict[str, object] = {}
    for name, one in (("mean", mean), ("pooled", pooled)):
        numbers |= {name: one.value, f"{name}_std_error": one.std_error}
        numbers |= _ends(f"{name}_student", one.student)
        numbers[f"{name}_freedom"] = one.freedom
        numbers |= _ends(f"{name}_percentile", one.percentile)
        numbers |= _ends(f"{name}_bca", one.bca)
        numbers[f"{name}_replicates"] = one.replicates
    return numbers


def _ends(name: str, interval: Interval) -> dict[str, object]:
    return {f"{name}_low": interval.low, f"{name}_high": interval.high}


def interval_text(table: IntervalTable) -> pd.DataFrame:
    """Intervals as printed: a column a score, as in Table 1."""
    drawn = table.scores[0].estimates.unit.capitalize()
    names = [
        "Mean", "Std", "Sample std", "Folds: 95 % from", "Folds: 95 % to",
        f"{drawn}: 95 % from", f"{drawn}: 95 % to", "Pooled",
    ]  # fmt: skip
    columns = {"Statistic": names}
    for score in table.scores:
        columns[FOLD_HEADINGS[score.objective]] = [decimals(v) for v in _interval_column(score)]
    return pd.DataFrame(columns)


def _interval_column(score: ScoreEvidence) -> list[float]:
    corrected, drawn = score.corrected, score.estimates.mean_of_folds.interval
    return [
        score.spread.mean, score.spread.std, corrected.std,
        corrected.interval.low, corrected.interval.high, drawn.low, drawn.high,
        score.estimates.pooled.value,
    ]  # fmt: skip


def interval_caption(table: IntervalTable) -> str:
    """What must be known to read the intervals."""
    variant, estimates = table.variant, table.scores[0].estimates
    words = [
        f"Study {variant.title}: how far the mIoU of {variant.folds} folds by {variant.grouping}"
        f" on {variant.data} can be believed.",
        "Std is the population one (ddof = 0), Sample std has ddof = 1.",
        "Folds: 95 % interval of the mean for other trainings, by the corrected t test of Nadeau"
        " and Bengio (2003).",
        f"{estimates.unit.capitalize()}: 95 % interval of the mean for these networks on other"
        f" frames, by a bootstrap of {UNIT_WORDS[estimates.unit]} ({estimates.units}) with"
        " Student's t.",
        *of_folds(variant.folds, variant.grouping),
        *few_cities(table),
        *missed(table),
        "Pooled: mIoU of the counts summed over the folds.",
    ]
    return " ".join(words)


def few_cities(table: IntervalTable) -> list[str]:
    """A warning where frames were drawn because there are too few cities; else nothing."""
    if table.scores[0].estimates.unit == "cities":
        return []
    return [
        f"The frames are of {table.cities} {'city' if table.cities == 1 else 'cities'}, too few in"
        " the folds to draw whole ones; frames of a city are alike, so intervals over frames are"
        " too narrow.",
        *of_frames(table.variant.folds, table.variant.grouping),
    ]


def missed(table: IntervalTable) -> list[str]:
    """A warning where a class is so rare that the bootstrap's scores are of other classes."""
    if all(
        one.percentile.low <= one.value <= one.percentile.high or math.isnan(one.percentile.low)
        for one in (score.estimates.mean_of_folds for score in table.scores)
    ):
        return []
    drawn = table.scores[0].estimates.unit
    return [
        f"An interval over {drawn} misses its mean: a class stands in so few that many draws are"
        " without it, and do not count it; that interval is not to be relied on."
    ]


def comparison_numbers(table: ComparisonTable) -> pd.DataFrame:
    """Comparisons in full precision: one line a row, the best first, with its verdict."""
    rows = [_comparison_numbers(one, table) for one in table.comparisons]
    return marked(pd.DataFrame(rows), table.rows.variant)


def _comparison_numbers(one: Comparison, table: ComparisonTable) -> dict[str, object]:
    numbers: dict[str, object] = {"row": one.row, "base": one.base}
    numbers |= {"objective": table.rows.objective, "difference": one.difference}
    numbers |= _ends("t", one.by_fold.interval)
    numbers |= _ends("student", one.by_unit.student)
    numbers |= _ends("percentile", one.by_unit.percentile)
    numbers |= _ends("bca", one.by_unit.bca)
    return numbers | {
        "drawn": one.unit,
        "t_p": one.by_fold.p_value,
        "bootstrap_p": one.unit_p_value,
        "p": one.p_value,
        "p_holm": one.adjusted,
        "bootstrap_p_holm": one.unit_adjusted,
        "detectable": one.detectable,
        "shown": one.is_shown,
        "chosen_share": table.selection.chosen[one.row],
        "verdict": one.verdict,
    }


def comparison_text(table: ComparisonTable, most: int | None = None) -> pd.DataFrame:
    """Comparisons as printed, or the first of them."""
    rows = table.comparisons[:most]
    return pd.DataFrame(
        {
            "Row": [one.row for one in rows],
            "To base": [signed(one.difference) for one in rows],
            "95 % from": [signed(one.interval.low) for one in rows],
            "95 % to": [signed(one.interval.high) for one in rows],
            "p": [p_text(one.p_value) for one in rows],
            "p (Holm)": [p_text(one.adjusted) for one in rows],
            "Detectable": [decimals(one.detectable) for one in rows],
        }
    )


def p_text(value: float) -> str:
    """Three decimals; a dash for NaN."""
    if math.isnan(value):
        return NO_VALUE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _rows(count: int) -> str:
    return f"{count} {'row' if count == 1 else 'rows'}"


def comparison_caption(
    table: ComparisonTable, most: int | None = None, verdict: bool = True
) -> str:
    """What must be known to read the comparisons; the verdict first, unless it stands elsewhere."""
    variant, rows = table.rows.variant, table.rows
    drawn = UNIT_WORDS[table.selection.unit]
    words = [
        *([f"{table.comparisons[0].verdict}."] if verdict else []),
        f"Study {variant.title}: finished rows against {variant_name(0)} by {rows.objective}, the"
        f" {OBJECTIVE_WORDS[rows.objective]}, paired on the same frames and {variant.folds} folds"
        f" by {variant.grouping} on {variant.data}.",
        "p is the larger, and the interval the wider, of the corrected t test over folds (Nadeau"
        f" and Bengio 2003) and a paired bootstrap of {drawn}; p (Holm) is adjusted for"
        f" {_rows(table.comparisons[0].compared)}.",
        *of_tests(variant.folds, variant.grouping),
        "Detectable: the smallest true difference that a study such as this would show in 80 of"
        " 100 cases at 5 %, of one row alone.",
    ]
    if most is not None and len(table.comparisons) > most:
        words.append(f"{len(table.comparisons) - most} more rows are in the files.")
    return " ".join(words)
