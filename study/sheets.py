"""Tables for people of classes, gaps, effort, importance, and of several studies side by side."""

import math
from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd
from rich.console import Console

from cityseg.labels import CLASS_NAMES
from study.analysis import VariantTable, spread
from study.cautions import of_folds, of_tests
from study.classes import ClassScores
from study.counts import OBJECTIVES
from study.effort import together
from study.gaps import GapTable
from study.importance import Importance
from study.several import SideBySide, Standing
from study.statistics import UNKNOWN
from study.store import variant_name
from study.tables import (
    FOLD_HEADINGS,
    NO_VALUE,
    OBJECTIVE_WORDS,
    WIDE_CHARS,
    decimals,
    marked,
    show,
    signed,
)
from study.verdicts import UNIT_WORDS, p_text


def class_numbers(classes: Sequence[ClassScores]) -> pd.DataFrame:
    """What stands beside the IoU by fold, in full precision: one line for each score and class."""
    return pd.concat([_class_numbers(one) for one in classes], ignore_index=True)


def _class_numbers(classes: ClassScores) -> pd.DataFrame:
    numbers = pd.DataFrame([asdict(one) for one in classes.statistics])
    numbers = numbers.drop(columns="iou").rename(columns={
        "std": "sample_std", "pooled_iou": "pooled", "folds": "labelled_folds",
        "gain": "gain_at_median",
    })  # fmt: skip
    numbers["student_low"] = [interval.low for interval in classes.intervals]
    numbers["student_high"] = [interval.high for interval in classes.intervals]
    return numbers.assign(
        drawn=classes.unit, limits=[c in classes.limiting for c in range(len(CLASS_NAMES))]
    )


def class_text(classes: ClassScores) -> pd.DataFrame:
    """Classes as printed."""
    there, intervals, folds = classes.statistics, classes.intervals, len(classes.iou)
    return pd.DataFrame(
        {
            "Class": CLASS_NAMES,
            "IoU": [decimals(one.iou) for one in there],
            "95 % from": [decimals(interval.low) for interval in intervals],
            "95 % to": [decimals(interval.high) for interval in intervals],
            "Precision": [decimals(one.precision) for one in there],
            "Recall": [decimals(one.recall) for one in there],
            "Share": [decimals(one.share) for one in there],
            "Folds": [f"{one.folds}/{folds}" for one in there],
            "Sample std": [decimals(one.std) for one in there],
            "Gain": [decimals(one.gain) for one in there],
        }
    )


def show_classes(console: Console, classes: ClassScores) -> None:
    """Print the classes; on a narrow console the chief columns."""
    text = class_text(classes)
    if console.width < WIDE_CHARS:
        text = text.drop(columns=["Sample std", "Gain"]).rename(columns={"Precision": "Prec."})
    show(console, text, class_caption(classes))


def class_caption(classes: ClassScores) -> str:
    """What must be known to read the table of classes."""
    variant = classes.folds.variant
    choice, resolution = OBJECTIVES[classes.objective]
    drawn = f", by a bootstrap of {UNIT_WORDS[classes.unit]}" if classes.unit else ""
    words = [
        f"Study {variant.title}: classes at {resolution} resolution, {choice} epoch,"
        f" {variant.folds} folds by {variant.grouping} on {variant.data}.",
        f"IoU: mean over the folds that have the class, with its 95 % interval for these networks"
        f" on other frames{drawn}." if drawn else
        "IoU: mean over the folds that have the class; its interval needs all folds.",
        "Precision, recall and the share of labelled pixels are pooled over the folds; Folds: in"
        " whose labels the class occurs.",
        f"{NO_VALUE}: neither in labels nor in predictions, and left out of the mean (the official"
        " rule).",
        *limits(classes),
    ]  # fmt: skip
    return " ".join(words)


def limits(classes: ClassScores) -> list[str]:
    """Which classes hold the mean down, in words."""
    names = [f"{CLASS_NAMES[c]} ({signed(classes.statistics[c].gain)})" for c in classes.limiting]
    if not names:
        return []
    return [
        "The mean would gain most if these reached the median of the classes (Gain):"
        f" {', '.join(names)}."
    ]


def gap_numbers(table: GapTable) -> pd.DataFrame:
    """Gaps in full precision."""
    rows = [
        {
            "first": gap.first,
            "second": gap.second,
            "first_mean": gap.first_mean,
            "second_mean": gap.second_mean,
            "difference": gap.difference.mean,
            "sample_std": gap.difference.std,
            "t_low": gap.difference.interval.low,
            "t_high": gap.difference.interval.high,
        }
        for gap in table.all
    ]
    return marked(pd.DataFrame(rows), table.folds.variant)


def gap_text(table: GapTable) -> pd.DataFrame:
    """Gaps as printed."""
    gaps = table.all
    return pd.DataFrame(
        {
            "Gap": [f"{gap.first} / {gap.second}" for gap in gaps],
            "First": [decimals(gap.first_mean) for gap in gaps],
            "Second": [decimals(gap.second_mean) for gap in gaps],
            "Differ by": [signed(gap.difference.mean) for gap in gaps],
            "95 % from": [signed(gap.difference.interval.low) for gap in gaps],
            "95 % to": [signed(gap.difference.interval.high) for gap in gaps],
        }
    )


def gap_caption(table: GapTable) -> str:
    """What must be known to read the gaps."""
    variant = table.folds.variant
    words = [
        f"Study {variant.title}: mIoU, and loss in nats a pixel, mean of {variant.folds} folds by"
        f" {variant.grouping} on {variant.data}; intervals for other trainings by the corrected t"
        " test, fold by fold.",
        "Best over last epoch is what picking the epoch on the scored fold adds: flattery and a"
        " better network together.",
        "The training loss is of augmented samples while the network learns from them, the"
        " validation loss of plain frames after the epoch: the gap between them may be below 0.",
    ]
    return " ".join(words)


def effort_numbers(table: VariantTable) -> pd.DataFrame:
    """What the rows have cost, in full precision, by their number."""
    rows = [
        {
            "row": variant_name(row.number),
            "status": row.status,
            "epochs": row.effort.epochs,
            "train_hours": row.effort.train_s / 3600,
            "val_hours": row.effort.val_s / 3600,
            "device": table.device.kind,
            "device_hours": row.effort.device_hours,
            "images_per_s": row.effort.images_per_s,
            f"{table.objective}_mean": row.spread(table.objective).mean,
        }
        for row in sorted(table.rows, key=lambda row: row.number)
    ]
    return marked(pd.DataFrame(rows), table.variant)


def effort_text(table: VariantTable, most: int | None = None) -> pd.DataFrame:
    """What the rows have cost as printed, or the first of them, and all together."""
    rows = sorted(table.rows, key=lambda row: row.number)
    efforts = {variant_name(row.number): row.effort for row in rows[:most]}
    if len(rows) > 1:
        efforts["all"] = together(row.effort for row in rows)
    there = efforts.values()
    return pd.DataFrame(
        {
            "Row": list(efforts),
            "Epochs": [str(one.epochs) for one in there],
            "Training h": [_hours(one.train_s / 3600) for one in there],
            "Scoring h": [_hours(one.val_s / 3600) for one in there],
            f"{table.device.kind} h": [_hours(one.device_hours) for one in there],
            "Images/s": [_rate(one.images_per_s) for one in there],
        }
    )


def _hours(hours: float) -> str:
    return f"{hours:.3f}" if hours < 10 else f"{hours:.1f}"


def _rate(images_per_s: float) -> str:
    return NO_VALUE if math.isnan(images_per_s) else f"{images_per_s:.1f}"


def effort_caption(table: VariantTable, most: int | None = None) -> str:
    """What must be known to read the effort."""
    variant, device = table.variant, table.device
    share = f"{device.per_cell:g} {device.kind}{'s' if device.per_cell > 1 else ''}"
    words = [
        f"Study {variant.record.name}: time of all finished epochs on {variant.data}, summed over"
        f" {variant.folds} folds; {share} a training. Images/s: training samples a second.",
    ]
    if most is not None and len(table.rows) > most:
        words.append(f"{len(table.rows) - most} more rows are in the files.")
    return " ".join(words)


def importance_numbers(importance: Importance, table: VariantTable) -> pd.DataFrame:
    """Importance in full precision: one line a setting."""
    rows = [
        {
            "setting": key,
            "fanova": share,
            "ped_anova": importance.top_shares.get(key, math.nan),
            "rows": importance.rows,
            "predicted": importance.predicted,
            "warning": importance.warning,
        }
        for key, share in importance.shares.items()
    ]
    return marked(pd.DataFrame(rows), table.variant)


def importance_text(importance: Importance) -> pd.DataFrame:
    """Importance as printed."""
    top = importance.top_shares
    return pd.DataFrame(
        {
            "Setting": list(importance.shares),
            "fANOVA": [_share(share) for share in importance.shares.values()],
            "PED-ANOVA": [_share(top.get(key, math.nan)) for key in importance.shares],
        }
    )


def _share(share: float) -> str:
    return NO_VALUE if math.isnan(share) else f"{share:.2f}"


def importance_caption(importance: Importance, table: VariantTable) -> str:
    """What must be known to read the importance; what speaks against it first."""
    variant = table.variant
    sure = NO_VALUE if math.isnan(importance.predicted) else f"{importance.predicted:.2f}"
    pruned = sum(row.status == "pruned" for row in table.rows)
    words = [
        *([importance.warning] if importance.warning else []),
        f"Study {variant.record.name}: importance of settings for {table.objective}, over"
        f" {importance.rows} finished rows on {variant.data}.",
        *([f"The {pruned} pruned rows, most of them bad, are not in it."] if pruned else []),
        "fANOVA: share of the score's variance over the space that a setting explains alone; its"
        f" forest predicts {sure} of the variance of rows that it has not seen.",
        "PED-ANOVA: share in what tells the best tenth of the rows from all; it takes 50 rows.",
    ]
    return " ".join(words)


def side_numbers(table: SideBySide) -> pd.DataFrame:
    """Several studies in full precision: one line each, with the verdict against the first."""
    return pd.DataFrame([_side_numbers(one, table) for one in table.standings])


def _side_numbers(one: Standing, table: SideBySide) -> dict[str, object]:
    variant = one.contender.variant
    numbers: dict[str, object] = {
        "name": one.name,
        "row": variant_name(variant.number),
        "chosen_of": one.contender.chosen_of,
        "folds": variant.folds,
        "grouping": variant.grouping,
        "objective": table.objective,
    }
    for objective in OBJECTIVE_WORDS:
        there = spread(one.folds.miou(*OBJECTIVES[objective]))
        numbers |= {f"{objective}_mean": there.mean, f"{objective}_std": there.std}
    interval = one.corrected.interval if one.corrected else UNKNOWN
    numbers |= {"t_low": interval.low, "t_high": interval.high}
    if compared := table.comparison(one.name):
        numbers |= {
            "to_first": compared.difference,
            "to_first_low": compared.interval.low,
            "to_first_high": compared.interval.high,
            "p": compared.p_value,
            "p_holm": compared.adjusted,
            "detectable": compared.detectable,
            "verdict": compared.verdict,
        }
    return numbers | {"study": variant.title, "data": variant.data}


def side_text(table: SideBySide) -> pd.DataFrame:
    """Several studies as printed."""
    rows, column = table.standings, OBJECTIVES[table.objective]
    spreads = [spread(one.folds.miou(*column)) for one in rows]
    intervals = [one.corrected.interval if one.corrected else UNKNOWN for one in rows]
    compared = [table.comparison(one.name) for one in rows]
    return pd.DataFrame(
        {
            "Row": [one.name for one in rows],
            "Folds": [f"{one.folds.finished}/{len(one.folds.cells)}" for one in rows],
            FOLD_HEADINGS[table.objective]: [decimals(one.mean) for one in spreads],
            "Std": [decimals(one.std) for one in spreads],
            "95 % from": [decimals(interval.low) for interval in intervals],
            "95 % to": [decimals(interval.high) for interval in intervals],
            "To first": [signed(one.difference) if one else NO_VALUE for one in compared],
            "p (Holm)": [p_text(one.adjusted) if one else NO_VALUE for one in compared],
        }
    )


def side_verdicts(table: SideBySide) -> list[str]:
    """What the comparisons with the first row say, and why others are not compared."""
    verdicts = [f"{one.verdict}." for one in table.comparisons]
    return verdicts + [f"{reason}." for reason in table.refused]


def show_side(console: Console, table: SideBySide) -> None:
    """Print studies side by side; on a narrow console the chief columns."""
    text = side_text(table)
    show(
        console,
        text if console.width >= WIDE_CHARS else text.drop(columns="Std"),
        side_caption(table),
    )


def side_caption(table: SideBySide) -> str:
    """What must be known to read studies side by side."""
    words = [
        f"By {table.objective}, the {OBJECTIVE_WORDS[table.objective]}: mean and population std"
        " over the folds that are done, and the 95 % interval for other trainings by the corrected"
        " t test.",
        *_chosen(table),
        *dict.fromkeys(_data_words(one) for one in table.standings),
        *_side_cautions(table),
    ]
    return " ".join(words)


def _side_cautions(table: SideBySide) -> list[str]:
    """What of it is not to be taken at its word; pairs are all of the first one's folds."""
    variants = [one.contender.variant for one in table.standings]
    words = [word for one in variants for word in of_folds(one.folds, one.grouping)]
    if table.comparisons:
        words += of_tests(variants[0].folds, variants[0].grouping)
    return list(dict.fromkeys(words))


def _chosen(table: SideBySide) -> list[str]:
    rows = [
        f"{one.name} (of {one.contender.chosen_of} rows)"
        for one in table.standings
        if one.contender.chosen_of > 1
    ]
    if not rows:
        return []
    return [
        f"Chosen by score, and so looking better than it is: {', '.join(rows)}; p is adjusted for"
        " all that were chosen from, the difference is not."
    ]


def _data_words(one: Standing) -> str:
    variant = one.contender.variant
    return (
        f"Study {variant.study.folder.resolve().name}: {variant.folds} folds by"
        f" {variant.grouping} on {variant.data}."
    )
