"""Rows of several studies side by side, and paired where they were scored on the same frames.

A pairing is true only if both were trained on the same split of the same data: then the k networks
of the one and of the other saw the same frames and are scored on the same others.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cityseg.errors import InputError
from study.analysis import (
    FoldTable,
    Variant,
    VariantTable,
    fold_table,
    read_variant,
    variant_counts,
    variant_table,
)
from study.bootstrap import resample, widest_unit
from study.comparison import Comparison, compare
from study.lookup import find
from study.space import Objective
from study.statistics import CorrectedMean, corrected_mean, holm
from study.store import Study, variant_name
from study.tally import Tally, miou


@dataclass(frozen=True, eq=False)
class Contender:
    """A row that stands beside those of other studies."""

    variant: Variant
    chosen_of: int
    """Finished rows that it was chosen from as the best by its score; 1 if it was named."""

    @property
    def name(self) -> str:
        """By its study's folder, such as `paper v000`."""
        return f"{self.variant.study.folder.resolve().name} {variant_name(self.variant.number)}"


@dataclass(frozen=True, eq=False)
class Standing:
    """A contender with its scores."""

    contender: Contender
    name: str
    """The contender's, told apart from others of that name."""
    folds: FoldTable
    corrected: CorrectedMean | None
    """Of the objective, with its interval for other trainings; None unless all folds are done."""


@dataclass(frozen=True, eq=False)
class SideBySide:
    """Contenders by one score; the others against the first, where they may be paired with it."""

    objective: Objective
    standings: tuple[Standing, ...]
    comparisons: tuple[Comparison, ...]
    """Of those that can be paired, in their order. Their p-values are adjusted by Holm over all
    pairs that these rows were chosen from: a best row is compared as one of many."""
    refused: tuple[str, ...]
    """Why each of the others cannot: one line a contender."""

    def comparison(self, name: str) -> Comparison | None:
        """Of a standing with the first one."""
        return next((one for one in self.comparisons if one.row == name), None)


def best_contender(study: Study) -> Contender:
    """The best finished row of a study by its own objective, or the base row.

    Raises:
        InputError: one of the study's files is missing or damaged.
    """
    rows = variant_table(study)
    return chosen_contender(rows, rows.open(rows.best.number if rows.best else 0))


def chosen_contender(rows: VariantTable, best: Variant) -> Contender:
    """The best row of a table, where that is open already."""
    return Contender(best, max(1, len(rows.tallies)))


def find_contender(word: str, results: Path, of: str | None = None) -> Contender:
    """A contender by what was typed: `STUDY`, its best row; `STUDY/v003`; or `v003` alone.

    Args:
        word: a study's name or path, with or without a row, or a row.
        results: folder that holds the studies.
        of: study that a row alone is of; by default the one written to last.

    Raises:
        InputError: no such study or row.
    """
    match = re.fullmatch(r"(?:(.+)/)?v(\d{3,})/?", word)
    if match is None:
        return best_contender(find(word, results))
    study = find(match[1] or of, results)
    numbers = [row.variant for row in study.rows()]
    if int(match[2]) not in numbers:
        raise InputError(
            f"{word}", got=f"row {match[2]}",
            expected=f"one of the {len(numbers)} rows of study {study.folder.name}",
        )  # fmt: skip
    return Contender(read_variant(study, int(match[2])), 1)


def refusal(one: Variant, other: Variant, objective: Objective) -> str | None:
    """Why two rows cannot be paired, in words; None if they can."""
    if one.study.folder.samefile(other.study.folder) and one.number == other.number:
        return "they are the same row"
    if one.record.data.fingerprint != other.record.data.fingerprint:
        return (
            f"they are of different data (fingerprints {_short(one.record.data.fingerprint)} and"
            f" {_short(other.record.data.fingerprint)})"
        )
    if one.record.folds_hash != other.record.folds_hash:
        return (
            f"their folds are of different frames ({one.folds} by {one.grouping}, hash"
            f" {_short(one.record.folds_hash)}; {other.folds} by {other.grouping}, hash"
            f" {_short(other.record.folds_hash)})"
        )
    sizes = [variant.config.data.input_size for variant in (one, other)]
    if objective.endswith("_low") and sizes[0] != sizes[1]:
        return "low-res scores of different input sizes are against different labels"
    for variant in (one, other):
        missing = [cell for cell in range(1, variant.folds + 1)
                   if variant.cell(cell).status() != "done"]  # fmt: skip
        if missing:
            return f"{variant.title} has {len(missing)} of {variant.folds} folds without a score"
    return None


def _short(fingerprint: str) -> str:
    return fingerprint[:8]


def check_pair(one: Contender, other: Contender, objective: Objective) -> None:
    """Refuse a pairing that would be false.

    Raises:
        InputError: with the reason.
    """
    if reason := refusal(one.variant, other.variant, objective):
        raise InputError(f"{one.name} and {other.name} cannot be paired: {reason}")


def side_by_side(contenders: Sequence[Contender], objective: Objective) -> SideBySide:
    """Scores of the contenders, and the comparisons with the first one that are true.

    Raises:
        InputError: one of the files is damaged.
    """
    first, *others = contenders
    names = _names(contenders)
    reasons = [refusal(one.variant, first.variant, objective) for one in others]
    tallies = [_tally(one.variant, objective) for one in contenders]
    standings = tuple(map(_standing, contenders, names, tallies))
    paired = {
        name: there
        for name, there, reason in zip(names, tallies, (None, *reasons), strict=True)
        if there is not None and reason is None
    }
    return SideBySide(
        objective=objective,
        standings=standings,
        comparisons=_adjusted(
            _compare(paired, names[0], first.variant.record.config.seed),
            {
                name: first.chosen_of * one.chosen_of
                for name, one in zip(names, contenders, strict=True)
            },
        ),
        refused=tuple(
            f"{name} is not paired with {names[0]}: {reason}"
            for name, reason in zip(names[1:], reasons, strict=True)
            if reason
        ),
    )


def _names(contenders: Sequence[Contender]) -> list[str]:
    """Each one's own; with the folder where several are called the same."""
    names = [one.name for one in contenders]
    return [
        name if names.count(name) == 1 else f"{name} of {one.variant.study.folder.resolve()}"
        for name, one in zip(names, contenders, strict=True)
    ]


def _tally(variant: Variant, objective: Objective) -> Tally | None:
    counts = variant_counts(variant, [objective])
    return counts.tallies[objective] if counts else None


def _standing(contender: Contender, name: str, tally: Tally | None) -> Standing:
    corrected = None
    if tally is not None:
        corrected = corrected_mean(miou(tally.totals), tally.layout.test_train_ratio)
    return Standing(contender, name, fold_table(contender.variant), corrected)


def _compare(rows: dict[str, Tally], base: str, seed: int) -> tuple[Comparison, ...]:
    if len(rows) < 2 or base not in rows:
        return ()
    layout = rows[base].layout
    return compare(rows, base, resample(layout, widest_unit(layout), seed=seed))


def _adjusted(
    comparisons: Sequence[Comparison], pairs: Mapping[str, int]
) -> tuple[Comparison, ...]:
    """With the p of a row that was chosen from many multiplied by them (Bonferroni), then Holm.

    Args:
        comparisons: of contenders with the first one.
        pairs: for each contender's name, how many rows it and the first were chosen from, times
            each other.
    """
    factors = np.array([pairs[one.row] for one in comparisons], np.int64)
    p_values = np.array([one.p_value for one in comparisons])
    unit_p_values = np.array([one.unit_p_value for one in comparisons])
    adjusted = holm(list(np.minimum(p_values * factors, 1)))
    unit_adjusted = holm(list(np.minimum(unit_p_values * factors, 1)))
    count = int(factors[~np.isnan(p_values)].sum())
    return tuple(
        replace(one, adjusted=float(p), unit_adjusted=float(unit_p), compared=count)
        for one, p, unit_p in zip(comparisons, adjusted, unit_adjusted, strict=True)
    )
